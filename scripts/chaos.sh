#!/usr/bin/env bash
# Chaos at all its levels, each judged by the history checker:
#   sim           simulated clusters on virtual time with fresh seeds
#   process       brokerd processes under SIGKILL and SIGSTOP while producers write
#   network       the same with one-way cuts, delays, slow links and resets between them
#   counter       process without idempotence, which must show duplicates
#   copy          process and network, while workers, processes too, copy a topic exactly once
#                 and are killed, paused and replaced
#   compacted     the same on a compacted topic: keys are changed and deleted in
#                 transactions, leaders die in the middle of passes, brokers are away
#                 for longer than delete.retention.ms
#   compose       the containers of deploy/ with kill, pause and network disconnect,
#                 while producers write and while workers copy
# It starts a container engine when none runs, and ends what it started.
# usage: scripts/chaos.sh [--seed N] [--kills N] [--for TIME] [--only LEVEL]
#        --for is how long seeds are simulated, 1m by default.
#        --only sim --seed N runs one seed of the simulation again.
#        scripts/chaos.sh --hours H [--seed N] [--only LEVEL]   (make chaos-long)
#        runs the levels in turn with fresh seeds for H hours, which may be a
#        fraction, goes on after a failure, keeps what a failed run said, and
#        prints a table.
set -euo pipefail
cd "$(dirname "$0")/.."

seed='' kills=10 only='' for=1m hours=''
while [ $# -gt 0 ]; do
	case $1 in
	--seed) seed=$2 ;;
	--kills) kills=$2 ;;
	--for) for=$2 ;;
	--only) only=$2 ;;
	--hours) hours=$2 ;;
	*) echo "chaos: unknown argument $1; see the head of $0" >&2; exit 2 ;;
	esac
	shift 2
done
case $only in
'' | sim | process | network | counter | copy | compacted | compose) ;;
*) echo "chaos: unknown level $only; see the head of $0" >&2; exit 2 ;;
esac

# prepare builds what the levels need.
prepare() {
	if [ "$1" != sim ]; then
		make build
		go build -o bin/chaos ./test/chaos
	fi
	if [ "$1" = sim ] || [ -z "$1" ]; then
		go test -c -o bin/sim.test ./test/sim
	fi
}

simulate() {
	if [ "$only" = sim ] && [ -n "$seed" ] && [ -z "$hours" ]; then
		bin/sim.test -test.run '^(TestSeeds|TestTransformSeeds|TestTransactionSeeds|TestCompactedSeeds)$' -test.v -seed "$seed"
		return
	fi
	bin/sim.test -test.run '^(TestSeeds|TestWithoutIdempotence)$' -for "$for"
	bin/sim.test -test.run '^(TestTransformSeeds|TestTransactionSeeds)$' -seeds 24 -first "$1"
	bin/sim.test -test.run '^TestCompactedSeeds$' -compacted 12 -first "$1"
}

# containers runs inside scripts/engine.sh: an engine answers.
containers() {
	scripts/image.sh oncelog/brokerd:dev
	# Workers that die are noticed soon.
	export ONCELOG_SESSION_TIMEOUT=3s ONCELOG_HEARTBEAT_INTERVAL=500ms
	trap 'scripts/compose.sh down --volumes --timeout 5 >/dev/null 2>&1 || true' EXIT
	scripts/compose.sh down --volumes --timeout 5 >/dev/null 2>&1 || true
	scripts/compose.sh up -d
	if ! bin/chaos --level compose --seed "$1" --kills "$kills" || ! bin/chaos --level compose --seed "$1" --copy; then
		scripts/compose.sh logs --tail 60
		return 1
	fi
	# The same cluster from a container beside the brokers, by their names and with nothing edited.
	echo "=== chaos: a client in the network of the containers"
	local container network
	container=$(docker ps --quiet --filter label=com.docker.compose.service=broker-1)
	network=$(docker inspect --format '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}' "$container")
	docker run --rm --tmpfs /tmp --network "$network" --entrypoint /brokerctl oncelog/brokerd:dev \
		--bootstrap broker-1:9095,broker-2:9095,broker-3:9095 verify --transactions --duration 3s
}

# level runs one level with a seed.
level() {
	case $1 in
	sim) simulate "$2" ;;
	process) bin/chaos --level process --seed "$2" --kills "$kills" ;;
	network) bin/chaos --level process --seed "$2" --kills "$kills" --network ;;
	counter) bin/chaos --level process --seed "$2" --kills "$kills" --without-idempotence ;;
	copy) bin/chaos --level process --seed "$2" --copy ;;
	compacted) bin/chaos --level process --seed "$2" --compacted --partitions 2 --faults 4 ${hours:+--for 3m} ;;
	compose) ONCELOG_CHAOS_INNER=compose scripts/engine.sh run scripts/chaos.sh --seed "$2" --kills "$kills" --only compose ;;
	esac
}

if [ "${ONCELOG_CHAOS_INNER-}" = compose ]; then
	containers "$seed"
	exit
fi

levels=${only:-sim process network counter copy compacted compose}
prepare "$only"

if [ -z "$hours" ]; then
	for l in $levels; do
		echo "=== chaos: $l"
		level "$l" "${seed:-$(date +%s)}"
	done
	echo "=== chaos: all passed"
	exit
fi

# The long run.
base=${seed:-$(date +%s)}
out=$(mktemp -d "${TMPDIR:-/tmp}/oncelog-chaos-long-XXXXXX")
end=$(awk -v now="$(date +%s)" -v h="$hours" 'BEGIN { print int(now + h * 3600) }')
say() { echo "chaos-long: $(date -u +%H:%M:%S) $*"; }
say "until $(date -u -d "@$end" +%H:%M:%S) UTC, seeds from $base, output in $out"
round=0 failures=0
while [ "$(date +%s)" -lt "$end" ]; do
	for l in $levels; do
		if [ "$(date +%s)" -ge "$end" ]; then break; fi
		n=$((base + round)) began=$(date +%s) verdict=ok
		log=$out/$l-$n.log
		level "$l" "$n" >"$log" 2>&1 || verdict=FAILED
		took=$(($(date +%s) - began))
		# One line for each part of a level: faults, records, transactions.
		sums=$(awk '/^chaos: result/ { f += $3; r += $5; t += $7 }
			/^sim: [0-9]+ seeds in / { f += $(NF - 3); r += $(NF - 1) }
			/^sim: transactions: / { f += $(NF - 5); r += $(NF - 3); t += $(NF - 1) }
			END { print f + 0, r + 0, t + 0 }' "$log")
		echo "$l $took $sums $verdict" >>"$out/results"
		if [ $verdict = ok ]; then
			rm "$log"
		else
			failures=$((failures + 1))
			say "FAILED: $l, seed $n, see $log"
		fi
		say "$l, seed $n, $took s, faults records transactions: $sums, $verdict; failures so far: $failures"
	done
	round=$((round + 1))
done
echo
echo "| level | runs | time | faults | records | transactions | failed |"
echo "|---|---|---|---|---|---|---|"
awk '{ n[$1]++; s[$1] += $2; f[$1] += $3; r[$1] += $4; t[$1] += $5; if ($6 != "ok") bad[$1]++ }
	END { for (l in n) printf "| %s | %d | %.1f min | %d | %d | %d | %d |\n", l, n[l], s[l] / 60, f[l], r[l], t[l], bad[l] }' "$out/results" | sort
echo
say "command: scripts/chaos.sh --hours $hours --seed $base${only:+ --only $only}; failures: $failures"
[ "$failures" = 0 ]
