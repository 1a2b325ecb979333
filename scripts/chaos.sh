#!/usr/bin/env bash
# Chaos at its real levels: processes under SIGKILL and SIGSTOP, the same without
# idempotence (which must show duplicates), and the containers of deploy/ with
# kill, pause and network disconnect. It starts a container engine when none
# runs, and ends what it started.
# usage: scripts/chaos.sh [--seed N] [--kills N] [--only process|counter|compose]
set -euo pipefail
cd "$(dirname "$0")/.."

seed=$(date +%s) kills=10 only=
while [ $# -gt 0 ]; do
	case $1 in
	--seed) seed=$2 ;;
	--kills) kills=$2 ;;
	--only) only=$2 ;;
	*) echo "chaos: unknown argument $1; see the head of $0" >&2; exit 2 ;;
	esac
	shift 2
done

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
	exit 0
fi

make build
go build -o bin/chaos ./test/chaos
want() { [ -z "$only" ] || [ "$only" = "$1" ]; }

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
	ONCELOG_CHAOS_INNER=compose scripts/engine.sh run scripts/chaos.sh --seed "$seed" --kills "$kills"
fi
echo "=== chaos: all passed (seed $seed)"
