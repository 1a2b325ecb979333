#!/usr/bin/env bash
# Makes the container image from the binaries in bin/ ("make image").
# usage: scripts/image.sh IMAGE
set -euo pipefail
cd "$(dirname "$0")/.."

image=${1:?usage: scripts/image.sh IMAGE}
if [ ! -x bin/brokerd ]; then
	echo 'image: bin/brokerd is missing: run "make build" first' >&2
	exit 1
fi
if ! docker info >/dev/null 2>&1; then
	echo 'image: no container engine answers: start one, or run "scripts/engine.sh start"' >&2
	exit 1
fi

context=$(mktemp -d)
trap 'rm -rf "$context" "$context.log"' EXIT
mkdir -m 0750 "$context/data"
cp bin/brokerd "$context/"
[ ! -x bin/brokerctl ] || cp bin/brokerctl "$context/"
# The classic builder is part of every engine; the newer one is a plugin that
# may be missing. Its words are shown only when it fails.
if ! DOCKER_BUILDKIT=0 docker build --tag "$image" --file Dockerfile "$context" >"$context.log" 2>&1; then
	cat "$context.log" >&2
	exit 1
fi
docker image inspect --format '{{.Id}} {{.Size}} bytes' "$image"
