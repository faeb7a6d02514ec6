// A collector with two routes, and bytes over a socket: for the tests of the guard and of the server.

import { connect } from "node:net";
import { type Daemon, Folder, startRole } from "./kit.ts";

/** The two routes. */
export const ROUTES = `  routes:
    - { path: /open, recipient: bob, type: INFO, template: "{{ .n }}" }
    - { path: /signed, recipient: bob, type: INFO, template: "{{ .n }}", verify: { scheme: bearer, secret: theirs } }
`;

/** Starts it, with `more` in its configuration. */
export async function start(folder: Folder, more: string, listen = "127.0.0.1:0", routes = ROUTES): Promise<Daemon> {
  const config = folder.write(
    "c.yaml",
    `agent: a\ninbox_dir: ${folder.at("inbox")}\nwebhook:\n  listen: "${listen}"\n${routes}${more}`,
  );
  return startRole("collector", ["--config", config, "--log-level", "debug"]);
}

/** Sends bytes over a socket and gives what comes back until the other side closes or `enough` is there. */
export function raw(url: string, text: string, enough: RegExp): Promise<string> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(text));
    let got = "";
    socket.on("data", (chunk) => {
      got += chunk.toString();
      if (enough.test(got)) socket.destroy();
    });
    socket.on("close", () => resolve(got));
    socket.on("error", reject);
  });
}
