// The demonstration of the four roles on one machine, with files as inbox and store.

import { mkdirSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { openClient } from "../client.ts";
import { textOf } from "../files.ts";
import { ownCommand } from "../unit.ts";
import { type Phone, openPhone } from "./phone.ts";
import { type Stage, send, step, tokenIn } from "./stage.ts";

const PUSH = {
  ref: "refs/heads/main",
  repository: { full_name: "lab/rollouts" },
  pusher: { name: "mona" },
  commits: [{ id: "0123456789abcdef0123456789abcdef01234567", message: "Shorter episodes" }],
};

/** @returns the exit code, once all is shown. */
export async function tellFourRoles(stage: Stage, once: boolean): Promise<number> {
  const demo = withInbox(stage);
  using phone = openPhone();
  const collector = await tellCollector(demo, phone);
  const { address: receiver, token } = await tellReceiver(demo);
  const observer = await tellObserver(demo);
  step("the whole story, in one inbox");
  await demo.show("collector", "read", "ops");
  await tellReaders(demo, phone);
  if (once) return 0;
  yourTurn(demo, { collector, receiver, observer, token });
  await demo.ended();
  throw new Error("all four have ended");
}

async function tellCollector(demo: Demo, phone: Phone): Promise<string> {
  step("a collector with one webhook route, one drop folder, and a delivery of what is urgent");
  mkdirSync(demo.at("drops"));
  const address = await demo.daemon("collector", 18790, (listen) => [
    "agent: demo",
    `inbox_dir: ${demo.at("inbox")}`,
    "webhook:",
    `  listen: ${listen}`,
    "  routes:",
    "    - path: /github",
    "      recipient: ops",
    "      type: INFO",
    "      template: 'push to {{ .repository.full_name }} by {{ .pusher.name }}: {{ .ref }}'",
    "    - path: /note",
    "      recipient: ops",
    "      type: INFO",
    "      template: '{{ .text }}'",
    `drop_folder: { path: ${demo.at("drops")} }`,
    "deliver:",
    `  - { name: phone, recipients: [ops], min: urgent, ntfy: { url: "${phone.url}" } }`,
  ]);
  step("a push to a repository comes in, as GitHub tells it");
  await send(`http://${address}/github`, PUSH);
  await demo.event("webhook:/github");
  step("a file is dropped");
  const drop = '{"recipient":"ops","type":"INFO","payload":"hello from a file"}';
  console.log(`$ echo '${drop}' > drops/hello.json`);
  writeFileSync(demo.at("drops/hello.json"), drop);
  await demo.event("hello from a file");
  step(`what came of it: ${demo.at("inbox/ops.inbox")}`);
  console.log(demo.inbox().trimEnd());
  return address;
}

async function tellReceiver(demo: Demo): Promise<{ address: string; token: string }> {
  step("a receiver with one host");
  const address = await demo.daemon("receiver", 18791, (listen) => [
    `listen: ${listen}`,
    `data_dir: ${demo.at("receiver")}`,
    `notify: { recipient: ops, inbox_dir: ${demo.at("inbox")} }`,
    "poll_interval_seconds: 2",
  ]);
  console.log(`   its page: http://${address} follows from here on`);
  const added = await demo.show("receiver", "host", "add", "this-machine", "--url", `http://${address}`);
  // An agent keeps to 60 s at least.
  await demo.run("receiver", "host", "set", "this-machine", "--interval", "60");
  await tellAgent(demo, address, tokenIn(added));
  await tellTroubles(demo);

  step("a host that reports every 2 s goes silent");
  const token = tokenIn(await demo.run("receiver", "host", "add", "web-1"));
  await demo.show("receiver", "host", "set", "web-1", "--interval", "2");
  const report = { recorded_at: new Date().toISOString(), interval_seconds: 2, host: { metrics: { load_average: 1 } } };
  await send(`http://${address}/v1/host-report`, report, { Authorization: `Bearer ${token}` });
  const before = demo.inbox().length;
  await demo.event("web-1 is offline");
  console.log(demo.inbox().slice(before).trimEnd());
  await demo.show("receiver", "status");
  return { address, token };
}

async function tellAgent(demo: Demo, receiver: string, token: string): Promise<void> {
  step("an agent reports this machine, and ships an episode that is finished");
  mkdirSync(demo.at("disk"));
  const episode = demo.at("lab/episodes/ep-1");
  mkdirSync(episode, { recursive: true });
  writeFileSync(join(episode, "steps.json"), JSON.stringify(PUSH));
  writeFileSync(join(episode, "meta.json"), JSON.stringify({ code_version: { commit: PUSH.commits[0]!.id } }));
  demo.spawn("agent", [
    `receiver: { url: "http://${receiver}", token: ${token} }`,
    `data_dir: ${demo.at("agent")}`,
    `ship: { episodes_dir: ${demo.at("lab/episodes")}, scan_seconds: 1 }`,
    `disks: ["*", ${demo.at("disk")}]`,
  ]);
  console.log("$ touch lab/episodes/ep-1/done.marker");
  writeFileSync(join(episode, "done.marker"), "");
  const index = () => textOf(demo.at("receiver/index.jsonl")) ?? "";
  await demo.until("the episode is shipped", () => index().includes("ep-1"));
  await demo.until("the agent says so", () => demo.log("agent").includes("shipped"));
  console.log(`${demo.log("agent").trimEnd()}\n\n${index().trimEnd()}`);
  await demo.show("receiver", "host", "list");
}

async function tellTroubles(demo: Demo): Promise<void> {
  step("a disk fills up, a unit fails, and a backup does not say that it has run");
  const expected = ["backup is down"];
  const disk = demo.at("disk");
  if (demo.admin(["mount", "-t", "tmpfs", "-o", "size=8m", "picket-try", disk], ["umount", disk])) {
    writeFileSync(join(disk, "video.raw"), new Uint8Array(7.5 * 2 ** 20));
    // With a disk of the machine's own that is full, one event names both.
    expected.push(disk);
  }
  const unit = "picket-try";
  if (demo.admin(["systemd-run", "--quiet", `--unit=${unit}`, "false"], ["systemctl", "reset-failed", unit])) {
    expected.push("receiver:unit.failed");
  }
  const url = (await demo.show("receiver", "job", "add", "backup", "--every", "2s", "--grace", "1s")).trim();
  console.log(`$ curl ${url}`);
  await openClient({ url, timeoutMs: 10_000, largestAnswer: 1 << 10 }).ask({ what: "ping", path: "" });
  await demo.run("agent", "selftest", "hub");
  for (const text of expected) await demo.event(text);
  await demo.show("receiver", "alerts");
}

async function tellObserver(demo: Demo): Promise<string> {
  step("an observer, with the same inbox");
  const address = await demo.daemon("observer", 3219, (listen) => [
    `listen: ${listen}`,
    `persist_path: ${demo.at("observer/ops.jsonl")}`,
    "cycle_seconds: 1",
    `notify: { recipient: ops, inbox_dir: ${demo.at("inbox")} }`,
  ]);
  step("it gets operations: three succeed, and one fails three times, each time with other numbers");
  const post = (operations: unknown) => send(`http://${address}/observer/event`, operations);
  await post([
    { endpoint: "deploy", duration_ms: 840 },
    { endpoint: "deploy", duration_ms: 912 },
    { endpoint: "backup", duration_ms: 12034 },
  ]);
  for (const [job, host, ms] of [
    [4711, "10.0.0.7", 30004],
    [4712, "10.0.0.9", 30011],
    [4720, "10.0.0.7", 29998],
  ] as const) {
    const error = `job ${job}: no answer from ${host} within ${ms} ms`;
    await post({ endpoint: "backup", success: false, duration_ms: ms, error });
  }
  step("it groups them as one failure that repeats, and tells ops");
  await demo.event('"from":"observer"');
  await demo.show("observer", "stats");
  await demo.show("observer", "clusters");
  step("the receiver's page shows such failures, too: a line more in its configuration, and a reload");
  await demo.reload("receiver", `observer: { url: "http://${address}" }`);
  return address;
}

async function tellReaders(demo: Demo, phone: Phone): Promise<void> {
  step("what was urgent is on the phone: here it is a server of this demonstration, which gets what ntfy would get");
  await demo.until("the phone has it", () => phone.notifications.some((one) => one.includes("web-1 is offline")));
  console.log(phone.notifications.join("\n"));
  await demo.show("collector", "deliver", "list");
  step("a coding agent with the name ops waits in the background: what is urgent wakes it");
  await demo.show("collector", "wait", "--as", "ops", "--min", "urgent");
  step("at the next prompt its hook adds the rest");
  await demo.show("collector", "hook", "--as", "ops");
}

function yourTurn(demo: Demo, { collector, receiver, observer, token }: Record<string, string>): void {
  const picket = ownCommand().join(" ");
  const port = receiver!.split(":").at(-1);
  step("your turn: the page");
  console.log(`http://${receiver}

From another machine: ssh -L ${port}:${receiver} ${hostname()}, then http://127.0.0.1:${port} there.
What needs you is on top. web-1 is offline: one report, and it is back, without a reload; 8 s later it is offline again:

curl -H 'Authorization: Bearer ${token}' http://${receiver}/v1/host-report -d '{"recorded_at":"'$(date -u +%FT%TZ)'","host":{"metrics":{"cpu_percent":12}}}'

this-machine reports once a minute: its page has plots, disks and processes. The job backup has a bar for each run.`);
  step("your turn, in another terminal");
  console.log(`${picket} receiver status --watch --config ${demo.at("receiver.yaml")}
curl -d '{"text":"hello"}' http://${collector}/note
echo '{"recipient":"ops","type":"INFO","payload":"dropped"}' > ${demo.at("drops/mine.json")}
${picket} collector ping ops "the build is red" --priority urgent --config ${demo.at("collector.yaml")}
${picket} collector wait --as ops --config ${demo.at("collector.yaml")}
curl http://${receiver}/v1/hosts/this-machine
curl 'http://${receiver}/v1/hosts/this-machine/history?metric=load_average'
${picket} receiver host add another --config ${demo.at("receiver.yaml")}
curl -d '{"endpoint":"deploy","success":false,"error":"no route to host"}' http://${observer}/observer/event
${picket} observer tail --follow --config ${demo.at("observer.yaml")}

Ctrl-C ends it and leaves nothing behind.`);
}

type Demo = ReturnType<typeof withInbox>;

/** The stage, and the inbox of ops on it. */
function withInbox(stage: Stage) {
  const inbox = (): string => textOf(stage.at("inbox/ops.inbox")) ?? "";
  return {
    ...stage,
    inbox,
    /** Waits for an event of the inbox that has this in its line. */
    event: (text: string): Promise<void> => stage.until(`the event arrives: ${text}`, () => inbox().includes(text)),
  };
}
