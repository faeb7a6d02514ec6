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
  try --scale       the same with three receivers and two collectors on one PostgreSQL and one S3 server
  test              format check, lint, types, tests
  collector         install picket-collector on this host, or upgrade it; enable and start it
  receiver          the same for picket-receiver
  agent             the same for picket-agent
  observer          the same for picket-observer
    --no-start      only put it in place
    --user          as a user service (the default, except for root)
    --system        as a system service (the default for root)
    --uninstall     stop and remove it; data and configuration stay
    --url URL       agent: its receiver
    --token-stdin   agent: read its token from standard input; \`picket-receiver host add NAME\` prints the lines

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

# put FROM TO MODE: by rename. Sets `changed` if it changed anything.
put() {
	if [ -f "$2" ] && cmp -s "$1" "$2"; then
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

# Copies a new program beside its place, where the service's account can run it for a check. Sets `new`.
stage_program() {
	program=$programs/$(basename "$source")
	new=$program
	if [ "$(readlink -f "$source")" = "$(readlink -f "$program")" ]; then
		say "in place     $program"
	elif [ -f "$program" ] && cmp -s "$source" "$program"; then
		say "unchanged    $program"
	else
		mkdir -p "$programs"
		stage=$(mktemp -d "$programs/.picket-new.XXXXXX")
		trap 'rm -rf "$stage"' EXIT
		chmod 755 "$stage"
		new=$stage/$(basename "$source")
		cp "$source" "$new"
		chmod 755 "$new"
		new_program "$role" --version >/dev/null || fail "$source does not run on this machine: nothing was changed" "is it built for another processor? this one is $(uname -m)"
	fi
}

# new_program ROLE ARGUMENT…
new_program() {
	[ "$(basename "$new")" = picket ] || shift
	"$new" "$@"
}

# Nothing is replaced, and nothing restarted, while the new program refuses the configuration of a service that would start it next.
check_configurations() {
	[ -z "$dest" ] || return 0
	for other in collector receiver agent observer; do
		[ "$other" = "$role" ] || { [ "$new" != "$program" ] && [ "$(basename "$new")" = picket ] && is_link "$programs/picket-$other"; } || continue
		file=$(dirname "$config")/$other.yaml
		[ -e "$file" ] || continue
		# An agent that has no receiver yet.
		[ "$other" = agent ] && new_program agent example | cmp -s - "$file" && continue
		set -- --check
		[ -e "$(dirname "$unit")/picket-$other.service" ] || set -- --check --config "$file"
		code=0
		new_program "$other" "$@" >/dev/null || code=$?
		[ "$code" = 0 ] || fail "this program refuses the configuration of picket-$other: nothing was changed" "fix what the lines above name, then run this again" "$code"
	done
}

# keep FILE: as FILE.old, without a moment in which FILE is missing.
keep() {
	[ -e "$1" ] || return 0
	ln -f "$1" "$1.old" 2>/dev/null || cp -p "$1" "$1.old"
	kept="$kept $1"
}

# One rename replaces a role's own program by the link. Services of other roles keep running the file that they were started from.
install_program() {
	kept=
	[ ! -e "$unit" ] || former_unit=$(cat "$unit")
	if [ "$new" != "$program" ]; then
		keep "$program"
		mv -f "$new" "$program"
		say "installed    $program"
		changed=yes
	fi
	if [ "$program" = "$binary" ]; then
		return 0
	elif is_link "$binary"; then
		say "unchanged    $binary -> picket"
	else
		keep "$binary"
		ln -s picket "$binary.new.$$"
		mv -f "$binary.new.$$" "$binary"
		say "linked       $binary -> picket"
		changed=yes
	fi
}

# The former program and unit, when the new program doesn't get ready.
put_back() {
	for file in $kept; do
		mv -f "$file.old" "$file"
		say "put back     $file"
	done
	[ -z "${former_unit:-}" ] || printf '%s\n' "$former_unit" >"$unit"
	control daemon-reload
	control restart "picket-$role.service" || fail "the former picket-$role does not start either" "journalctl -u picket-$role"
	fail "the new picket-$role does not get ready: the former one runs again" "its log is above"
}

is_link() { [ "$(readlink "$1" || true)" = picket ]; }

make_account() {
	[ "$scope" = system ] && [ -z "$dest" ] && [ "$role" != agent ] || return 0
	id picket >/dev/null 2>&1 || add_account
	# systemd makes it, too, where there is one.
	[ -d "$data" ] || install -d -o picket -g picket "$data"
}

add_account() {
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

# What sudo keeps from us: it drops the caller's variables, but its own process still has them.
is_dropped() { [ -n "${SUDO_UID:-}" ] && tr '\0' '\n' <"/proc/$PPID/environ" 2>/dev/null | grep -q '^PICKET_'; }

# The agent's receiver: --url and --token-stdin, else PICKET_URL and PICKET_TOKEN.
read_receiver() {
	url=${url:-${PICKET_URL:-}}
	token=${PICKET_TOKEN:-}
	# They would override the configuration that is checked below.
	unset PICKET_URL PICKET_TOKEN
	# An argument would show in the list of processes.
	if [ "$token_stdin" = yes ]; then
		[ ! -t 0 ] || say "paste the token, then press Enter:"
		token=
		IFS= read -r token || true
		token=$(printf %s "$token" | tr -d '[:space:]')
		[ -n "$token" ] || fail "there is no token on standard input" "echo pk_… | ./$name agent --url URL --token-stdin" 2
	fi
	case $url in
	*[!A-Za-z0-9._~:/@%\[\]-]*) fail "--url \"$url\" is not a URL" "such as --url https://hub.example" 2 ;;
	'' | http://?* | https://?*) ;;
	*) fail "--url \"$url\" is no http or https URL" "such as --url https://hub.example" 2 ;;
	esac
	url=${url%/}
	[ -z "$url" ] || [ -n "$token" ] || fail "the receiver's token is missing" "picket-receiver host add NAME prints the lines" 2
	[ -z "$url$token" ] || return 0
	! is_dropped || say "sudo dropped the exported PICKET_ variables: use --url and --token-stdin"
	[ ! -e "$config" ] && [ "$start" = yes ] && [ -z "$dest" ] || return 0
	fail "the agent needs --url and --token-stdin" "on the receiver, picket-receiver host add NAME prints the lines; --no-start installs without" 2
}

install_config() {
	if [ "$role" = agent ] && [ -n "$url$token" ]; then
		connect_agent
	elif [ -e "$config" ]; then
		say "kept         $config"
	else
		temporary=$(mktemp)
		new_program "$role" example >"$temporary"
		put "$temporary" "$config" 644
		rm -f "$temporary"
		# An agent without its receiver's address and token would not start.
		[ "$role" != agent ] || start=incomplete
	fi
}

# Writes url and token into the configuration: into the example, or one that is valid but does not reach its receiver. One that works stays.
connect_agent() {
	connecting=yes
	folder=$(dirname "$config")
	if [ -e "$config" ] && answer=$(new_program agent ping --config "$config" 2>/dev/null); then
		say "kept         $config: it works, $answer"
		same=no
		case $(cat "$folder/token" "$config" 2>/dev/null) in *"$token"*) same=yes ;; esac
		[ -z "$url" ] || new_program agent --check --print --config "$config" 2>/dev/null | grep -qxF -- "  url: $url" || same=no
		[ $same = yes ] || fail "picket-agent reports already, with another url or token: nothing was changed" "to change that, set receiver.url and the token in $config, then: systemctl restart picket-agent"
		return 0
	fi
	mkdir -p "$folder"
	(umask 077 && printf '%s\n' "$token" >"$folder/token.new.$$" && mv -f "$folder/token.new.$$" "$folder/token")
	say "installed    $folder/token"
	changed=yes
	temporary=$(mktemp)
	if ! { [ -e "$config" ] && with_receiver <"$config" >"$temporary" && new_program agent --check --config "$temporary" >/dev/null 2>&1; }; then
		[ -n "$url" ] || fail "there is no valid $config to put the token into" "give --url, too" 2
		new_program agent example | with_receiver >"$temporary"
	fi
	[ ! -e "$config" ] || cmp -s "$temporary" "$config" || { mv "$config" "$config.old" && say "kept         $config.old"; }
	put "$temporary" "$config" 644
	rm -f "$temporary"
	new_program agent --check --config "$config" >/dev/null || fail "the agent does not accept this configuration" "run this again with another --url" $?
}

# The configuration on stdin with the given receiver and its token.
with_receiver() {
	set -- -e "/^receiver:/,/^[^ #]/s|^  token\(_file\)\{0,1\}: .*|  token_file: ${folder#"$dest"}/token|"
	[ -z "$url" ] || set -- "$@" -e "/^receiver:/,/^[^ #]/s|^  url: .*|  url: $url|"
	sed "$@"
}

# In a folder that Syncthing synchronizes, dead letters and unfinished files stay on this host.
tell_syncthing() {
	folder=$(HOME=$1 "$binary" --check --print --config "$config" 2>/dev/null | sed -n '/^drop_folder:/,/^[^ ]/s/^  path: //p' | tr -d '"')
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
	[ -z "$kept" ] || put_back
	code=$(control show --property=ExecMainStatus --value "picket-$role.service")
	[ "$code" != 0 ] || code=1
	fail "picket-$role does not start" "check the configuration: $binary --check --config $config" "$code"
}

# The agent goes on without its receiver; a wrong address must show now.
reach_receiver() {
	[ -n "$connecting" ] && [ -z "$dest" ] && [ "$start" = yes ] || return 0
	code=0
	"$binary" ping --config "$config" || code=$?
	[ "$code" = 0 ] || fail "picket-agent is installed, but does not reach its receiver" "if --url is wrong, run this again with the right one" "$code"
}

linger() {
	[ "$scope" = user ] && has_manager && command -v loginctl >/dev/null || return 0
	[ "$(loginctl show-user "$(id -un)" --property=Linger --value 2>/dev/null || true)" = no ] || return 0
	say "it stops when you log out; to keep it running: loginctl enable-linger $(id -un)"
}

install_role() {
	[ "$role" != agent ] || read_receiver
	find_program
	step "picket-$role as a $scope service"
	make_account
	stage_program
	install_config
	check_configurations
	install_program
	install_unit
	if [ "$role" = collector ]; then
		if [ "$scope" = user ]; then tell_syncthing "$HOME"; else tell_syncthing "$data"; fi
	fi
	start
	reach_receiver
	linger
	[ -z "$dest" ] || return 0
	say ""
	case ":$PATH:" in
	*":$(dirname "$binary"):"*) ;;
	*) say "not on PATH    $(dirname "$binary"): add it there, or type the whole path" ;;
	esac
	say "configuration  $config (check: $binary --check --config $config)"
	if [ "$role" = receiver ]; then
		say "a host         $binary host add NAME"
		listen=$(sed -n 's/^listen: *\([^ #]*\).*/\1/p' "$config")
		say "the fleet      http://${listen:-127.0.0.1:18791} in a browser; $binary status"
	fi
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
	set -- "$unit" "$binary" "$binary.old"
	! is_last_link || set -- "$@" "$programs/picket" "$programs/picket.old"
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
	url=
	token_stdin=no
	connecting=
	action=install_role
	while [ $# -gt 0 ]; do
		case $1 in
		--no-start) start=no ;;
		--user) scope=user ;;
		--system) scope=system ;;
		--uninstall) action=uninstall_role ;;
		--token-stdin) token_stdin=yes ;;
		--url=*) url=${1#*=} ;;
		--url)
			[ $# -gt 1 ] || fail "flag \"--url\" needs a value" "such as --url https://hub.example" 2
			url=$2
			shift
			;;
		*) fail "unknown flag \"$1\"" "see ./$name --help" 2 ;;
		esac
		shift
	done
	[ "$role" = agent ] || [ "$url$token_stdin" = no ] || fail "--url and --token-stdin are the agent's" "see ./$name --help" 2
	places
	$action
}

command=${1:---help}
[ $# -eq 0 ] || shift
case $command in
try)
	for flag in "$@"; do
		case $flag in --once | --scale) ;; *) fail "unknown flag \"$flag\"" "see ./$name --help" 2 ;; esac
	done
	set_up
	build
	# There is s3rver, for --scale.
	PATH=$PATH:$here/node_modules/.bin
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
