// What a running service tells systemd, sd_notify(3): datagrams of `NAME=value` lines to the socket in $NOTIFY_SOCKET.
// Without systemd there is no socket, and then all of this is silent.
//
// The variables are for this process and not for the programs that it starts, so reading them removes them from `process.env`.
// Trap: `Bun.spawn` without an `env` passes the environment that this process was started with; pass `env: process.env`.

import { monotonicMicroseconds, sendDatagram } from "./ffi.ts";

interface Manager {
  socket: string | null;
  watchdogMs: number | null;
}

let manager: Manager | undefined;

function current(): Manager {
  if (manager) return manager;
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: period, WATCHDOG_PID: pid = "" } = process.env;
  for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) delete process.env[name];
  if (!socket) return (manager = { socket: null, watchdogMs: null });
  const microseconds = Number(period);
  const isOurs = ["", String(process.pid)].includes(pid) && Number.isSafeInteger(microseconds) && microseconds > 0;
  return (manager = { socket, watchdogMs: isOurs ? microseconds / 1000 : null });
}

/** Whether a service manager started this process: $NOTIFY_SOCKET was set. */
export function managed(): boolean {
  return current().socket !== null;
}

/** Whether systemd started this very process, and not an ancestor of it (systemd.exec(5); before version 248 that is not known). */
export function isService(): boolean {
  const { INVOCATION_ID: id, SYSTEMD_EXEC_PID: pid = String(process.pid) } = process.env;
  return id !== undefined && pid === String(process.pid);
}

/**
 * Sends lines such as `READY=1` or `STATUS=3 hosts`, several joined by line breaks.
 * @returns whether it was sent; false without $NOTIFY_SOCKET, without libc, and when no process listens there.
 */
export function notify(state: string): boolean {
  const { socket } = current();
  return socket !== null && sendDatagram(socket, state);
}

/** The lines that begin a reload; systemd expects the time with them, and `READY=1` at its end. */
export function reloading(): string {
  const now = monotonicMicroseconds();
  return now === null ? "RELOADING=1" : `RELOADING=1\nMONOTONIC_USEC=${now}`;
}

/** How many milliseconds systemd waits for `WATCHDOG=1` ($WATCHDOG_USEC). Null when it doesn't, or waits for another process ($WATCHDOG_PID). */
export function watchdogMs(): number | null {
  return current().watchdogMs;
}
