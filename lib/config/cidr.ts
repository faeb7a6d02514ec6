// CIDR blocks: whether an address lies in a list of them, and whether it is a loopback address. No name is looked up.

import { BlockList, isIP } from "node:net";
import type * as v from "valibot";
import { parsed } from "./fields.ts";

/** A block of addresses, or a single one (`prefix` 32 or 128). An IPv4-mapped IPv6 block (`::ffff:…/96` and longer) is kept as IPv4. */
export interface Cidr {
  readonly address: string;
  /** How many leading bits count. */
  readonly prefix: number;
  readonly family: "ipv4" | "ipv6";
  readonly text: string;
}

const EXPECTED = 'expected an address or CIDR, such as "10.0.0.0/8", "192.168.1.7" or "fd00::/8"';

/** An IPv4 or IPv6 CIDR or a bare address, parsed; bits set past the prefix are ignored, as in `192.168.1.10/24`. Prints as it was written. */
export function cidr(): v.GenericSchema<string, Cidr> {
  return parsed(EXPECTED, (text) => Object.defineProperty(parseCidr(text), "toJSON", { value: () => text }));
}

function parseCidr(text: string): Cidr {
  const [, address = "", length] = /^([^/%]+)(?:\/(0|[1-9]\d{0,2}))?$/.exec(text) ?? [];
  const bits = isIP(address) === 4 ? 32 : 128;
  const prefix = Number(length ?? bits);
  const plain = unmapped(address);
  if (plain === null || prefix > bits) throw new Error(EXPECTED);
  if (isIP(plain) === 6) return { address: plain, prefix, family: "ipv6", text };
  const outside = bits - 32;
  // `::ffff:0:0/90` holds more than the IPv4 addresses.
  if (prefix < outside) return { address, prefix, family: "ipv6", text };
  return { address: plain, prefix: prefix - outside, family: "ipv4", text };
}

/** Tests whether an address lies in one of `blocks`. Text that is no address lies in none; `::/0` holds no IPv4 address. */
export function holding(blocks: readonly Cidr[]): (ip: string) => boolean {
  if (blocks.length === 0) return () => false;
  // One list a family: Bun's `::/0` holds IPv4 addresses, too.
  const lists = { ipv4: new BlockList(), ipv6: new BlockList() };
  for (const { address, prefix, family } of blocks) lists[family].addSubnet(address, prefix, family);
  return (ip) => {
    const plain = unmapped(ip);
    if (plain === null) return false;
    return isIP(plain) === 4 ? lists.ipv4.check(plain, "ipv4") : lists.ipv6.check(plain, "ipv6");
  };
}

/**
 * An address without its zone (`fe80::1%eth0`), and an IPv4-mapped one (`::ffff:10.0.0.1`, what a dual-stack socket
 * reports) as its IPv4 address; null for any other text. Octets with leading zeros are refused, for some read them as octal.
 */
export function unmapped(ip: string): string | null {
  if (isIP(ip) === 4) return ip;
  const plain = ip.replace(/%[\w.-]+$/, "");
  if (isIP(plain) !== 6) return null;
  // The URL parser writes every form of an address the same way.
  const [, high, low] = /^\[::ffff:([\da-f]+):([\da-f]+)\]$/.exec(new URL(`http://[${plain}]`).hostname) ?? [];
  if (high === undefined || low === undefined) return plain;
  const [left, right] = [Number.parseInt(high, 16), Number.parseInt(low, 16)];
  return [left >> 8, left & 0xff, right >> 8, right & 0xff].join(".");
}

const LOOPBACK = ["127.0.0.0/8", "::1"];
const RFC_1918 = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
const isOwn = holding(LOOPBACK.map(parseCidr));
const isInside = holding(
  [...LOOPBACK, ...RFC_1918, "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10"].map(parseCidr),
);

/** Whether an address is private: RFC 1918, shared (Tailscale's 100.64.0.0/10), unique local, link-local, or this machine's own. Text with a zone is none. */
export function isPrivate(ip: string): boolean {
  return !ip.includes("%") && isInside(ip);
}

/** Whether only this machine reaches `host`: 127.0.0.0/8, ::1 (brackets allowed) or `localhost`. Other names are not, whatever they resolve to. */
export function isLoopback(host: string): boolean {
  return /^localhost\.?$/i.test(host) || isOwn(host.replace(/^\[(.*)\]$/, "$1"));
}
