// A machine with a systemd of its own, in namespaces (booted.sh), and what Picket's installer needs in /opt.

import { copyFileSync, existsSync, linkSync, mkdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { Folder, ROOT, command, have, until } from "../kit.ts";
import { isRoot } from "./disk.ts";

export const ROLES = ["collector", "receiver", "agent", "observer"] as const;
export type Role = (typeof ROLES)[number];

/** Why no systemd can be booted here; null when one can. */
export function whyNot(): string | null {
  if (!isRoot) return "it needs root";
  if (!existsSync("/lib/systemd/systemd")) return "systemd is not installed";
  const tree = existsSync("/sys/fs/cgroup/unified") ? "/sys/fs/cgroup/unified" : "/sys/fs/cgroup";
  if (!existsSync(join(tree, "cgroup.procs"))) return "there is no cgroup v2 tree";
  return have("nsenter", "a booted systemd") ? null : "nsenter is not installed";
}

export interface Said {
  code: number;
  out: string;
}

/** A machine with a systemd of its own. */
export class Booted {
  readonly folder = new Folder();
  #child: Subprocess<"pipe", "pipe", "inherit"> | null = null;
  pid = "";

  /** Fills seed/, which is copied over / before the boot. */
  async prepare(): Promise<void> {
    const [link = ""] = await command("collector", "binary");
    const bundle = (name: string, programs: string[]) => {
      mkdirSync(this.seed("opt", name), { recursive: true });
      copyFileSync(join(ROOT, "install.sh"), this.seed("opt", name, "install.sh"));
      for (const program of programs) linkSync(realpathSync(link), this.seed("opt", name, program));
    };
    // The program called by a role's name is that role alone.
    bundle(
      "former",
      ROLES.map((role) => `picket-${role}`),
    );
    bundle("picket", ["picket"]);
  }

  async boot(): Promise<void> {
    const work = this.folder.at("machine");
    const child = Bun.spawn(["bash", join(ROOT, "test/e2e/booted.sh"), work], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    this.#child = child;
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      this.pid = /pid (\d+)/.exec(chunk)?.[1] ?? "";
      break;
    }
    if (this.pid === "") throw new Error("systemd did not boot");
  }

  seed(...names: string[]): string {
    return this.folder.at("machine/seed", ...names);
  }

  /** Runs a line of shell in it. */
  async sh(line: string): Promise<Said> {
    const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    const run = Bun.spawn(
      [
        "nsenter",
        "-t",
        this.pid,
        "-a",
        "env",
        "-i",
        `PATH=${path}`,
        "HOME=/root",
        "sh",
        "-c",
        `cd / && { ${line}\n} 2>&1`,
      ],
      { stdout: "pipe", stderr: "ignore", stdin: "ignore" },
    );
    const out = await new Response(run.stdout).text();
    return { code: await run.exited, out };
  }

  /** The same; throws unless it ends well. */
  async do(line: string): Promise<string> {
    const { code, out } = await this.sh(line);
    if (code !== 0) throw new Error(`${line}\nended with ${code}:\n${out}`);
    return out;
  }

  /** A property of a unit. */
  async show(role: Role, property: string): Promise<string> {
    return (await this.do(`systemctl show -P ${property} picket-${role}`)).trim();
  }

  /** Waits until a unit's property is this. */
  async becomes(role: Role, property: string, value: string, seconds = 30): Promise<void> {
    await until(`${property} of ${role} is ${value}`, async () => (await this.show(role, property)) === value, seconds);
  }

  /** Settings of the service besides the unit's own, for as long as `work` takes. */
  async with(role: Role, settings: string, work: () => Promise<void>): Promise<void> {
    const folder = `/etc/systemd/system/picket-${role}.service.d`;
    await this.do(`mkdir -p ${folder} && printf '${settings}' > ${folder}/test.conf && systemctl daemon-reload`);
    try {
      await work();
    } finally {
      await this.do(`rm -r ${folder} && systemctl daemon-reload && systemctl reset-failed picket-${role} || true`);
      await this.do(`systemctl restart picket-${role}`);
    }
  }

  async end(): Promise<void> {
    await this.#child?.stdin.end();
    await this.#child?.exited;
    this.folder[Symbol.dispose]();
  }
}
