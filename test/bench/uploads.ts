// MB/s of one large upload, against nginx's WebDAV PUT and @tus/server.
//   bun test/bench/uploads.ts
// @tus/server is installed into the measurement's own folder; where that can't be, it is left out.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Section, curl, freePort, inFolder, median, withProgram, withReceiver, withWebDav } from "./kit.ts";

const MIB = Number(process.env["PICKET_BENCH_UPLOAD_MIB"] ?? 1024);
const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5);
const TUS_VERSION = "2.4.5";
const TUS_STORE_VERSION = "2.1.1";

/** A file of random bytes that begins as zstd does; gives its hash. */
async function largeFile(path: string): Promise<string> {
  const chunk = new Uint8Array(1 << 20);
  const hasher = new Bun.CryptoHasher("sha256");
  const out = Bun.file(path).writer();
  for (let n = 0; n < MIB; n++) {
    for (let at = 0; at < chunk.length; at += 65_536) crypto.getRandomValues(chunk.subarray(at, at + 65_536));
    if (n === 0) chunk.set([0x28, 0xb5, 0x2f, 0xfd]);
    hasher.update(chunk);
    await out.write(chunk.slice());
  }
  await out.end();
  return hasher.digest("hex");
}

const RECEIVER_ROW = "receiver: hashed, synced, in the index before its answer";

type Contestant = (folder: string, file: string, sha256: string) => Promise<number>;

const receiver: Contestant = (folder, file, sha256) =>
  withReceiver(folder, (url, token) => {
    const headers = [
      `Authorization: Bearer ${token}`,
      "Content-Type: application/zstd",
      `X-Content-SHA256: ${sha256}`,
      "X-Schema-Version: 1",
    ];
    const path = "/v1/episodes/bench/large.tar.zst";
    return curl(["-T", file, ...headers.flatMap((one) => ["-H", one]), `${url}${path}`], ["201"]);
  });

/** What the disk gives: the same bytes copied and synced, no network, no hash. */
const disk: Contestant = async (folder, file) => {
  const begin = performance.now();
  const run = Bun.spawn(["dd", `if=${file}`, `of=${folder}/copy`, "bs=1M", "conv=fsync"], { stderr: "ignore" });
  if ((await run.exited) !== 0) throw new Error("dd failed");
  return (performance.now() - begin) / 1000;
};

const nginx: Contestant = (folder, file) =>
  withWebDav(folder, (url) => curl(["-T", file, `${url}/large.tar.zst`], ["201"]));

const TUS = `const { Server } = require("@tus/server"); const { FileStore } = require("@tus/file-store");
new Server({ path: "/files", datastore: new FileStore({ directory: process.argv[2] }) }).listen({ host: "127.0.0.1", port: Number(process.argv[3]) });`;

const tus: Contestant = async (folder, file) => {
  const port = freePort();
  mkdirSync(join(folder, "files"));
  const url = `http://127.0.0.1:${port}/files`;
  return withProgram(
    ["node", join(TUS_FOLDER, "tus.cjs"), join(folder, "files"), String(port)],
    () => fetch(url),
    async () => {
      const version = ["-H", "Tus-Resumable: 1.0.0"];
      const created = await fetch(url, {
        method: "POST",
        headers: { "tus-resumable": "1.0.0", "upload-length": String(MIB << 20) },
      });
      const location = created.headers.get("location");
      if (created.status !== 201 || !location) throw new Error(`tus: ${created.status}`);
      const patch = [
        "-X",
        "PATCH",
        "-T",
        file,
        ...version,
        "-H",
        "Upload-Offset: 0",
        "-H",
        "Content-Type: application/offset+octet-stream",
      ];
      return curl([...patch, new URL(location, url).href], ["204"]);
    },
  );
};

let TUS_FOLDER = "";

/** Puts @tus/server into a folder; false where npm can't be reached. */
async function installTus(folder: string): Promise<boolean> {
  TUS_FOLDER = folder;
  writeFileSync(join(folder, "package.json"), "{}");
  writeFileSync(join(folder, "tus.cjs"), TUS);
  const add = ["add", "--exact", `@tus/server@${TUS_VERSION}`, `@tus/file-store@${TUS_STORE_VERSION}`];
  const run = Bun.spawn([process.execPath, ...add], { cwd: folder, stdout: "ignore", stderr: "ignore" });
  return (await run.exited) === 0 && Bun.which("node") !== null && existsSync(join(folder, "node_modules/@tus/server"));
}

/** MB/s. */
export async function uploads(): Promise<Section> {
  return inFolder(async (folder) => {
    const file = join(folder, "large");
    const sha256 = await largeFile(file);
    const contestants = new Map<string, Contestant>();
    contestants.set(RECEIVER_ROW, receiver);
    contestants.set("dd conv=fsync: the disk alone", disk);
    if (Bun.which("nginx")) contestants.set("nginx, WebDAV PUT: neither hashed nor synced", nginx);
    else console.log("skipped: nginx is not installed");
    const tusFolder = join(folder, "tus");
    mkdirSync(tusFolder);
    if (await installTus(tusFolder))
      contestants.set(`@tus/server ${TUS_VERSION} on Node: neither hashed nor synced`, tus);
    else console.log("skipped: @tus/server could not be installed");
    readFileSync(file);
    const rates = new Map<string, number[]>();
    for (let round = 0; round < ROUNDS; round++) {
      // Whoever comes first after a pause finds the disk asleep: each has its turn at that.
      const all = [...contestants];
      const turn = round % all.length;
      for (const [name, run] of [...all.slice(turn), ...all.slice(0, turn)]) {
        const seconds = await inFolder((own) => run(own, file, sha256));
        rates.set(name, [...(rates.get(name) ?? []), MIB / seconds]);
        console.error(`round ${round + 1}: ${name}: ${(MIB / seconds).toFixed(0)} MiB/s`);
      }
    }
    const own = median(rates.get(RECEIVER_ROW)!);
    return {
      title: "An episode of 1 GiB",
      command: "bun test/bench/uploads.ts",
      text: `${MIB} MiB of random bytes by curl over loopback; median of ${ROUNDS} rounds in turn.`,
      rows: [...contestants.keys()].map((what) => ({
        what,
        figure: `${median(rates.get(what)!).toFixed(0)} MiB/s`,
        ratio: `${(median(rates.get(what)!) / own).toFixed(2)} of the receiver`,
      })),
    };
  });
}

if (import.meta.main) console.table((await uploads()).rows);
