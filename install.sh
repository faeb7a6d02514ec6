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

  try [--once]      build, start all four in a temporary folder, show a webhook, a dropped file, reports and episodes
                    arrive, a host go silent and a failure that repeats be told; runs until Ctrl-C and leaves nothing
                    behind (--once: ends by itself)
  test              format check, lint, types, tests
  collector         install picket-collector on this host, enable and start it
  receiver          install picket-receiver on this host, enable and start it
  agent             install picket-agent on this host, enable and start it
  observer          install picket-observer on this host, enable and start it
    --no-start      only put it in place
    --user          as a user service (the default, except for root)
    --system        as a system service (the default for root)
    --uninstall     stop and remove it; data and configuration stay

Needs Node.js with npm, or Bun; for installing prebuilt binaries beside this script nothing at all.
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

# Bun from npm, into a folder of its own beside the project.
bun_from_npm() {
	say "getting Bun $pin from npm into .bun/ (about 100 MB)"
	npm install --prefix "$here/.bun" --no-save --no-package-lock --no-audit --no-fund --loglevel=error --fetch-retries=1 --fetch-timeout=60000 "bun@$pin" >&2 ||
		fail "npm could not install bun@$pin" "is the npm registry reachable? try: npm view bun version"
	# With install scripts switched off npm leaves a stand-in; this is the script that it didn't run.
	is_bun "$here/.bun/node_modules/.bin/bun" || node "$here/.bun/node_modules/bun/install.js" >&2 || true
}

set_up() {
	[ -f "$here/package.json" ] || fail "there is no source beside $name to build from" "clone the repository, or put a prebuilt picket-collector here"
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
	(cd "$here" && "$bun" build.ts) || fail "the build failed" "is there room for 110 MB a role in $here/dist?"
}

# ---------------------------------------------------------------------------------------------------------------
# try

demo=
daemons=

leave() {
	trap - EXIT INT TERM HUP
	for daemon in $daemons; do kill "$daemon" 2>/dev/null || true; done
	for daemon in $daemons; do wait "$daemon" 2>/dev/null || true; done
	[ -z "$demo" ] || rm -rf "$demo"
}

# Starts a role of the demonstration on port $2; gives where it listens in $address, or fails.
start_on() {
	sed "s/PORT/$2/" "$demo/$1.template.yaml" >"$demo/$1.yaml"
	"$here/dist/picket-$1" --config "$demo/$1.yaml" 2>"$demo/$1.log" &
	started=$!
	daemons="$daemons $started"
	tries=0
	while ! grep -q ' ready ' "$demo/$1.log"; do
		kill -0 "$started" 2>/dev/null || return 1
		tries=$((tries + 1))
		[ $tries -lt 100 ] || return 1
		sleep 0.1
	done
	address=$(sed -n 's/.* ready listen=\([^ ]*\).*/\1/p' "$demo/$1.log")
}

# The role's own port, or another one where that is taken.
start_demo() {
	sed "s/^/   /; s/PORT/$2/" "$demo/$1.template.yaml"
	start_on "$1" "$2" || start_on "$1" 0 || {
		cat "$demo/$1.log" >&2
		fail "the $1 did not start"
	}
	say "   running, listening on $address"
}

# send METHOD FILE URL [HEADER …]: shows the curl command and runs it (or its like, where there is no curl).
send() {
	method=$1 file=$2 url=$3
	shift 3
	shown=
	for header in "$@"; do shown="$shown -H '$header'"; done
	say "\$ curl -X $method --data-binary @$(basename "$file")$shown $url"
	if command -v curl >/dev/null; then
		for header in "$@"; do
			set -- "$@" -H "$header"
			shift
		done
		curl -sS -X "$method" -w '   (%{http_code})\n' --data-binary "@$file" "$@" "$url"
	else
		"$bun" -e 'const [method, file, url, ...headers] = process.argv.slice(1);
			const answer = await fetch(url, { method, body: Bun.file(file), headers: headers.map((one) => one.split(": ")) });
			console.log(await answer.text() + "   (" + answer.status + ")");' "$method" "$file" "$url" "$@"
	fi
}

