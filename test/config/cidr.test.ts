import { expect, test } from "bun:test";
import * as v from "valibot";
import { cidr, holding, isLoopback, unmapped } from "../../lib/config.ts";

const holds = (texts: string[], ip: string) => holding(texts.map((text) => v.parse(cidr(), text)))(ip);

test.each([
  ["10.0.0.1", "10.0.0.1"],
  ["255.255.255.255", "255.255.255.255"],
  ["::", "::"],
  ["2001:DB8:0:0:1:2:3:4", "2001:DB8:0:0:1:2:3:4"],
  ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7::"],
  ["64:ff9b::192.0.2.33", "64:ff9b::192.0.2.33"],
  ["::ffff:10.0.0.1", "10.0.0.1"],
  ["::ffff:a00:1", "10.0.0.1"],
  ["0:0:0:0:0:FFFF:10.0.0.1", "10.0.0.1"],
  ["::ffff:0:10.0.0.1", "::ffff:0:10.0.0.1"],
  ["fe80::1%eth0", "fe80::1"],
])("the address %s is %s", (text, address) => {
  expect(unmapped(text)).toBe(address);
});

test.each([
  "",
  "10.0.0",
  "10.0.0.0.1",
  "10.0.0.256",
  "010.0.0.1",
  "1e1.0.0.1",
  " 10.0.0.1",
  "10.0.0.1\n",
  ":",
  ":::",
  "1::2::3",
  "1:2:3:4:5:6:7",
  "1:2:3:4:5:6:7:8:9",
  "1:2:3:4:5:6:7:8::",
  "12345::",
  "::g",
  "::1.2.3",
  "1.2.3.4::",
  "[::1]",
  "localhost",
])("%p is no address", (text) => {
  expect(unmapped(text)).toBeNull();
});

test.each([
  "10.0.0.0/33",
  "10.0.0.0/-1",
  "10.0.0.0/",
  "10.0.0.0/08",
  "10.0.0.0/8/8",
  "::/129",
  "/8",
  "fe80::1%eth0/64",
  "example.com/8",
])("%p is no CIDR", (text) => {
  expect(v.safeParse(cidr(), text).success).toBe(false);
});

test.each([
  ["10.0.0.0/8", "10.255.0.1", true],
  ["10.0.0.0/8", "11.0.0.1", false],
  ["192.168.1.10/24", "192.168.1.77", true],
  ["192.168.1.128/25", "192.168.1.127", false],
  ["192.168.1.7", "192.168.1.7", true],
  ["192.168.1.7", "192.168.1.8", false],
  ["0.0.0.0/0", "203.0.113.9", true],
  ["0.0.0.0/0", "::1", false],
  ["::/0", "2001:db8::1", true],
  ["::/0", "203.0.113.9", false],
  ["fd00::/8", "fdff::1", true],
  ["fd00::/8", "fe00::1", false],
  ["2001:db8::/33", "2001:db8:7fff::", true],
  ["2001:db8::/33", "2001:db8:8000::", false],
  ["10.0.0.0/8", "::ffff:10.1.2.3", true],
  ["::ffff:10.0.0.0/104", "10.1.2.3", true],
  ["::ffff:10.0.0.0/104", "11.1.2.3", false],
  ["::ffff:10.0.0.1", "10.0.0.1", true],
  ["::/0", "::ffff:10.0.0.1", false],
  ["::ffff:0:0/90", "10.0.0.1", false],
  ["::ffff:0:0/90", "::1", false],
  ["::ffff:0:0/90", "::40:0:0", false],
  ["fe80::/10", "fe80::1%eth0", true],
  ["10.0.0.0/8", "not an address", false],
])("whether %s holds %s: %p", (block, ip, expected) => {
  expect(holds([block], ip)).toBe(expected);
});

test("an address has to lie in one of the list only, and in an empty list lies none", () => {
  expect(holds(["10.0.0.0/8", "fd00::/8"], "fd00::1")).toBe(true);
  expect(holds([], "127.0.0.1")).toBe(false);
});

test("loopback is 127.0.0.0/8, ::1 and localhost, and nothing that only looks like it", () => {
  for (const host of [
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "[::1]",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
    "localhost",
    "LOCALHOST",
  ]) {
    expect([host, isLoopback(host)]).toEqual([host, true]);
  }
  for (const host of ["", "0.0.0.0", "::", "10.0.0.1", "::2", "localhost.example", "127.0.0.1.example", "127.1"]) {
    expect([host, isLoopback(host)]).toEqual([host, false]);
  }
});
