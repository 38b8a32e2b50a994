#!/usr/bin/env bash
# Starts examples/basic, waits until it is ready and sends it real requests.
# Usage: .ci/serve.sh serve|demo PORT MANAGEMENT_PORT
#   serve leaves the server running until Ctrl-C; demo stops it and exits, not 0 if anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=$1 port=$2 management_port=$3
app=examples.basic.app:app
ready_seconds=60
serving='event=serving .*address=[^ ]*:([0-9]+) .*management=[^ ]*:([0-9]+)'

say() { printf '\n== %s\n' "$*"; }

fail() {
  printf '\nfailed: %s\n' "$1" >&2
  if (($# > 1)); then printf '        %s\n' "${@:2}" >&2; fi
  exit 1
}

# The last thing done, whatever ended the script: its exit status stays, unless the server's own end was bad.
stop_server() {
  local status=$? ended=0
  trap - EXIT
  trap 'kill -KILL -- "-$server"' INT TERM HUP # a second Ctrl-C does not wait
  if kill -0 "$server" 2>/dev/null; then
    say "stopping the server"
    kill -TERM "$server" || true # it may have ended just now
  fi
  wait "$server" || ended=$?
  wait # for the last lines of its log
  if ((status == 0 && ended != 0)); then
    printf '\nfailed: the server ended with status %s\n' "$ended" >&2
    exit 1
  fi
  exit "$status"
}

say "starting $app on port $port"
started=${EPOCHREALTIME/[.,]/}
# A session of its own: Ctrl-C reaches this script alone, which then stops the server once, and in order.
exec {log}< <(
  exec setsid .venv/bin/python -u -m anyserve "$app" \
    --port "$port" --management-port "$management_port" --log-format text </dev/null 2>&1
)
server=$!
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

address='' ready=''
while [[ ! $ready ]] && IFS= read -r -t "$ready_seconds" line <&"$log"; do
  printf '   %s\n' "$line"
  if [[ $line =~ $serving ]]; then
    address=localhost:${BASH_REMATCH[1]} management=localhost:${BASH_REMATCH[2]}
  fi
  if [[ $line == *event=ready* ]]; then ready=yes; fi
done
if [[ ! $ready || ! $address ]]; then
  fail "the server did not become ready: its last lines are above." \
    "If a port is in use, choose others: make $mode PORT=8001 MANAGEMENT_PORT=9001"
fi
sed -u 's/^/   /' <&"$log" &

say "sending requests to $address: examples/basic/run_example.py"
.venv/bin/python examples/basic/run_example.py --address "$address" ||
  fail "the example did not get its answers: see above."
say "answered, $(((${EPOCHREALTIME/[.,]/} - started) / 1000)) ms after the start"

if [[ $mode == serve ]]; then
  cat <<TRY

The server is running at $address. Ctrl-C stops it. In another terminal, try:
   .venv/bin/python examples/basic/run_example.py --address $address
   .venv/bin/anyserve workers --management-address $management
and read examples/basic/app.py: change it, and run make serve again.

TRY
  trap 'exit 0' INT
  wait "$server" || true
  fail "the server ended by itself."
fi
