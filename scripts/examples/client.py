#!/usr/bin/env python3
"""Control an agent with nothing but the standard library.

    client.py [HOST:PORT]

Lists the members, sends the user event `hello`, and waits until it arrives.
"""

import json
import socket
import sys

host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7373").rpartition(":")
with (
    socket.create_connection((host, int(port)), timeout=10) as agent,
    agent.makefile("r", encoding="utf-8") as lines,
):

    def send(**request: object) -> None:
        agent.sendall(json.dumps(request).encode() + b"\n")

    # The stream is open before the event is sent, so that the event cannot be missed.
    send(command="stream", seq=1, types=["user:hello"])
    for line in lines:
        record = json.loads(line)
        if record.get("ok") is False:
            sys.exit(record["error"]["message"])
        match record["seq"]:
            case 1 if "event" in record:
                print(record["name"], record["payload"])
                break
            case 1:
                send(command="members", seq=2)
            case 2:
                for member in record["members"]:
                    print(member["name"], member["status"])
                send(command="event", seq=3, name="hello", payload="from Python")
    else:
        sys.exit("the agent closed the connection")
