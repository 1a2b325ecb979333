#!/usr/bin/env bash
# A rolling restart under load, from the brokers of the last tag, or of a pinned commit while there is no tag, to those of the
# present tree; brokerctl verify judges every record, and the feature level is raised at the end.
# usage: scripts/upgrade.sh [--from COMMIT] [--for TIME]
set -euo pipefail
cd "$(dirname "$0")/.."

# The oldest commit whose brokers have what a rolling restart needs and write what is read today.
pinned=8d024bd
from=$(git describe --tags --abbrev=0 2>/dev/null || echo "$pinned") for=60s
while [ $# -gt 0 ]; do
	case $1 in
	--from) from=$2 ;;
	--for) for=$2 ;;
	*) echo "upgrade: unknown argument $1; see the head of $0" >&2; exit 2 ;;
	esac
	shift 2
done

dir=$(mktemp -d)
trap 'git worktree remove --force "$dir/old" 2>/dev/null || true; rm -rf "$dir"' EXIT
git worktree add --quiet --detach "$dir/old" "$from"
echo "=== upgrade: from $from ($(git log -1 --format=%cs "$from")) to $(git describe --tags --always --dirty)"
(cd "$dir/old" && CGO_ENABLED=0 go build -trimpath -o "$dir/brokerd-old" ./cmd/brokerd)
CGO_ENABLED=0 go build -trimpath -o "$dir/" ./cmd/brokerd ./cmd/brokerctl
go run ./test/upgrade --old "$dir/brokerd-old" --new "$dir/brokerd" --brokerctl "$dir/brokerctl" --for "$for"
