#!/bin/bash
# Boots systemd as PID 1 in namespaces of its own, over an overlay of this machine's / that is gone afterwards, and stays there.
#   booted.sh FOLDER     FOLDER: an empty one; its seed/ is copied over / before the boot
# Prints "pid N" (of the new PID 1, as seen from here) once there is one. Ends with its standard input.
# Needs root, util-linux, overlayfs and a cgroup v2 tree. No network but a loopback of its own.
set -eu
work=$1
tree=/sys/fs/cgroup/unified
[ -d "$tree" ] || tree=/sys/fs/cgroup
[ -f "$tree/cgroup.procs" ] || { echo "no cgroup v2 tree" >&2; exit 1; }
group=$(mktemp -d "$tree/picket-booted-XXXXXXXX")

# What has nothing to manage here, or would look for devices.
masked="systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service
systemd-sysctl.service systemd-remount-fs.service systemd-modules-load.service systemd-binfmt.service systemd-random-seed.service
systemd-hwdb-update.service systemd-firstboot.service systemd-update-utmp.service systemd-pstore.service systemd-logind.service
systemd-networkd.service systemd-machine-id-commit.service systemd-journal-flush.service systemd-ask-password-console.path
systemd-ask-password-wall.path kmod-static-nodes.service ldconfig.service console-getty.service getty.target
proc-sys-fs-binfmt_misc.automount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount
sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount dpkg-db-backup.timer apt-daily.timer apt-daily-upgrade.timer
e2scrub_all.timer fstrim.timer logrotate.timer man-db.timer"

outside() {
	# What other tests have mounted: a file system stays, with its errors, until the copy in this namespace is unmounted, too.
	for mount in $(findmnt -rno TARGET | grep "^${TMPDIR:-/tmp}/"); do umount -l "$mount" 2>/dev/null || true; done
	mount -t tmpfs -o size=3g tmpfs "$work/mount"
	mkdir "$work/mount/upper" "$work/mount/scratch" "$work/mount/root"
	root=$work/mount/root
	mount -t overlay -o "lowerdir=/,upperdir=$work/mount/upper,workdir=$work/mount/scratch" overlay "$root"
	for place in dev run tmp; do mount -t tmpfs tmpfs "$root/$place"; done
	for device in null zero full random urandom tty; do
		: >"$root/dev/$device"
		mount --bind "/dev/$device" "$root/dev/$device"
	done
	mkdir "$root/dev/pts" "$root/dev/shm"
	mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
	mount -t tmpfs tmpfs "$root/dev/shm"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	# None of this machine's own services.
	rm -rf "$root/etc/systemd/system"
	mkdir -p "$root/etc/systemd/system"
	for unit in $masked; do ln -s /dev/null "$root/etc/systemd/system/$unit"; done
	printf '[Unit]\nDescription=Booted for tests\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' >"$root/etc/systemd/system/booted.target"
	: >"$root/etc/fstab"
	echo booted >"$root/etc/hostname"
	[ -s "$root/etc/machine-id" ] || echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
	cp -a "$work/seed/." "$root/"
}

inside() {
	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
	ip link set lo up 2>/dev/null || true
	cd "$root"
	mkdir -p .before
	pivot_root . .before
	cd /
	umount -l /.before
	exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=booted \
		/lib/systemd/systemd --system --unit=booted.target --log-target=journal --show-status=no </dev/null
}

export work group root=''
export -f outside inside
export masked
mkdir "$work/mount"
# shellcheck disable=SC2016
unshare --mount --propagation private bash -euc '
	echo $$ >"$group/cgroup.procs"
	outside
	export root
	exec unshare --pid --fork --kill-child=SIGKILL --mount --ipc --uts --net --cgroup bash -euc inside' </dev/null >"$work/boot.log" 2>&1 &
outer=$!
clean() {
	kill -9 "$outer" 2>/dev/null || true
	wait "$outer" 2>/dev/null || true
	# Its processes end a moment after its PID 1; what systemd made in it for its units is left empty.
	for _ in $(seq 100); do
		find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && return
		sleep 0.05
	done
}
trap clean EXIT
first=
for _ in $(seq 400); do
	kill -0 "$outer" 2>/dev/null || { cat "$work/boot.log" >&2; exit 1; }
	first=$(awk '{print $1}' "/proc/$outer/task/$outer/children" 2>/dev/null || true)
	if [ -n "$first" ] && grep -qs '^systemd' "/proc/$first/comm" && nsenter -t "$first" -a test -S /run/systemd/private 2>/dev/null; then
		echo "pid $first"
		cat >/dev/null
		exit 0
	fi
	sleep 0.05
done
cat "$work/boot.log" >&2
echo "systemd was not ready within 20 s" >&2
exit 1