# await_event TEXT: until a line of the inbox has it.
await_event() {
	tries=0
	until grep -qsF -- "$1" "$demo/inbox/ops.inbox"; do
		tries=$((tries + 1))
		if [ $tries -gt 300 ]; then
			cat "$demo"/*.log >&2
			fail "the event did not arrive: $1"
		fi
		sleep 0.1
	done
}

demo_collector() {
	step "a collector with one webhook route and one drop folder"
	mkdir "$demo/drops"
	cat >"$demo/collector.template.yaml" <<YAML
agent: demo
inbox_dir: $demo/inbox
webhook:
  listen: 127.0.0.1:PORT
  routes:
    - path: /github
      recipient: ops
      type: INFO
      template: 'push to {{ .repository.full_name }} by {{ .pusher.name }}: {{ .ref }}'
    - path: /note
      recipient: ops
      type: INFO
      template: '{{ .text }}'
drop_folder: { path: $demo/drops }
YAML
	start_demo collector 18790
	collector=$address

	step "a GitHub push payload comes in"
	(cd "$here" && "$bun" -e 'const all = require("@octokit/webhooks-examples"); await Bun.write(process.argv[1], JSON.stringify(all.find((one) => one.name === "push").examples[0]))' "$demo/push.json")
	send POST "$demo/push.json" "http://$collector/github" "Content-Type: application/json"
	await_event webhook:/github

	step "a file is dropped"
	say "\$ echo '{\"recipient\":\"ops\",\"type\":\"INFO\",\"payload\":\"hello from a file\"}' > drops/hello.json"
	echo '{"recipient":"ops","type":"INFO","payload":"hello from a file"}' >"$demo/drops/hello.json"
	await_event 'hello from a file'

	step "what came of it: $demo/inbox/ops.inbox"
	cat "$demo/inbox/ops.inbox"
}

# This machine as a report: what /proc and df say.
write_report() {
	used_mb=$(awk '/^MemTotal/ {t=$2} /^MemAvailable/ {a=$2} END {printf "%d", (t - a) / 1024}' /proc/meminfo 2>/dev/null || echo null)
	total_mb=$(awk '/^MemTotal/ {printf "%d", $2 / 1024}' /proc/meminfo 2>/dev/null || echo null)
	disk=$(df -kP / | awk 'NR == 2 {printf "\"disk_used_gb\":%d,\"disk_total_gb\":%d", $3 / 1048576, $2 / 1048576}')
	load=$(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo null)
	uptime=$(cut -d. -f1 /proc/uptime 2>/dev/null || echo null)
	printf '{"recorded_at":"%s","host":{"metrics":{"memory_used_mb":%s,"memory_total_mb":%s,%s,"load_average":%s,"uptime_seconds":%s},"facts":{"kernel":"%s","arch":"%s"}}}\n' \
		"$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$used_mb" "$total_mb" "$disk" "$load" "$uptime" "$(uname -r)" "$(uname -m)" >"$demo/report.json"
}

demo_receiver() {
	step "a receiver with one host"
	cat >"$demo/receiver.template.yaml" <<YAML
listen: 127.0.0.1:PORT
data_dir: $demo/receiver
notify: { recipient: ops, inbox_dir: $demo/inbox }
YAML
	start_demo receiver 18791
	receiver=$address
	say "\$ picket-receiver host add demo"
	"$here/dist/picket-receiver" host add demo --url "http://$receiver" --config "$demo/receiver.yaml" | tee "$demo/host"
	token=$(sed -n 's/^export PICKET_TOKEN=//p' "$demo/host")

	step "this machine is reported"
	write_report
	cat "$demo/report.json"
	send POST "$demo/report.json" "http://$receiver/v1/host-report" "Authorization: Bearer $token"

	step "an episode is shipped"
	mkdir -p "$demo/episodes/ep-1"
	echo '{"code_version":{"commit":"0123456789abcdef0123456789abcdef01234567"}}' >"$demo/episodes/ep-1/meta.json"
	cp "$demo/push.json" "$demo/episodes/ep-1/"
	tar -C "$demo/episodes" -cf "$demo/ep-1.tar" ep-1
	hash=$("$bun" -e 'const [tar, out] = process.argv.slice(1); const bytes = Bun.zstdCompressSync(await Bun.file(tar).bytes());
		await Bun.write(out, bytes); console.log(new Bun.CryptoHasher("sha256").update(bytes).digest("hex"));' "$demo/ep-1.tar" "$demo/ep-1.tar.zst")
	send PUT "$demo/ep-1.tar.zst" "http://$receiver/v1/episodes/demo/ep-1.tar.zst" "Authorization: Bearer $token" \
		"Content-Type: application/zstd" "X-Content-SHA256: $hash" "X-Schema-Version: 1"
	cat "$demo/receiver/index.jsonl"
	say "\$ picket-receiver host list"
	"$here/dist/picket-receiver" host list --config "$demo/receiver.yaml"
}

demo_agent() {
	step "an agent reports this machine, and ships what is finished"
	"$here/dist/picket-receiver" host add this-machine --url "http://$receiver" --config "$demo/receiver.yaml" >"$demo/host"
	"$here/dist/picket-receiver" host set this-machine --interval 2 --config "$demo/receiver.yaml" >/dev/null
	mkdir -p "$demo/lab/episodes/ep-2"
	cp "$demo/push.json" "$demo/lab/episodes/ep-2/"
	cat >"$demo/agent.yaml" <<YAML
receiver: { url: "http://$receiver", token: $(sed -n 's/^export PICKET_TOKEN=//p' "$demo/host") }
data_dir: $demo/agent
ship: { episodes_dir: $demo/lab/episodes, scan_seconds: 1 }
YAML
	sed 's/^/   /; s/pk_[A-Za-z0-9]*/pk_…/' "$demo/agent.yaml"
	"$here/dist/picket-agent" --config "$demo/agent.yaml" 2>"$demo/agent.log" &
	agent=$!
	daemons="$daemons $agent"
	touch "$demo/lab/episodes/ep-2/done.marker"
	tries=0
	until [ -d "$demo/lab/shipped/ep-2" ]; do
		tries=$((tries + 1))
		if [ $tries -gt 100 ]; then
			cat "$demo/agent.log" >&2
			fail "the episode was not shipped"
		fi
		sleep 0.1
	done
	cat "$demo/agent.log"
	say "\$ picket-receiver host list"
	"$here/dist/picket-receiver" host list --config "$demo/receiver.yaml"
	tail -n 1 "$demo/receiver/index.jsonl"

	step "the agent stops: this machine goes silent (it was told to report every 2 s)"
	kill "$agent"
	wait "$agent" 2>/dev/null || true
	await_event 'this-machine is offline'
	tail -n +3 "$demo/inbox/ops.inbox"
}

