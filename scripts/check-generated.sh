#!/usr/bin/env bash
# Fails when the committed code under api/proto is not what the generators make
# of the .proto files.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
.bin/buf generate -o "$fresh"

generated() { (cd "$1" && find api/proto -name '*.pb.go' | sort); }
if ! diff <(generated .) <(generated "$fresh"); then
	echo 'check-generated: files of api/proto without or beside their .proto: run "make proto"' >&2
	exit 1
fi
while read -r file; do
	if ! diff -u "$file" "$fresh/$file" | head -20; then
		echo "check-generated: $file is out of date: run \"make proto\"" >&2
		exit 1
	fi
done < <(generated .)
