#!/usr/bin/env bash
# A rolling restart under load, from the brokers of the last tag, or of a pinned commit while there is no tag, to those of the
# present tree, while other brokers are killed and paused; brokerctl verify judges every record, and the feature level is raised
# when all run the new version.
# usage: scripts/upgrade.sh [--from COMMIT] [--for TIME] [--seed N] [--calm]
#        --for is how long is written before it is judged, and begun anew (40s). --calm breaks nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

# The oldest commit whose brokers have what a rolling restart needs and write what is read today.
pinned=8d024bd
from=$(git describe --tags --abbrev=0 2>/dev/null || echo "$pinned") for=40s seed=0 calm=false
while [ $# -gt 0 ]; do
	case $1 in
	--from) from=$2 ;;
	--for) for=$2 ;;
	--seed) seed=$2 ;;
	--calm) calm=true; shift; continue ;;
	*) echo "upgrade: unknown argument $1; see the head of $0" >&2; exit 2 ;;
	esac
	shift 2
done

dir=$(mktemp -d)
trap 'git worktree remove --force "$dir/old" 2>/dev/null || true; rm -rf "$dir"' EXIT
# A clone without its history has not the old commit.
git cat-file -e "$from^{commit}" 2>/dev/null || git fetch --quiet --unshallow --tags
git worktree add --quiet --detach "$dir/old" "$from"
echo "=== upgrade: from $from ($(git log -1 --format=%cs "$from")) to $(git describe --tags --always --dirty)"
(cd "$dir/old" && CGO_ENABLED=0 go build -trimpath -o "$dir/brokerd-old" ./cmd/brokerd)
CGO_ENABLED=0 go build -trimpath -o "$dir/" ./cmd/brokerd ./cmd/brokerctl
go run ./test/upgrade --old "$dir/brokerd-old" --new "$dir/brokerd" --brokerctl "$dir/brokerctl" --for "$for" --seed "$seed" --calm="$calm"
