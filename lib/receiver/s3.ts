// A bucket of an S3-compatible store, through Bun.S3Client. All that is S3's own is here.
//
// What was found out about Bun 1.4: the writer of a file completes its upload even where it is ended with an error. A stream that fails
// aborts it (AbortMultipartUpload), and nothing is seen under the key. Requests have no limit but five minutes without a byte.

import { Refusal } from "../refusal.ts";
import { type S3Access, credentialsOf } from "./s3-settings.ts";

/** An object. `key` lacks the prefix. */
export interface S3Object {
  key: string;
  size: number;
  /** Milliseconds since 1970. */
  modifiedAt: number;
}

/** S3's parts have 5 MiB at least, and an object 10,000 of them at most. */
const PART_BYTES = 5 << 20;
const MOST_PARTS = 10_000;
/** So many parts are sent at once; each is in memory. */
const PARTS_AT_ONCE = 2;
/** A request that takes longer has failed, in milliseconds. */
const LIMIT_MS = 30_000;
/** The same for the last parts and their assembly, which may take minutes. */
const ASSEMBLY_MS = 240_000;

/** A bucket, or what is below a prefix in it. Its errors are `Refusal` 503. */
export class Bucket {
  #client: Bun.S3Client;
  #prefix: string;
  #partSize: number;

  /**
   * @param largest the largest object that is to be stored, in bytes.
   * @throws ConfigError without credentials.
   */
  constructor(place: string, settings: S3Access, largest: number) {
    const { host, pathname } = new URL(place);
    const { env } = process;
    const endpoint = settings.endpoint ?? (env["S3_ENDPOINT"] || env["AWS_ENDPOINT_URL"]);
    const region = settings.region ?? (env["AWS_REGION"] || env["S3_REGION"] || "us-east-1");
    this.#client = new Bun.S3Client({
      bucket: host,
      region,
      ...credentialsOf(settings),
      ...(endpoint ? { endpoint } : {}),
    });
    const prefix = decodeURIComponent(pathname).replaceAll(/^\/+|\/+$/g, "");
    this.#prefix = prefix === "" ? "" : `${prefix}/`;
    this.#partSize = Math.max(PART_BYTES, Math.ceil(largest / MOST_PARTS));
  }

  /** Begins an object. It is seen once `end` resolves, and never after `abort`. */
  upload(key: string, type: string): { write(chunk: Uint8Array): Promise<void>; end(): Promise<void>; abort(): void } {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const writer = writable.getWriter();
    const options = { type, partSize: this.#partSize, queueSize: PARTS_AT_ONCE };
    // Bun takes a stream, which its types lack.
    const sending = this.#client.write(this.#prefix + key, readable as unknown as Blob, options);
    const abort = (why: unknown): void => void writer.abort(why).catch(() => {});
    sending.catch(abort);
    // A write that fails says nothing of the reason.
    const ended = async (): Promise<never> => {
      await sending;
      throw new Error("the upload ended early");
    };
    return {
      write: (chunk) => within(LIMIT_MS, writer.write(chunk).catch(ended)),
      async end() {
        await within(ASSEMBLY_MS, Promise.all([writer.close(), sending]));
      },
      abort: () => abort(new Error("the upload was given up")),
    };
  }

  /** What is stored under a key; null where nothing is. */
  async stat(key: string): Promise<S3Object | null> {
    try {
      const { size, lastModified } = await within(LIMIT_MS, this.file(key).stat());
      return { key, size, modifiedAt: lastModified.getTime() };
    } catch (error) {
      if (codeOf((error as Error).cause) === "NoSuchKey") return null;
      throw error;
    }
  }

  /** The bytes. A response needs their stream: with the file itself Bun would answer a redirect. */
  file(key: string): Bun.S3File {
    return this.#client.file(this.#prefix + key);
  }

  /** Removes an object; one that is missing counts as removed. */
  async remove(key: string): Promise<void> {
    await within(LIMIT_MS, this.file(key).delete());
  }

  /** All objects, in pages of a thousand at most. */
  async *list(): AsyncGenerator<S3Object[], void, void> {
    let token: string | undefined;
    do {
      const wanted = { prefix: this.#prefix, ...(token === undefined ? {} : { continuationToken: token }) };
      const page = await within(LIMIT_MS, this.#client.list(wanted));
      yield (page.contents ?? []).map(({ key, size = 0, lastModified = "" }) => ({
        key: key.slice(this.#prefix.length),
        size,
        modifiedAt: Date.parse(lastModified),
      }));
      token = page.isTruncated ? page.nextContinuationToken : undefined;
    } while (token !== undefined);
  }
}

function codeOf(error: unknown): string {
  return (error as { code?: string } | undefined)?.code ?? "";
}

/** Waits so many milliseconds at most. @throws Refusal 503 in place of all errors: the request is to be sent again later. */
async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer for ${ms / 1000} s`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } catch (error) {
    const what = `the bucket of the episodes can't be used: ${codeOf(error) || (error as Error).message}`;
    const refusal = new Refusal(503, "bucket", what, { headers: { "retry-after": "10" }, log: { error } });
    refusal.cause = error;
    throw refusal;
  } finally {
    clearTimeout(timer);
  }
}
