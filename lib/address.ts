// Internet addresses as bytes: who is loopback, who lies in which CIDR. Text in, no name is ever looked up.

/** A block of addresses, or a single one (`prefix` 32 or 128). An IPv4-mapped IPv6 block (`::ffff:…/96` and longer) is kept as IPv4. */
export interface Cidr {
  /** 4 bytes for IPv4, 16 for IPv6, in network order; the host part is zero. */
  readonly bytes: Uint8Array;
  /** How many leading bits count. */
  readonly prefix: number;
  /** As it was written. */
  readonly text: string;
}

/**
 * The bytes of an IPv4 (`10.0.0.1`: 4 bytes) or IPv6 address (16 bytes; RFC 4291 section 2.2, all three forms), or
 * null when it is neither. An IPv4-mapped address (`::ffff:10.0.0.1`, what a dual-stack socket reports) is its IPv4
 * address; a zone (`fe80::1%eth0`) is left out; octets with leading zeros are refused, for some read them as octal.
 */
export function parseAddress(text: string): Uint8Array | null {
  if (!text.includes(":")) return parseV4(text);
  const bytes = parseV6(text.replace(/%[\w.-]+$/, ""));
  return bytes !== null && isMapped(bytes) ? bytes.slice(12) : bytes;
}

/** A CIDR (`10.0.0.0/8`, `fd00::/8`) or a bare address, or null when it is neither. Bits set past the prefix are ignored, as in `192.168.1.10/24`. */
export function parseCidr(text: string): Cidr | null {
  const [address = "", length, ...rest] = text.split("/");
  const bytes = address.includes(":") ? parseV6(address) : parseV4(address);
  if (bytes === null || rest.length > 0) return null;
  if (length !== undefined && !/^(0|[1-9]\d{0,2})$/.test(length)) return null;
  const prefix = length === undefined ? bytes.length * 8 : Number(length);
  if (prefix > bytes.length * 8) return null;
  if (isMapped(bytes) && prefix >= 96)
    return { bytes: masked(bytes.slice(12), prefix - 96), prefix: prefix - 96, text };
  return { bytes: masked(bytes, prefix), prefix, text };
}

/** Whether the address `ip` lies in one of `list`. What is not an address lies in none; `0.0.0.0/0` holds every IPv4 address and `::/0` every IPv6 one. */
export function cidrContains(list: readonly Cidr[], ip: string): boolean {
  const bytes = parseAddress(ip);
  if (bytes === null) return false;
  return list.some((cidr) => cidr.bytes.length === bytes.length && equal(masked(bytes, cidr.prefix), cidr.bytes));
}

const LOOPBACK = ["127.0.0.0/8", "::1"].map(parseCidr).filter((cidr) => cidr !== null);

/** Whether only this machine reaches `host`: 127.0.0.0/8, ::1 (brackets allowed) or `localhost`. Other names are not, whatever they resolve to. */
export function isLoopback(host: string): boolean {
  if (/^localhost\.?$/i.test(host)) return true;
  return cidrContains(LOOPBACK, host.replace(/^\[(.*)\]$/, "$1"));
}

function parseV4(text: string): Uint8Array | null {
  const octets = text.split(".");
  if (octets.length !== 4 || !octets.every((octet) => /^(0|[1-9]\d{0,2})$/.test(octet) && Number(octet) <= 255))
    return null;
  return Uint8Array.from(octets, Number);
}

function parseV6(text: string): Uint8Array | null {
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const head = groups(halves[0] ?? "", halves.length === 1);
  const tail = halves.length === 2 ? groups(halves[1] ?? "", true) : [];
  if (head === null || tail === null) return null;
  const missing = 16 - head.length - tail.length;
  // "::" stands for at least one group of zeros; without it all eight must be there
  if (halves.length === 2 ? missing < 2 : missing !== 0) return null;
  return Uint8Array.from([...head, ...Array.from({ length: missing }, () => 0), ...tail]);
}

/** The bytes of `a:b:c`; the last group may be an IPv4 address where `last` says that this is the end of the address. */
function groups(text: string, last: boolean): number[] | null {
  if (text === "") return [];
  const parts = text.split(":");
  const bytes: number[] = [];
  for (const [index, part] of parts.entries()) {
    if (last && index === parts.length - 1 && part.includes(".")) {
      const embedded = parseV4(part);
      if (embedded === null) return null;
      bytes.push(...embedded);
    } else {
      if (!/^[\da-f]{1,4}$/i.test(part)) return null;
      const group = Number.parseInt(part, 16);
      bytes.push(group >> 8, group & 0xff);
    }
  }
  return bytes;
}

function isMapped(bytes: Uint8Array): boolean {
  return (
    bytes.length === 16 && bytes[10] === 0xff && bytes[11] === 0xff && bytes.subarray(0, 10).every((byte) => byte === 0)
  );
}

function masked(bytes: Uint8Array, prefix: number): Uint8Array {
  return bytes.map((byte, index) => byte & (0xff00 >> Math.min(8, Math.max(0, prefix - index * 8))) & 0xff);
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