# tell OPERATIONS: shows them, and tells the observer.
tell() {
	say "$1"
	printf '%s\n' "$1" >"$demo/ops.json"
	send POST "$demo/ops.json" "http://$observer/observer/event"
}

demo_observer() {
	step "an observer, with the same inbox"
	cat >"$demo/observer.template.yaml" <<YAML
listen: 127.0.0.1:PORT
persist_path: $demo/observer/ops.jsonl
cycle_seconds: 1
notify: { recipient: ops, inbox_dir: $demo/inbox }
YAML
	start_demo observer 3219
	observer=$address

	step "operations are told to it: three go well, and one fails three times, each time with other numbers"
	tell '[{"endpoint":"deploy","duration_ms":840},{"endpoint":"deploy","duration_ms":912},{"endpoint":"backup","duration_ms":12034}]'
	tell '{"endpoint":"backup","success":false,"duration_ms":30004,"error":"job 4711: no answer from 10.0.0.7 within 30004 ms"}'
	tell '{"endpoint":"backup","success":false,"duration_ms":30011,"error":"job 4712: no answer from 10.0.0.9 within 30011 ms"}'
	tell '{"endpoint":"backup","success":false,"duration_ms":29998,"error":"job 4720: no answer from 10.0.0.7 within 29998 ms"}'

	step "it knows them for one failure that repeats, and says so"
	await_event '"from":"observer"'
	for command in stats clusters; do
		say "\$ picket-observer $command"
		"$here/dist/picket-observer" "$command" --config "$demo/observer.yaml"
	done
}

