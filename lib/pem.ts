// Certificates and keys in PEM files, of a server or a client: read together, and checked before a connection would fail on them.

import { X509Certificate, createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";

/** Texts, or the paths of their files. */
export interface Pem {
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
}

/** The texts of files, as `tls` options. @throws Error when one isn't what it should be. */
export function readPem(files: Pem): Pem {
  const { pem, wrong } = judgePem(files);
  if (wrong[0]) throw new Error(wrong[0].text);
  return pem;
}

/** The same, and which files are not what they should be. */
export function judgePem(files: Pem): { pem: Pem; wrong: { name: keyof Pem; text: string }[] } {
  const pem: Pem = {};
  const wrong: { name: keyof Pem; text: string }[] = [];
  const parse = <T>(name: keyof Pem, what: string, parser: (text: string) => T): T | null => {
    const file = files[name];
    if (file === undefined) return null;
    try {
      return parser((pem[name] = readFileSync(file, "utf8")));
    } catch (error) {
      const why =
        pem[name] === undefined ? `can't be read: ${(error as Error).message}` : `is not ${what} in PEM format`;
      wrong.push({ name, text: `"${file}" ${why}` });
      return null;
    }
  };
  parse("ca", "a certificate", (text) => new X509Certificate(text));
  const cert = parse("cert", "a certificate", (text) => new X509Certificate(text));
  const key = parse("key", "a private key", createPrivateKey);
  if (cert && key && !cert.checkPrivateKey(key)) {
    wrong.push({ name: "key", text: `"${files.key}" is not the key of "${files.cert}"` });
  }
  return { pem, wrong };
}
