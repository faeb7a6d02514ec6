// An S3 server for tests: npm's s3rver, with its objects in a temporary folder. It knows no AbortMultipartUpload, which it answers with 405.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT, freePort, until } from "./kit.ts";

const BUCKET = "picket";
const KEY = "S3RVER";

/** A server on loopback with one bucket. */
export class S3 implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "picket-test-s3-"));
  readonly port = freePort();
  readonly endpoint = `http://127.0.0.1:${this.port}`;
  /** What a process needs to use it. */
  readonly env = { S3_ENDPOINT: this.endpoint, AWS_ACCESS_KEY_ID: KEY, AWS_SECRET_ACCESS_KEY: KEY };
  #process: Bun.Subprocess | null = null;

  static async start(): Promise<S3> {
    const server = new S3();
    await server.up();
    return server;
  }

  /** A place in it that nothing else uses. */
  place(): string {
    return `s3://${BUCKET}/${crypto.randomUUID()}`;
  }

  /** Looks at it, past Picket. */
  get client(): Bun.S3Client {
    const { endpoint } = this;
    return new Bun.S3Client({ endpoint, bucket: BUCKET, accessKeyId: KEY, secretAccessKey: KEY });
  }

  /** Where the objects of a place lie as files, `KEY._S3rver_object`. */
  folderOf(place: string): string {
    return join(this.folder, BUCKET, new URL(place).pathname);
  }

  /** The keys below a place, without it. */
  async keys(place: string): Promise<string[]> {
    const prefix = `${new URL(place).pathname.slice(1)}/`;
    const { contents = [] } = await this.client.list({ prefix });
    return contents.map(({ key }) => key.slice(prefix.length)).toSorted();
  }

  /** Its process, which may be frozen. */
  get pid(): number {
    return this.#process!.pid;
  }

  /** Starts it, also after `down`. */
  async up(): Promise<void> {
    const options = ["-d", this.folder, "-a", "127.0.0.1", "-p", String(this.port), "-s", "--configure-bucket", BUCKET];
    this.#process = Bun.spawn([process.execPath, join(ROOT, "node_modules/s3rver/bin/s3rver.js"), ...options], {
      stdout: "ignore",
      stderr: "ignore",
    });
    // Any answer: a list of some thousand objects takes it long.
    await until("s3rver answers", () => {
      if (this.#process?.exitCode) throw new Error("s3rver has ended: is it installed? bun install");
      return fetch(this.endpoint).then(Boolean, () => false);
    });
  }

  /** Kills it. */
  async down(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.exited;
    this.#process = null;
  }

  /** Ends it at once, for a process that ends. */
  end(): void {
    this.#process?.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