# What the four put into one inbox.
demo_story() {
	step "the whole story, in one inbox"
	say "\$ picket-collector read ops"
	"$here/dist/picket-collector" read ops --config "$demo/collector.yaml"
}

try() {
	once=${1:-}
	set_up
	build
	demo=$(mktemp -d "${TMPDIR:-/tmp}/picket-try.XXXXXX")
	trap leave EXIT
	trap 'leave; exit 130' INT
	trap 'leave; exit 143' TERM HUP
	demo_collector
	demo_receiver
	demo_agent
	demo_observer
	demo_story

	[ "$once" != --once ] || return 0

	step "your turn, in another terminal"
	cat <<TEXT
curl -d '{"text":"hello"}' http://$collector/note
echo '{"recipient":"ops","type":"INFO","payload":"dropped"}' > $demo/drops/mine.json
$here/dist/picket-collector read ops --new --config $demo/collector.yaml
curl http://$receiver/v1/hosts/demo
curl 'http://$receiver/v1/hosts/demo/history?metric=load_average'
$here/dist/picket-receiver host add another --config $demo/receiver.yaml
curl -d '{"endpoint":"deploy","success":false,"error":"no route to host"}' http://$observer/observer/event
$here/dist/picket-observer tail --follow --config $demo/observer.yaml

The host demo is silent from now on: in two minutes it is stale, in four offline, and the inbox of ops says so.
TEXT
	say ""
	say "Ctrl-C ends it and leaves nothing behind."
	# shellcheck disable=SC2086
	wait $daemons || true
}

# ---------------------------------------------------------------------------------------------------------------
# install on this host

changed=

# put FROM TO MODE: by rename, because a running binary can't be written to. Says whether it changed anything.
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
		binary=$dest/usr/local/bin/picket-$role
		unit=$dest/etc/systemd/system/picket-$role.service
		config=$dest/etc/picket/$role.yaml
		data=/var/lib/picket
		[ "$role" != agent ] || data=/var/lib/picket-agent
	else
		binary=$dest$HOME/.local/bin/picket-$role
		unit=$dest${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/picket-$role.service
		config=$dest${XDG_CONFIG_HOME:-$HOME/.config}/picket/$role.yaml
		data=$HOME/.local/share/picket
	fi
}

# The binary that lies beside this script, or the one that is built here.
find_binary() {
	if [ -f "$here/package.json" ] && [ -f "$here/$role.ts" ]; then
		set_up
		build
		source=$here/dist/picket-$role
	elif [ -f "$here/picket-$role" ]; then
		source=$here/picket-$role
	elif [ -f "$here/dist/picket-$role" ]; then
		source=$here/dist/picket-$role
	else
		fail "there is no picket-$role beside $name, and no source to build it from"
	fi
}

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
		# Without its receiver's address and token an agent has nothing to start for.
		[ "$role" != agent ] || start=incomplete
	fi
	put "$temporary" "$config" 644
	rm -f "$temporary"
}

# In a folder that Syncthing keeps in step, dead letters and unfinished files stay on this host.
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
	elif [ -n "$changed" ]; then
		control restart "picket-$role.service" || failed_to_start
		say "restarted    picket-$role.service"
	else
		say "running      picket-$role.service, unchanged"
	fi
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
	find_binary
	step "picket-$role as a $scope service"
	make_account
	put "$source" "$binary" 755
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

uninstall_role() {
	step "removing picket-$role ($scope service)"
	if has_manager && [ -e "$unit" ]; then
		control disable --now --quiet "picket-$role.service" || true
	fi
	for file in "$unit" "$binary"; do
		if [ -e "$file" ]; then
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
	try "$@"
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
