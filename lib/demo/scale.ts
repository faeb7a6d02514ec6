// The demonstration of several receivers and collectors on one PostgreSQL and one S3 server. Each kind of process is killed under load;
// then it is counted whether all that was acknowledged is there, once.

import { mkdirSync, writeFileSync } from "node:fs";
import { openClient } from "../client.ts";
import { ownCommand } from "../unit.ts";
import { missingServer, openBalancer, startPostgres, startS3 } from "./servers.ts";
import { type Stage, step, tokenIn } from "./stage.ts";
import { type Traffic, openTraffic } from "./traffic.ts";

const SECRET = "demo";
const RECEIVERS = ["receiver-1", "receiver-2", "receiver-3"];
const COLLECTORS = ["collector-1", "collector-2"];
const HOSTS = ["web-1", "nas", "pi"];
const SILENT = "nas";

/** @returns the exit code, once all is shown. */
export async function tellScale(stage: Stage, once: boolean): Promise<number> {
  const missing = missingServer();
  if (missing !== null) throw new Error(missing);
  const servers = await tellServers(stage);
  const fleet = await tellFleet(stage, servers);
  using hub = openBalancer(fleet.receivers);
  using hooks = openBalancer(fleet.collectors);
  step(`a load balancer: http://${hub.address} leads to a receiver, http://${hooks.address} to a collector`);
  const tokens = await tellHosts(stage, hub.address);
  const traffic = openTraffic({ collector: hooks.address, secret: SECRET, receiver: hub.address, tokens });
  await tellDeaths(stage, { traffic, servers, fleet });
  await tellEpisode(stage, { receiver: hub.address, servers });
  await tellSilence(stage, traffic);
  await traffic.close();
  await tellCount(stage, { traffic, receiver: hub.address });
  if (once) return 0;
  yourTurn(stage, { receiver: hub.address, collector: hooks.address });
  await stage.ended();
  throw new Error("all have ended");
}

interface Servers {
  postgres: Awaited<ReturnType<typeof startPostgres>>;
  s3: Awaited<ReturnType<typeof startS3>>;
}

async function tellServers(stage: Stage): Promise<Servers> {
  step("PostgreSQL and an S3 server, in place of yours");
  const postgres = await startPostgres(stage);
  console.log(`   ${postgres.url}`);
  const s3 = await startS3(stage);
  console.log(`   ${s3.url} at ${s3.env.S3_ENDPOINT}`);
  Object.assign(stage.env, s3.env);
  return { postgres, s3 };
}

/** The receivers and collectors: their addresses, and how one is started again. */
interface Fleet {
  receivers: string[];
  collectors: string[];
  restart(name: string): Promise<void>;
}

async function tellFleet(stage: Stage, { postgres: { url }, s3 }: Servers): Promise<Fleet> {
  const receiver = (name: string) => (listen: string) => [
    `listen: ${listen}`,
    `data_dir: ${stage.at(name)}`,
    `store: ${url}`,
    `episodes: ${s3.url}`,
    `notify: { recipient: ops, inbox: "${url}" }`,
    "poll_interval_seconds: 2",
  ];
  const collector = () => (listen: string) => [
    "agent: demo",
    `inbox: ${url}`,
    "webhook:",
    `  listen: ${listen}`,
    "  routes:",
    "    - path: /note",
    "      recipient: ops",
    "      type: INFO",
    "      template: '{{ .text }}'",
    `      verify: { scheme: token, header: X-Token, secret: ${SECRET} }`,
  ];
  const addresses = new Map<string, string>();
  async function start(name: string): Promise<string> {
    const config = (RECEIVERS.includes(name) ? receiver : collector)(name);
    const port = Number(addresses.get(name)?.split(":").at(-1) ?? 0);
    const address = await stage.daemon(name, port, config);
    addresses.set(name, address);
    return address;
  }
  const startAll = async (names: string[]): Promise<string[]> => {
    const started: string[] = [];
    for (const name of names) started.push(await start(name));
    return started;
  };
  step("three receivers with the same configuration");
  const receivers = await startAll(RECEIVERS);
  step("two collectors, with inboxes in the same database");
  const collectors = await startAll(COLLECTORS);
  return { receivers, collectors, restart: async (name) => void (await start(name)) };
}

async function tellHosts(stage: Stage, receiver: string): Promise<Map<string, string>> {
  step("hosts that report each second, and notes over a webhook, from now on");
  const tokens = new Map<string, string>();
  for (const host of HOSTS) {
    const added = await stage.run("receiver-1", "host", "add", host, "--url", `http://${receiver}`);
    console.log(`$ picket receiver host add ${host}`);
    tokens.set(host, tokenIn(added));
  }
  return tokens;
}

interface Acting {
  traffic: Traffic;
  servers: Servers;
  fleet: Fleet;
}

