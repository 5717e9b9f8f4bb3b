#!/bin/sh
# An event handler for all events: one line for each in a log, and an answer to the query `uptime`.
#
#     trioserf agent --event-handler='*=HANDLER_LOG=/tmp/events.log /path/to/handler.sh'
#
# Other members choose names and payloads: quote them, and do not evaluate them.
set -eu
log=${HANDLER_LOG:-/dev/stderr}

case $SERF_EVENT in
member-*)
    # A line for each member: name, address, role and tags, separated by tabs.
    while IFS="$(printf '\t')" read -r name address _; do
        printf '%s %s %s\n' "$SERF_EVENT" "$name" "$address" >>"$log"
    done
    ;;
user)
    payload=$(cat)
    printf 'user %s %s\n' "$SERF_USER_EVENT" "$payload" >>"$log"
    ;;
query)
    printf 'query %s\n' "$SERF_QUERY_NAME" >>"$log"
    # What is written to standard output is the response.
    [ "$SERF_QUERY_NAME" != uptime ] || uptime
    ;;
esac
