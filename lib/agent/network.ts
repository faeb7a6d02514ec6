// Bytes since boot over the interfaces, and their sum with each byte once: bridges, bonds, VLANs, tunnels and a switch's ports carry what another
// interface carries, too; veths and taps belong to guests.

import { type KernelFiles, numberIn } from "./kernel-files.ts";

interface Interface {
  name: string;
  received: number;
  sent: number;
  /** Its files in /sys: `device` if it is one, `lower_X` for each interface that it runs over, `master`, `upper_X`, `tun_flags`. */
  has: string[];
}

/** Names of interfaces that carry others' bytes or are guests', where /sys doesn't say so. */
const VIRTUAL = new RegExp(
  `^(docker|br-|veth|virbr|vmbr|fwbr|fwpr|fwln|tap|vnet|cni|flannel|cali|podman|lxcbr|lxdbr|incusbr|lxc[0-9a-f]{6}|cilium|nodelocaldns|
  kube-|ovs|dummy|ifb|tun|wg|tailscale|zt|ppp|nordlynx|gre|sit|ip6tnl|vxlan|geneve|(br|bond|team|vlan)\\d|.*\\.\\d+$)`.replace(
    /\s/g,
    "",
  ),
);
/** The kernel's own kinds of the same (DEVTYPE in `uevent`). */
const VIRTUAL_KIND = /^DEVTYPE=(bond|bridge|dsa|geneve|gre|gretap|hsr|ppp|vlan|vxlan|wireguard)$/m;

/** One end of a cable whose other end is a container or a guest: a host may have hundreds. */
const GUESTS = /^(veth|tap|vnet|fwbr|fwpr|fwln|cali|lxc[0-9a-f]{6})/;

/** The sums, and a report's `host.interfaces`; null if the kernel doesn't say. */
export function readNetwork(files: KernelFiles) {
  const lines = (files.text("proc/net/dev") ?? "").matchAll(/^ *([^:\s]+): *(\d+)(?: +\d+){7} +(\d+)/gm);
  const all = [...lines].map(([, name = "", received, sent]): Interface => {
    return { name, received: Number(received), sent: Number(sent), has: files.names(`sys/class/net/${name}`) };
  });
  if (all.length === 0) return null;
  const counted = new Set(counting(all, files));
  const shown = all.filter((one) => counted.has(one) || !(one.name === "lo" || GUESTS.test(one.name)));
  return {
    received: counted.values().reduce((sum, { received }) => sum + received, 0),
    sent: counted.values().reduce((sum, { sent }) => sum + sent, 0),
    list: shown.map((one) => ({
      name: one.name,
      rx_bytes: one.received,
      tx_bytes: one.sent,
      ...link(one, files),
      counted: counted.has(one),
    })),
  };
}

/** Tunnels have no state: "unknown" is up. Only devices and bonds have a speed, and only while they are up. */
function link({ name, has }: Interface, files: KernelFiles): { up: boolean | null; speed_mbit: number | null } {
  const state = files.text(`sys/class/net/${name}/operstate`)?.trim();
  const up = state === undefined ? null : state === "up" || state === "unknown";
  const hasSpeed = up === true && (has.includes("device") || has.includes("bonding"));
  const speed = hasSpeed ? numberIn(files.text(`sys/class/net/${name}/speed`)) : null;
  return { up, speed_mbit: speed !== null && speed > 0 ? speed : null };
}

/** A machine's devices. A container has none: there all that isn't virtual; if everything is (a tap alone), all that carries no other. */
function counting(all: Interface[], files: KernelFiles): Interface[] {
  const isDevice = ({ has }: Interface) => has.includes("device");
  const devices = all.filter(isDevice);
  /** It is part of another device, which counts its bytes, too: a cloud's virtual function below the synthetic card. */
  const isPart = ({ has }: Interface) =>
    has.includes("master") && devices.some(({ name }) => has.includes(`upper_${name}`));
  const runsOver = ({ has }: Interface) => all.some((one) => has.includes(`lower_${one.name}`) && !isPart(one));
  const isKind = ({ name }: Interface) => VIRTUAL_KIND.test(files.text(`sys/class/net/${name}/uevent`) ?? "");
  const own = all.filter((one) => one.name !== "lo" && !runsOver(one));
  const choices = [
    own.filter(
      (one) =>
        isDevice(one) && !isPart(one) && !isKind(one) && !files.names(`sys/class/net/${one.name}/device/physfn`).length,
    ),
    own.filter((one) => !VIRTUAL.test(one.name) && !one.has.includes("tun_flags") && !isKind(one)),
    own,
  ];
  return choices.find(({ length }) => length > 0) ?? [];
}
