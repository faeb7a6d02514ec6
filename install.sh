#!/bin/sh
# Tries Picket out, tests it, or installs it on this host. `./install.sh --help` says how.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
name=$(basename "$0")
dest=${DESTDIR:-}
while [ "$dest" != "${dest%/}" ]; do dest=${dest%/}; done
case $dest in '' | /*) ;; *) dest=$(pwd)/$dest ;; esac

usage() {
	cat <<TEXT
usage: ./$name COMMAND

  try [--once]      build it, run all four roles in a temporary folder and show what they do, until Ctrl-C (--once: until
                    all is shown); removes everything afterwards
  test              format check, lint, types, tests
  collector         install picket-collector on this host, or upgrade it; enable and start it
  receiver          the same for picket-receiver
  agent             the same for picket-agent
  observer          the same for picket-observer
    --no-start      only put it in place
    --user          as a user service (the default, except for root)
    --system        as a system service (the default for root)
    --uninstall     stop and remove it; data and configuration stay

All roles are one program, picket, with a link for each. To build it you need Node.js with npm, or Bun. If a prebuilt picket
(or picket-ROLE) lies beside this script, you need neither.
DESTDIR=/some/root installs into that root and starts nothing.

example: ./$name try
TEXT
}

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
fail() {
	printf '%s: error: %s\n' "$name" "$1" >&2
	[ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
	exit "${3:-1}"
}

# ---------------------------------------------------------------------------------------------------------------
# Bun, packages, binary

pinned() { sed -n 's/.*"packageManager": "bun@\([^"]*\)".*/\1/p' "$here/package.json"; }

# True when $1 is a Bun of the pinned version.
is_bun() { [ "$("$1" --version 2>/dev/null || true)" = "$pin" ]; }

# Installs Bun from npm into .bun/ beside the project.
bun_from_npm() {
	say "getting Bun $pin from npm into .bun/ (about 100 MB)"
	npm install --prefix "$here/.bun" --no-save --no-package-lock --no-audit --no-fund --loglevel=error --fetch-retries=1 --fetch-timeout=60000 "bun@$pin" >&2 ||
		fail "npm could not install bun@$pin" "is the npm registry reachable? try: npm view bun version"
	# With install scripts switched off npm leaves a stand-in; this is the script that it didn't run.
	is_bun "$here/.bun/node_modules/.bin/bun" || node "$here/.bun/node_modules/bun/install.js" >&2 || true
}

set_up() {
	[ -f "$here/package.json" ] || fail "there is no source beside $name to build from" "clone the repository, or put a prebuilt picket here"
	pin=$(pinned)
	step "Bun $pin"
	bun=
	for candidate in "$(command -v bun 2>/dev/null || true)" "$here/node_modules/.bin/bun" "$here/.bun/node_modules/.bin/bun"; do
		if [ -n "$candidate" ] && is_bun "$candidate"; then
			bun=$candidate
			break
		fi
	done
	if [ -z "$bun" ] && command -v npm >/dev/null && command -v node >/dev/null; then
		bun_from_npm
		bun=$here/.bun/node_modules/.bin/bun
		is_bun "$bun" || fail "Bun from npm does not run on this machine" "try it yourself: $bun --version"
	elif [ -z "$bun" ] && command -v bun >/dev/null; then
		say "the bun on PATH is $(bun --version), the pinned one comes with the packages"
		(cd "$here" && bun install --frozen-lockfile) || fail "bun install failed" "is the npm registry reachable?"
		bun=$here/node_modules/.bin/bun
		is_bun "$bun" || fail "Bun $pin is needed, found $(command bun --version)" "install it: bun upgrade, or npm install -g bun@$pin"
	elif [ -z "$bun" ]; then
		fail "neither Bun nor Node.js with npm is here" "install one of them first: apt install nodejs npm"
	fi
	say "using $bun"
	PATH=$(dirname "$bun"):$PATH
	export PATH

	step "packages"
	(cd "$here" && "$bun" install --frozen-lockfile) || fail "the packages could not be installed" "is the npm registry reachable? is the disk full?"
}

build() {
	step "build"
	(cd "$here" && "$bun" build.ts --only picket) || fail "the build failed" "is there room for 115 MB in $here/dist?"
}

# ---------------------------------------------------------------------------------------------------------------
# install on this host

changed=

# put FROM TO MODE: by rename, because a running binary can't be written to. Sets `changed` if it changed anything.
put() {
	if [ "$(readlink -f "$1")" = "$(readlink -f "$2")" ]; then
		say "in place     $2"
	elif [ -f "$2" ] && cmp -s "$1" "$2"; then
		say "unchanged    $2"
	else
		mkdir -p "$(dirname "$2")"
		cp "$1" "$2.new.$$"
		chmod "$3" "$2.new.$$"
		mv -f "$2.new.$$" "$2"
		say "installed    $2"
		changed=yes
	fi
}