/** Kills one of each kind under load, and starts it again, as systemd or Kubernetes would do. */
async function tellDeaths(stage: Stage, { traffic: { figures }, servers, fleet }: Acting): Promise<void> {
  /** Waits for so many more of each. */
  async function goesOn(): Promise<void> {
    const { notes, reports } = figures;
    const isOn = () => figures.notes >= notes + 10 && figures.reports >= reports + HOSTS.length;
    await stage.until("notes and reports are acknowledged", isOn);
    console.log(
      `   acknowledged so far: ${figures.notes} notes, ${figures.reports} reports; sent again: ${figures.again}`,
    );
  }
  await goesOn();
  const leader = await leading(stage, fleet);
  step(`kill -9 of ${leader}, which leads: it watches over the hosts, and tells what happens`);
  await stage.kill(leader);
  await goesOn();
  console.log(`   ${await leading(stage, fleet)} leads now`);
  await fleet.restart(leader);
  step("kill -9 of a collector");
  await stage.kill("collector-1");
  await goesOn();
  await fleet.restart("collector-1");
  step(
    "PostgreSQL stops as in a power cut: senders get 503 and send again, nothing has to be restarted but PostgreSQL",
  );
  await stage.kill("postgres", "SIGQUIT");
  const { again } = figures;
  await stage.until("requests fail", () => figures.again > again);
  await servers.postgres.start();
  await goesOn();
}

/** Waits until one of the receivers leads; gives its name. */
async function leading(stage: Stage, { receivers }: Fleet): Promise<string> {
  let leader: string | undefined;
  await stage.until("a receiver leads", async () => {
    const healths = receivers.map((address) => get(address, "/health").catch(() => ({ leads: false })));
    leader = RECEIVERS[(await Promise.all(healths)).findIndex((health) => (health as { leads: boolean }).leads)];
    return leader !== undefined;
  });
  return leader!;
}

/** An agent ships a folder while the S3 server is away. */
async function tellEpisode(stage: Stage, { receiver, servers }: { receiver: string; servers: Servers }): Promise<void> {
  step("an agent ships a finished folder while the S3 server is away: it sends it again");
  const added = await stage.run("receiver-1", "host", "add", "this-machine", "--url", `http://${receiver}`);
  await stage.run("receiver-1", "host", "set", "this-machine", "--interval", "60");
  const episode = stage.at("episodes/ep-1");
  mkdirSync(episode, { recursive: true });
  writeFileSync(`${episode}/steps.json`, '{"steps":3}');
  writeFileSync(`${episode}/meta.json`, '{"code_version":{"commit":"0123456789abcdef0123456789abcdef01234567"}}');
  await stage.kill("s3");
  stage.spawn("agent", [
    `receiver: { url: "http://${receiver}", token: ${tokenIn(added)} }`,
    `data_dir: ${stage.at("agent")}`,
    `ship: { episodes_dir: ${stage.at("episodes")}, scan_seconds: 1 }`,
  ]);
  writeFileSync(`${episode}/done.marker`, "");
  await stage.until("an upload fails", () => /503/.test(stage.log("agent")));
  console.log(stage.log("agent").trimEnd());
  await servers.s3.start();
  await stage.until("the folder is shipped", () => stage.log("agent").includes("episode shipped"));
  console.log(/.*episode shipped.*/.exec(stage.log("agent"))![0]);
  await stage.show("receiver-2", "index", "verify");
}

async function tellSilence(stage: Stage, traffic: Traffic): Promise<void> {
  step(`${SILENT} reports no more: its silence is told once, and that of no other host`);
  traffic.silence(SILENT);
  await stage.show("collector-2", "wait", "--as", "ops", "--min", "urgent");
}

/** @throws Error where something that was acknowledged is missing, or there twice. */
async function tellCount(stage: Stage, { traffic, receiver }: { traffic: Traffic; receiver: string }): Promise<void> {
  step("is all there, once?");
  const { notes, reported, again } = traffic.figures;
  const lines = (await stage.run("collector-1", "read", "ops", "--json")).trim().split("\n");
  const texts = lines.map((line) => (JSON.parse(line) as { payload: string }).payload);
  const found = texts.filter((text) => text.startsWith("note "));
  verify(`${notes} notes were acknowledged, ${again} requests sent again: each note is in the inbox once`, () => {
    return found.length === notes && new Set(found).size === notes;
  });
  const { hosts } = (await get(receiver, "/v1/hosts")) as { hosts: { id: string; last_recorded_at: string }[] };
  verify(`${reported.size} hosts report: the last acknowledged report of each is there`, () =>
    [...reported].every(([host, at]) =>
      hosts.some(({ id, last_recorded_at }) => id === host && last_recorded_at >= at),
    ),
  );
  const silent = texts.filter((text) => text.includes("offline"));
  verify(`alerts of silence: ${silent.join("; ")}`, () => silent.length === 1 && silent[0]!.startsWith(SILENT));
}

async function get(address: string, path: string): Promise<unknown> {
  const client = openClient({ url: `http://${address}`, timeoutMs: 10_000, largestAnswer: 1 << 20 });
  return (await client.ask({ what: `get ${path}`, path })).json;
}

function verify(what: string, holds: () => boolean): void {
  if (!holds()) throw new Error(`this does not hold: ${what}`);
  console.log(`   yes: ${what}`);
}

function yourTurn(stage: Stage, { receiver, collector }: Record<"receiver" | "collector", string>): void {
  const picket = ownCommand().join(" ");
  step("your turn: the page, by any of the three receivers");
  console.log(`http://${receiver}`);
  step("your turn, in another terminal");
  console.log(`curl -H 'X-Token: ${SECRET}' -d '{"text":"hello"}' http://${collector}/note
${picket} collector read ops --limit 5 --config ${stage.at("collector-2.yaml")}
${picket} receiver status --watch --config ${stage.at("receiver-3.yaml")}

Ctrl-C ends it and leaves nothing behind.`);
}
