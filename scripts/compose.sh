#!/usr/bin/env bash
# Runs "docker compose", or docker-compose where that is what there is, on the
# cluster of deploy/.
# usage: scripts/compose.sh up -d | ps | down -v | ...
set -euo pipefail

file=$(dirname "$0")/../deploy/docker-compose.yml
if docker compose version >/dev/null 2>&1; then
	exec docker compose --file "$file" "$@"
elif command -v docker-compose >/dev/null; then
	exec docker-compose --file "$file" "$@"
fi
echo 'compose: neither "docker compose" nor docker-compose is installed (Debian: apt-get install docker-compose)' >&2
exit 1