control() {
	if [ "$scope" = user ]; then systemctl --user "$@"; else systemctl "$@"; fi
}

# Whether there is a service manager of this scope to talk to.
has_manager() { [ -z "$dest" ] && command -v systemctl >/dev/null && control show-environment >/dev/null 2>&1; }

places() {
	if [ "$scope" = system ]; then
		programs=$dest/usr/local/bin
		unit=$dest/etc/systemd/system/picket-$role.service
		config=$dest/etc/picket/$role.yaml
		data=/var/lib/picket
		[ "$role" != agent ] || data=/var/lib/picket-agent
	else
		programs=$dest$HOME/.local/bin
		unit=$dest${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/picket-$role.service
		config=$dest${XDG_CONFIG_HOME:-$HOME/.config}/picket/$role.yaml
		data=$HOME/.local/share/picket
	fi
	binary=$programs/picket-$role
}

# The program that is built here, or lies beside this script: the one for all roles, or this role's own.
find_program() {
	if [ -f "$here/package.json" ] && [ -f "$here/picket.ts" ]; then
		set_up
		build
		source=$here/dist/picket
		return 0
	fi
	for source in "$here/picket" "$here/picket-$role" "$here/dist/picket" "$here/dist/picket-$role"; do
		[ ! -f "$source" ] || return 0
	done
	fail "there is no picket and no picket-$role beside $name, and no source to build it from"
}

# One rename replaces a role's own program by the link. Services of other roles keep running the file that they were started from.
install_program() {
	if [ "$(basename "$source")" != picket ]; then
		put "$source" "$binary" 755
		return 0
	fi
	put "$source" "$programs/picket" 755
	if is_link "$binary"; then
		say "unchanged    $binary -> picket"
	else
		ln -s picket "$binary.new.$$"
		mv -f "$binary.new.$$" "$binary"
		say "linked       $binary -> picket"
		changed=yes
	fi
}

is_link() { [ "$(readlink "$1" || true)" = picket ]; }

make_account() {
	[ "$scope" = system ] && [ -z "$dest" ] && [ "$role" != agent ] || return 0
	id picket >/dev/null 2>&1 && return 0
	command -v useradd >/dev/null || fail "there is no useradd to make the account picket with" "make a system user picket with the home folder $data, then run this again"
	useradd --system --user-group --home-dir "$data" --no-create-home --shell /usr/sbin/nologin picket
	say "made         system account picket"
}

install_unit() {
	temporary=$(mktemp)
	user_flag=
	[ "$scope" = system ] || user_flag=--user
	# shellcheck disable=SC2086
	"$binary" unit $user_flag | sed "s|=$dest/|=/|" >"$temporary"
	put "$temporary" "$unit" 644
	rm -f "$temporary"
}

install_config() {
	if [ -e "$config" ]; then
		say "kept         $config"
		return 0
	fi
	temporary=$(mktemp)
	if [ "$role" = agent ] && [ -n "${PICKET_URL:-}" ] && [ -n "${PICKET_TOKEN:-}" ]; then
		(umask 077 && mkdir -p "$(dirname "$config")" && printf '%s\n' "$PICKET_TOKEN" >"$(dirname "$config")/token")
		say "installed    $(dirname "$config")/token"
		"$binary" example | sed "s|^  url: .*|  url: $PICKET_URL|; s|^  token_file: .*|  token_file: ${config#"$dest"}|; s|agent.yaml$|token|" >"$temporary"
	else
		"$binary" example >"$temporary"
		# An agent without its receiver's address and token would not start.
		[ "$role" != agent ] || start=incomplete
	fi
	put "$temporary" "$config" 644
	rm -f "$temporary"
}

# In a folder that Syncthing synchronizes, dead letters and unfinished files stay on this host.
tell_syncthing() {
	folder=$(HOME=${1} "$binary" --check --print --config "$config" 2>/dev/null | sed -n '/^drop_folder:/,/^[^ ]/s/^  path: //p' | tr -d '"')
	while [ -n "$folder" ] && [ "$folder" != / ]; do
		if [ -e "$folder/.stfolder" ]; then
			for pattern in '.dead-letter/' '*.tmp'; do
				grep -qxF -- "$pattern" "$folder/.stignore" 2>/dev/null && continue
				printf '%s\n' "$pattern" >>"$folder/.stignore"
				say "added        $pattern to $folder/.stignore"
			done
			return 0
		fi
		folder=$(dirname "$folder")
	done
}

start() {
	if [ -n "$dest" ]; then
		say "not started: this is the root $dest"
		return 0
	elif ! has_manager; then
		say "not started: no systemd to talk to here"
		say "run it yourself: $binary"
		return 0
	fi
	control daemon-reload
	control enable --quiet "picket-$role.service"
	if [ "$start" = no ]; then
		say "enabled, not started"
	elif [ "$start" = incomplete ]; then
		say "enabled, not started: put the receiver's url and token into $config"
	elif ! control is-active --quiet "picket-$role.service"; then
		control start "picket-$role.service" || failed_to_start
		say "started      picket-$role.service"
	elif [ -n "$changed" ] || is_outdated; then
		control restart "picket-$role.service" || failed_to_start
		say "restarted    picket-$role.service"
	else
		say "running      picket-$role.service, unchanged"
	fi
}

# Whether the service runs a file that was replaced after its start, by the installation of another role for example.
is_outdated() {
	pid=$(control show --property=MainPID --value "picket-$role.service")
	running=$(stat -L -c %d:%i "/proc/$pid/exe" 2>/dev/null) && [ "$running" != "$(stat -L -c %d:%i "$binary")" ]
}

failed_to_start() {
	control status --no-pager --lines=8 "picket-$role.service" >&2 || true
	fail "picket-$role does not start" "check the configuration: $binary --check --config $config"
}

linger() {
	[ "$scope" = user ] && has_manager && command -v loginctl >/dev/null || return 0
	[ "$(loginctl show-user "$(id -un)" --property=Linger --value 2>/dev/null || true)" = no ] || return 0
	say "it stops when you log out; to keep it running: loginctl enable-linger $(id -un)"
}

install_role() {
	find_program
	step "picket-$role as a $scope service"
	make_account
	install_program
	install_unit
	install_config
	if [ "$role" = collector ]; then
		if [ "$scope" = user ]; then tell_syncthing "$HOME"; else tell_syncthing "$data"; fi
	fi
	start
	linger
	[ -z "$dest" ] || return 0
	say ""
	case ":$PATH:" in
	*":$(dirname "$binary"):"*) ;;
	*) say "not on PATH    $(dirname "$binary"): add it there, or type the whole path" ;;
	esac
	say "configuration  $config (check: $binary --check --config $config)"
	[ "$role" != receiver ] || say "a host         $binary host add NAME"
	[ "$role" != agent ] || say "try it         $binary selftest --config $config"
	[ "$role" != observer ] || say "figures        $binary stats --config $config"
	if [ "$scope" = user ]; then
		say "status         systemctl --user status picket-$role; journalctl --user -u picket-$role"
	else
		say "status         systemctl status picket-$role; journalctl -u picket-$role"
	fi
}

