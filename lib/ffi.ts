// The few calls that only libc has, through bun:ffi: flock(2), leases, AF_UNIX datagrams, what a pipe holds, CLOCK_MONOTONIC.
//
// bun:ffi needs a JIT and a libc that it can open. A unit with MemoryDenyWriteExecute=yes has no JIT, another system may
// have another libc: then every function here returns null or false. Neither a call nor the import throws. The first call
// opens libc, so that a command without need for it doesn't wait.

import { dlopen, read } from "bun:ffi";
import { fstatSync } from "node:fs";

// Numbers from the kernel's headers, the same on x86-64 and arm64 (asm-generic).
const LOCK_EX = 2;
const LOCK_NB = 4;
const EINTR = 4;
const EAGAIN = 11;
const F_SETSIG = 10;
const F_SETLEASE = 1024;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const SIGURG = 23;
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_SNDTIMEO = 21;
const MSG_NOSIGNAL = 0x4000;
const CLOCK_MONOTONIC = 1;
const FIONREAD = 0x541b;
const SIOCOUTQ = 0x5411;
const POLLERR = 0x008;
const POLLHUP = 0x010;

/** Size of `sun_path`, see unix(7). */
const MAX_SOCKET_NAME_BYTES = 108;
/** How long a datagram may wait for room in the receiver's queue: the event loop stands still meanwhile. */
const SEND_TIMEOUT_MICROSECONDS = 250_000n;

type Libc = ReturnType<typeof openLinux>;

let opened: Libc | null | undefined;

/** Libc, opened at the first call; null where it can't be opened. */
function libc(): Libc | null {
  if (opened !== undefined) return opened;
  try {
    opened = process.platform === "linux" ? openLinux() : null;
  } catch {
    opened = null;
  }
  return opened;
}

/** Whether the calls below can do anything here: Linux, with a libc that bun:ffi can open. */
export function hasLibc(): boolean {
  return libc() !== null;
}

// musl's loader knows this name too (every `libc.*` is itself). dlopen looks for a name that it doesn't find in the working
// directory next, so there is no list of other names to try.
function openLinux() {
  return dlopen("libc.so.6", {
    __errno_location: { args: [], returns: "ptr" },
    clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
    close: { args: ["i32"], returns: "i32" },
    fcntl: { args: ["i32", "i32", "i32"], returns: "i32" },
    flock: { args: ["i32", "i32"], returns: "i32" },
    ioctl: { args: ["i32", "u64", "ptr"], returns: "i32" },
    poll: { args: ["ptr", "u64", "i32"], returns: "i32" },
    sendto: { args: ["i32", "ptr", "u64", "i32", "ptr", "u32"], returns: "i64" },
    setsockopt: { args: ["i32", "i32", "i32", "ptr", "u32"], returns: "i32" },
    socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  }).symbols;
}

/** The calling thread's `errno`; read it right after the call that failed. */
function errno(c: Libc): number {
  const location = c.__errno_location();
  return location === null ? 0 : read.i32(location, 0);
}

/**
 * Takes the lock of an open file, flock(2). Never waits, because a wait would stop the event loop. The kernel releases it
 * when the last descriptor of that opening is closed, so also when its owner dies.
 * @returns false when another opening holds the lock, and where there is no libc.
 */
export function flock(fd: number): boolean {
  const c = libc();
  // With LOCK_NB it can't be interrupted: it doesn't wait.
  return c !== null && c.flock(fd, LOCK_EX | LOCK_NB) === 0;
}

/**
 * A write lease, fcntl(2) F_SETLEASE: granted only while no other descriptor has the file open. A process that opens it
 * during the lease waits until it is released (at most /proc/sys/fs/lease-break-time, 45 s), so hold it for microseconds.
 * @returns the function that releases it; null when the kernel doesn't grant it: the file is open elsewhere, it belongs to
 *   another user, its file system has no leases, or there is no libc.
 */
