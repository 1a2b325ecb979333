#!/usr/bin/env bash
# Chaos at all its levels: simulated clusters on virtual time with fresh seeds,
# processes under SIGKILL and SIGSTOP, the same without idempotence (which must
# show duplicates), and the containers of deploy/ with kill, pause and network
# disconnect. It starts a container engine when none runs, and ends what it
# started.
# usage: scripts/chaos.sh [--seed N] [--kills N] [--for TIME] [--only sim|process|counter|compose]
#        --for is how long seeds are simulated, 1m by default.
#        --only sim --seed N runs one seed of the simulation again.
set -euo pipefail
cd "$(dirname "$0")/.."

seed= kills=10 only= for=1m
while [ $# -gt 0 ]; do
	case $1 in
	--seed) seed=$2 ;;
	--kills) kills=$2 ;;
	--for) for=$2 ;;
	--only) only=$2 ;;
	*) echo "chaos: unknown argument $1; see the head of $0" >&2; exit 2 ;;
	esac
	shift 2
done

want() { [ -z "$only" ] || [ "$only" = "$1" ]; }

if want sim; then
	echo "=== chaos: simulated clusters"
	go test -c -o bin/sim.test ./test/sim
	if [ "$only" = sim ] && [ -n "$seed" ]; then
		bin/sim.test -test.run '^(TestSeeds|TestTransformSeeds|TestTransactionSeeds)$' -test.v -seed "$seed"
	else
		bin/sim.test -test.run '^(TestSeeds|TestWithoutIdempotence)$' -for "$for"
		bin/sim.test -test.run '^(TestTransformSeeds|TestTransactionSeeds)$' -seeds 40 -first "$(date +%s)"
	fi
fi
seed=${seed:-$(date +%s)}

if [ "${ONCELOG_CHAOS_INNER-}" = compose ]; then
	# Inside scripts/engine.sh: an engine answers.
	scripts/image.sh oncelog/brokerd:dev
	trap 'scripts/compose.sh down --volumes --timeout 5 >/dev/null 2>&1 || true' EXIT
	scripts/compose.sh down --volumes --timeout 5 >/dev/null 2>&1 || true
	scripts/compose.sh up -d
	if ! bin/chaos --level compose --seed "$seed" --kills "$kills"; then
		scripts/compose.sh logs --tail 60
		exit 1
	fi
	# The same cluster from a container beside the brokers, by their names and with nothing edited.
	echo "=== chaos: a client in the network of the containers"
	container=$(docker ps --quiet --filter label=com.docker.compose.service=broker-1)
	network=$(docker inspect --format '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}' "$container")
	docker run --rm --tmpfs /tmp --network "$network" --entrypoint /brokerctl oncelog/brokerd:dev \
		--bootstrap broker-1:9095,broker-2:9095,broker-3:9095 verify --duration 3s
	exit 0
fi

if [ "$only" != sim ]; then
	make build
	go build -o bin/chaos ./test/chaos
fi

if want process; then
	echo "=== chaos: processes"
	bin/chaos --level process --seed "$seed" --kills "$kills"
fi
if want counter; then
	echo "=== chaos: processes without idempotence; duplicates must show"
	bin/chaos --level process --seed "$seed" --kills "$kills" --without-idempotence
fi
if want compose; then
	echo "=== chaos: containers"
	ONCELOG_CHAOS_INNER=compose scripts/engine.sh run scripts/chaos.sh --seed "$seed" --kills "$kills" --only compose
fi
echo "=== chaos: all passed (seed $seed)"
