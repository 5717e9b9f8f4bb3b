#!/bin/sh
# Control an agent with the command line and jq.
#
#     client.sh [HOST:PORT]
#
# Lists the members, sends the user event `hello`, and waits until it arrives.
set -eu
export SERF_RPC_ADDR="${1:-127.0.0.1:7373}"
trioserf=${TRIOSERF:-trioserf}

members=$($trioserf members --format=json) || { printf "%s\n" "$members" >&2; exit 1; }
printf "%s\n" "$members" | jq -r '.members[] | "\(.name) \(.status)"'

# The stream may start after the first event: send it until one arrives.
while $trioserf event hello "from a shell" >/dev/null; do sleep 1; done &
sender=$!
trap 'kill $sender' EXIT
$trioserf stream user:hello | jq --unbuffered -r '"\(.name) \(.payload)"' | head -n 1
