// A data folder that root copied: the account that the receiver runs as can't use it.

import { expect, test } from "bun:test";
import { chmodSync, chownSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { AS_NOBODY, NOBODY, isRoot } from "../collector/kit.ts";
import { Folder, have, runRole } from "../kit.ts";
import { Hub, archive } from "./kit.ts";
import { onFile } from "./store-kit.ts";

const canTry = isRoot && have("setpriv", "a data folder that belongs to root");

test.skipIf(!onFile || !canTry)(
  "a data folder of root's is refused with its owner and the command; root's lost+found is not",
  async () => {
    using folder = new Folder();
    const data = folder.at("data");
    {
      await using hub = await Hub.start({ data });
      expect((await hub.ship("ep", await archive("x"))).status).toBe(201);
      await hub.daemon.kill();
    }
    chmodSync(folder.path, 0o755);
    mkdirSync(join(data, "lost+found"), { mode: 0o700 });
    mkdirSync(join(data, "episodes/lost+found"), { mode: 0o700 });
    const config = folder.write("receiver.yaml", `listen: "127.0.0.1:0"\ndata_dir: ${data}\n`);
    chmodSync(config, 0o644);
    const give = (path: string, owner: number) => chownSync(join(data, path), owner, owner);
    const own = ["", ...readdirSync(data, { recursive: true }).map(String)].filter(
      (path) => !path.endsWith("lost+found"),
    );
    const start = () => runRole("receiver", ["--config", config], { wrap: AS_NOBODY, env: { HOME: folder.path } });
    for (const path of ["", "receiver.db", "index.jsonl", "receiver.lock", "episodes", "episodes/web-1"]) {
      for (const one of own) give(one, NOBODY);
      give(path, 0);
      chmodSync(join(data, path), path.includes(".") ? 0o640 : 0o750);
      const { code, stderr } = await start();
      expect([path, code, stderr]).toEqual([path, 1, expect.stringContaining(`"${join(data, path)}" belongs to root`)]);
      const top = path.startsWith("episodes") ? join(data, "episodes") : data;
      expect(stderr).toContain(`hint: sudo chown -R nobody: "${top}"`);
    }
  },
);