export function writeLease(fd: number): (() => void) | null {
  const c = libc();
  if (c === null) return null;
  // The kernel signals the holder when a process waits. SIGIO, its default, would end us; SIGURG is ignored by default.
  if (c.fcntl(fd, F_SETSIG, SIGURG) !== 0 || c.fcntl(fd, F_SETLEASE, F_WRLCK) !== 0) return null;
  return () => void c.fcntl(fd, F_SETLEASE, F_UNLCK);
}

/**
 * Whether another opening of a file can write to it: the kernel grants a read lease, fcntl(2) F_SETLEASE, only while none can. The
 * descriptor must be open for reading only.
 * @returns null where that can't be known: the file belongs to another user, its file system has no leases, or there is no libc.
 */
export function isOpenForWriting(fd: number): boolean | null {
  const c = libc();
  if (c === null || c.fcntl(fd, F_SETSIG, SIGURG) !== 0) return null;
  if (c.fcntl(fd, F_SETLEASE, F_RDLCK) !== 0) return errno(c) === EAGAIN ? true : null;
  c.fcntl(fd, F_SETLEASE, F_UNLCK);
  return false;
}

/**
 * Sends one datagram to an AF_UNIX socket, unix(7). A name that starts with `@` is in the abstract namespace.
 * Each datagram has its own socket, as in libsystemd: no descriptor stays open, children inherit none.
 * @returns whether the kernel took it; false where there is no libc.
 */
export function sendDatagram(name: string, text: string): boolean {
  const c = libc();
  const address = socketAddress(name);
  if (c === null || address === null) return false;
  const fd = c.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  try {
    const timeout = new BigInt64Array([0n, SEND_TIMEOUT_MICROSECONDS]);
    c.setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, timeout, timeout.byteLength);
    const bytes = Buffer.from(text);
    for (;;) {
      const sent = c.sendto(fd, bytes, bytes.length, MSG_NOSIGNAL, address, address.length);
      if (sent >= 0) return true;
      if (errno(c) !== EINTR) return false;
    }
  } finally {
    c.close(fd);
  }
}

/** `struct sockaddr_un` for a path or an abstract `@name`; null when it has no room for the name. */
function socketAddress(name: string): Buffer | null {
  const bytes = Buffer.from(name);
  if (bytes.length < 2 || bytes.length >= MAX_SOCKET_NAME_BYTES) return null;
  const abstract = bytes[0] === 0x40;
  if (abstract) bytes[0] = 0;
  // A path ends with a zero byte; an abstract name ends where the address ends, a zero byte would be part of it.
  const address = Buffer.alloc(2 + bytes.length + (abstract ? 0 : 1));
  address.writeUInt16LE(AF_UNIX); // in host order, and every machine Bun runs on is little-endian
  address.set(bytes, 2);
  return address;
}

/**
 * Whether the other end of a pipe or a unix socket has read everything that was written to this end: FIONREAD of pipe(7), SIOCOUTQ of
 * unix(7). False when that end was closed, and the kernel may have thrown away what a socket held.
 * @returns null where that can't be known: it is neither, or there is no libc.
 */
export function isReadOut(fd: number): boolean | null {
  const c = libc();
  if (c === null) return null;
  const count = new Int32Array(1);
  const kind = fstatSync(fd);
  if (!kind.isFIFO() && !kind.isSocket()) return null;
  if (c.ioctl(fd, kind.isFIFO() ? FIONREAD : SIOCOUTQ, count) !== 0) return null;
  if (count[0] !== 0 || kind.isFIFO()) return count[0] === 0;
  // struct pollfd { int fd; short events; short revents }. A socket is shut down before what it holds goes: asked in this order, the answer is true.
  const asked = new Int32Array([fd, 0]);
  return c.poll(asked, 1, 0) < 0 || ((asked[1]! >> 16) & (POLLHUP | POLLERR)) === 0;
}

/**
 * CLOCK_MONOTONIC in microseconds, the clock systemd compares with. `process.hrtime` won't do: in Bun it counts from
 * the start of the process. Null where there is no libc.
 */
export function monotonicMicroseconds(): bigint | null {
  const c = libc();
  const time = new BigInt64Array(2);
  if (c === null || c.clock_gettime(CLOCK_MONOTONIC, time) !== 0) return null;
  return time[0]! * 1_000_000n + time[1]! / 1000n;
}
