#!/usr/bin/env bash
# A throw-away PostgreSQL: prints its URL when it is ready, stops and removes it when its input ends.
#
#   scripts/postgres.sh [PORT]      # ^D ends it
#
# It uses Debian's package postgresql (or PGBIN, the directory of initdb), listens on 127.0.0.1 (port 54321 if none is given), and
# keeps nothing. Databases do not run as root: as root it becomes the user postgres, else nobody.
set -euo pipefail

PGBIN=${PGBIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)}
if [ ! -x "$PGBIN/initdb" ]; then
	echo "no PostgreSQL here: apt-get install postgresql, or set PGBIN" >&2
	exit 3
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/oncelog-postgres-XXXXXX")
as=()
if [ "$(id -u)" = 0 ]; then
	user=postgres
	getent passwd $user >/dev/null || user=nobody
	chown "$user" "$dir"
	as=(setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups --)
fi
trap 'kill -INT "$server" 2>/dev/null && wait "$server" || true; rm -rf "$dir"' EXIT
server=

"${as[@]}" "$PGBIN/initdb" -D "$dir/data" -U oncelog --auth=trust --no-sync >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }
port=${1:-54321}
# Settings that make a small server, but for fsync: what it says is committed is what the test is about, and it is not crashed here.
"${as[@]}" "$PGBIN/postgres" -D "$dir/data" -p "$port" -k "$dir" -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=16MB \
	>"$dir/postgres.log" 2>&1 </dev/null &
server=$!
until "$PGBIN/pg_isready" -q -h 127.0.0.1 -p "$port"; do
	kill -0 "$server" 2>/dev/null || { cat "$dir/postgres.log" >&2; exit 1; }
	sleep 0.1
done
echo "postgres://oncelog@127.0.0.1:$port/postgres?sslmode=disable"
cat >/dev/null
