#!/usr/bin/env bash
# Starts a container engine when none runs, and stops what it started.
#
# usage: scripts/engine.sh run COMMAND [ARG...]   start if needed, run, stop again
#        scripts/engine.sh start                  start if needed
#        scripts/engine.sh stop                   stop what start started
#        scripts/engine.sh status                 0 when an engine answers
#
# The engine started here keeps everything under ONCELOG_ENGINE_DIR, touches no
# packet filter and is gone, with its containers, images and volumes, after
# stop. Published ports are carried by docker-proxy, names by the engine's own
# resolver: neither needs the packet filter. One setting of the kernel matters:
# where bridged frames pass the packet filter (net.bridge.bridge-nf-call-iptables)
# and its FORWARD policy is DROP, as another engine may have left it, containers
# would not hear each other; it is off while this engine runs.
set -euo pipefail

dir=${ONCELOG_ENGINE_DIR:-/var/tmp/oncelog-engine}
socket=/var/run/docker.sock
bridge_filter=/proc/sys/net/bridge/bridge-nf-call-iptables

say() { echo "engine: $*" >&2; }

answers() { timeout 10 docker info >/dev/null 2>&1; }

# ours prints the process id of the engine started here, if it still runs.
ours() {
	local pid
	pid=$(cat "$dir/dockerd.pid" 2>/dev/null) || return 1
	[ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] &&
		tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "--data-root $dir/" && echo "$pid"
}

# attempt starts dockerd with one storage driver and waits until it answers.
attempt() {
	local driver=$1 pid
	rm -f "$dir/dockerd.pid"
	nohup setsid dockerd \
		--host "unix://$socket" --pidfile "$dir/dockerd.pid" \
		--data-root "$dir/data" --exec-root "$dir/exec" --storage-driver "$driver" \
		--bridge none --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false \
		>"$dir/dockerd.log" 2>&1 </dev/null 9>&- &
	pid=$!
	for _ in $(seq 300); do
		if answers; then return 0; fi
		# setsid may have forked: dockerd's own file tells.
		if ! kill -0 "$pid" 2>/dev/null && ! ours >/dev/null; then break; fi
		sleep 0.1
	done
	say "dockerd with storage driver $driver did not come up:"
	tail -n 5 "$dir/dockerd.log" >&2
	halt
	return 1
}

start() {
	if answers; then
		say "one runs already"
		return 0
	fi
	if [ -n "${DOCKER_HOST:-}" ]; then
		say "DOCKER_HOST=$DOCKER_HOST does not answer"
		return 1
	fi
	if ! command -v dockerd >/dev/null; then
		say "none runs, and dockerd is not installed (Debian: apt-get install docker.io)"
		return 1
	fi
	if [ "$(id -u)" -ne 0 ]; then
		say "none runs, and only root can start one"
		return 1
	fi
	mkdir -p -m 0711 "$dir"
	# One start at a time: the second finds the engine of the first.
	exec 9>"$dir/lock"
	flock 9
	if ! answers; then
		if [ -e "$bridge_filter" ] && [ ! -e "$dir/bridge_filter" ]; then
			cat "$bridge_filter" >"$dir/bridge_filter"
			echo 0 >"$bridge_filter"
		fi
		local old=false
		if [ -d "$dir/data" ]; then old=true; fi
		attempt overlay2 || attempt vfs || { restore; return 1; }
		# What an engine that was killed left behind must not live on.
		if $old; then clean; fi
		say "started, log in $dir/dockerd.log"
	fi
	flock -u 9
}

# halt ends the engine started here and waits for it.
halt() {
	local pid
	pid=$(ours) || return 0
	kill "$pid"
	for _ in $(seq 300); do
		kill -0 "$pid" 2>/dev/null || return 0
		sleep 0.1
	done
	say "dockerd ($pid) does not stop: killing it"
	kill -9 "$pid"
}

# restore gives the kernel's setting back.
restore() {
	if [ -e "$dir/bridge_filter" ]; then
		cat "$dir/bridge_filter" >"$bridge_filter"
		rm "$dir/bridge_filter"
	fi
}

# wipe removes everything that the engine kept.
wipe() {
	local mount
	while read -r mount; do umount -l "$mount"; done < <(awk -v d="$dir/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r)
	rm -rf "$dir/data" "$dir/exec" "$dir/dockerd.pid"
}

# clean removes all containers, networks and volumes. Bridges and containers
# would outlive the engine.
clean() {
	docker ps --all --quiet | xargs -r docker rm --force >/dev/null || true
	docker network prune --force >/dev/null || true
	docker volume ls --quiet | xargs -r docker volume rm --force >/dev/null || true
}

stop() {
	if [ ! -d "$dir" ]; then return 0; fi
	if ours >/dev/null; then
		clean
		halt
		say "stopped"
	fi
	restore
	wipe
}

run() {
	local status=0
	if ! answers; then trap stop EXIT; fi
	start
	"$@" || status=$?
	return "$status"
}

case ${1:-} in
run)
	shift
	[ $# -gt 0 ] || { say "run what?"; exit 2; }
	run "$@"
	;;
start | stop) "$1" ;;
status) answers ;;
*)
	sed -n '4,7p' "$0" | cut -c 3- >&2
	exit 2
	;;
esac