# Whether this role is the last one that is a link to picket.
is_last_link() {
	is_link "$binary" || return 1
	for other in collector receiver agent observer; do
		[ "$other" = "$role" ] || ! is_link "$programs/picket-$other" || return 1
	done
}

uninstall_role() {
	step "removing picket-$role ($scope service)"
	if has_manager && [ -e "$unit" ]; then
		control disable --now --quiet "picket-$role.service" || true
	fi
	set -- "$unit" "$binary"
	! is_last_link || set -- "$@" "$programs/picket"
	for file in "$@"; do
		if [ -e "$file" ] || [ -L "$file" ]; then
			rm -f "$file"
			say "removed      $file"
		fi
	done
	! has_manager || control daemon-reload
	say "left alone: the configuration $config and the data in $data"
}

install_or_remove() {
	role=$1
	shift
	scope=user
	[ "$(id -u)" != 0 ] || scope=system
	start=yes
	action=install_role
	for flag in "$@"; do
		case $flag in
		--no-start) start=no ;;
		--user) scope=user ;;
		--system) scope=system ;;
		--uninstall) action=uninstall_role ;;
		*) fail "unknown flag \"$flag\"" "see ./$name --help" 2 ;;
		esac
	done
	places
	$action
}

command=${1:---help}
[ $# -eq 0 ] || shift
case $command in
try)
	case ${1:-} in '' | --once) ;; *) fail "unknown flag \"$1\"" "see ./$name --help" 2 ;; esac
	set_up
	build
	exec "$here/dist/picket" try "$@"
	;;
test)
	set_up
	step "format, lint, types, tests"
	cd "$here" && "$bun" run ok
	;;
collector | receiver | agent | observer) install_or_remove "$command" "$@" ;;
-h | --help | help) usage ;;
*) fail "unknown command \"$command\"" "see ./$name --help" 2 ;;
esac
