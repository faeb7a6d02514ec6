// A newcomer: a fresh Debian with nothing but Node.js and npm, another with nothing but Bun, and what README.md says, as printed.
// Takes minutes and downloads a system, so it runs only when it is asked for:
//   PICKET_NEWCOMER=1 bun test test/e2e/newcomer.test.ts
// Not tested here: `git clone` itself (the working copy's last commit is what is cloned), other distributions.

import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT, have } from "../kit.ts";
import { isRoot } from "./disk.ts";

const wanted = process.env["PICKET_NEWCOMER"] === "1";
if (!wanted) console.log("skipped: a newcomer on a fresh system: set PICKET_NEWCOMER=1 (minutes, downloads a Debian)");
else if (!isRoot) console.log("skipped: a newcomer on a fresh system: needs root");
const can = wanted && isRoot && have("debootstrap", "a newcomer on a fresh system");

const README = readFileSync(join(ROOT, "README.md"), "utf8");
/** The commands of the README's first shell block, without their comments. */
const TRY_IT = /^## Try it\n[^]*?```sh\n([^]*?)```/m.exec(README)![1]!;
/** What it shows at the top. */
const [, SESSION] = /^```console\n([^]*?)```/m.exec(README)!;

/** A root file system that is made once, and used under a layer that is gone afterwards. */
const base = process.env["PICKET_NEWCOMER_ROOT"] ?? (can ? mkdtempSync(join(tmpdir(), "picket-newcomer-")) : "");

interface Said {
  code: number;
  out: string;
  seconds: number;
}

/** Runs a script in a root file system, in namespaces of its own. `layer`: what it writes goes there; null writes into it. */
async function inside(root: string, layer: string | null, script: string): Promise<Said> {
  const setUp = `
    root=$1
    if [ -n "$2" ]; then
      mount -t tmpfs -o size=6g tmpfs "$2"; mkdir "$2/upper" "$2/scratch" "$2/root"
      mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/scratch" overlay "$2/root"; root=$2/root
    fi
    mkdir -p "$root/source"; mount --bind "${ROOT}" "$root/source"
    mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; mount -t tmpfs tmpfs "$root/tmp"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"; cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    exec chroot "$root" env -i HOME=/root TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
      NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt bash -c "$3"`;
  const start = performance.now();
  const run = Bun.spawn(
    [
      "unshare",
      "--mount",
      "--pid",
      "--fork",
      "--kill-child",
      "bash",
      "-euc",
      setUp,
      "bash",
      root,
      layer ?? "",
      `{ ${script}\n} 2>&1`,
    ],
    { stdout: "pipe", stderr: "inherit", stdin: "ignore" },
  );
  const out = await new Response(run.stdout).text();
  return { code: await run.exited, out, seconds: Math.round((performance.now() - start) / 1000) };
}

/** A base system, and on it what the newcomer has: Node.js with npm, or Bun. */
async function make(kind: "node" | "bun"): Promise<string> {
  const system = join(base, "debian");
  if (!existsSync(join(system, "etc/debian_version"))) {
    await Bun.$`debootstrap --variant=minbase --include=ca-certificates bookworm ${system}`.quiet();
  }
  const root = join(base, kind);
  if (existsSync(root)) return root;
  await Bun.$`cp -a ${system} ${root}`;
  const install = {
    node: "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm git",
    bun: "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git && cp /source/node_modules/bun/bin/bun.exe /usr/local/bin/bun",
  };
  const { code, out } = await inside(root, null, install[kind]);
  if (code !== 0) throw new Error(out);
  return root;
}

describe.skipIf(!can).each(["node", "bun"] as const)("with nothing but %s", (kind) => {
  let root = "";
  beforeAll(async () => {
    root = await make(kind);
  }, 900_000);

  test("what README.md says, as printed", async () => {
    expect(TRY_IT).toContain("./install.sh try");
    const [clone, , ...rest] = TRY_IT.trim().split("\n");
    expect(clone).toStartWith("git clone <this repository> picket && cd picket");
    expect(rest[0]).toStartWith("./install.sh test");
    const layer = mkdtempSync(join(tmpdir(), "picket-layer-"));
    mkdirSync(layer, { recursive: true });
    const said = await inside(
      root,
      layer,
      `set -e; cd; git config --global --add safe.directory '*'
       ${clone!.replace("<this repository>", "/source")}
       echo "== try"; date +%s
       ./install.sh try > /root/try.log & try=$!
       until grep -q 'Ctrl-C ends it' /root/try.log; do kill -0 $try; sleep 0.2; done
       date +%s; kill -TERM $try; wait $try || echo "ended with $?"
       echo "left behind: $(ls /tmp | grep -c picket-try)"; tail -n 40 /root/try.log
       echo "== install"
       for role in collector receiver agent observer; do ./install.sh $role; done
       ls /usr/local/bin /etc/picket /etc/systemd/system/picket-*
       echo "== session"; mkdir /root/session; cd /root/session
       ${SESSION!
         .split("\n")
         .filter((line) => line.startsWith("$ "))
         .map((line) => line.slice(2))
         .join("\n")}`,
    );
    console.log(`with nothing but ${kind}: ${said.seconds} s\n${said.out}`);
    expect(said.code).toBe(0);
    expect(said.out).toContain("ended with 143");
    expect(said.out).toContain("backup keeps failing: 3 failures");
    expect(said.out).toContain("not started: no systemd to talk to here");
    expect(said.out).toContain("me INFO urgent: disk of web-1 is full");
    expect(said.out).toContain("left behind: 0\n");
  }, 900_000);
});
