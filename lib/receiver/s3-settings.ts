// How a bucket of an S3-compatible store is reached, as the configuration and the environment say it.

import * as v from "valibot";
import { ConfigError, httpUrl, secret } from "../config.ts";
import type { Secret } from "../secret.ts";

const NO_CREDENTIALS =
  "s3: the bucket needs credentials: set s3.credentials_file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment";

/** What is absent comes from the environment, by the names that Amazon's tools use. */
export const S3Settings = v.strictObject({
  /** Default: Amazon's, for the region. */
  endpoint: v.optional(httpUrl()),
  region: v.optional(v.string()),
  /** As Amazon's tools have it in ~/.aws/credentials. */
  ...secret("credentials"),
});

/** The settings as they are used. */
export interface S3Access {
  endpoint?: string | undefined;
  region?: string | undefined;
  credentials?: readonly Secret[];
}

/** Whether a place is a bucket: s3://BUCKET or s3://BUCKET/PREFIX. */
export const isS3 = (place: string): boolean => /^s3:\/\/[^/]/.test(place);

/** The credentials. @throws ConfigError where they are missing: `--check` can't tell, since a unit has an environment of its own. */
export function credentialsOf({ credentials = [] }: S3Access): Bun.S3Options {
  const given = credentials[0]?.reveal();
  const from = (name: string): string | undefined =>
    given === undefined
      ? process.env[name] || process.env[name.replace("AWS_", "S3_")]
      : new RegExp(`^\\s*${name}\\s*=\\s*(\\S+)`, "im").exec(given)?.[1];
  const accessKeyId = from("AWS_ACCESS_KEY_ID");
  const secretAccessKey = from("AWS_SECRET_ACCESS_KEY");
  const sessionToken = from("AWS_SESSION_TOKEN");
  if (!accessKeyId || !secretAccessKey) throw new ConfigError([NO_CREDENTIALS]);
  return { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) };
}
