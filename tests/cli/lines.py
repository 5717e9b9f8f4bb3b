"""Command lines of Serf's users, and how what they print is compared."""

import re

NET = "127.17.NET"
"""Stands for the first three numbers of the agents' addresses, and is as long as they are."""

NOBODY = '    ""'
"""An acknowledgement without a name, in JSON."""


def normalise_output(text: str) -> list[str]:
    """Blank what is measured, and sort what Go's maps and the network put in any order.

    A busy Go agent tells acknowledgements of nobody, any number of them, when a query's time is
    over: what ends it and the channel that is closed then are looked at in any order.
    """
    text = re.sub(r"[\d.]+ (sec|ms)\b", r"N \1", text)
    text = re.sub(r"(lookup \S+) on \S+:53:", r"\1:", text)
    text = re.sub(r"(goroutines|_time|_queue)(\W+ )\d+", r"\1\2N", text)
    text = re.sub(r"\S+=\S+,\S+", lambda found: ",".join(sorted(found[0].split(","))), text)
    lines = (line.rstrip(" ,") for line in text.splitlines())
    return sorted(line for line in lines if line != NOBODY)


BIG = "x" * 1100
LINES: list[list[str]] = [
    ["members"],
    ["members", "-format", "json"],
    ["members", "-format=xml"],
    ["members", "-detailed"],
    ["members", "-name=go-(a|x)", "-status", "alive"],
    ["members", "-role=web"],
    ["members", "-tag", "role=w.*", "-tag=nosuch=.*"],
    ["members", "-status=failed"],
    ["members", "-status=failed", "-format=json"],
    ["members", "-name=(["],
    ["members", "-rpc-auth=wrong"],
    ["event", "deploy", "v1 <b>"],
    ["event", "-coalesce=false", "deploy"],
    ["event", "big", BIG],
    ["query", "-timeout=900ms", "load", "x"],
    ["query", "-timeout", "900ms", "-format=json", "raw"],
    ["query", "-timeout=900ms", "raw"],
    ["query", "-timeout=900ms", "-no-ack", "-node=go-a", "load"],
    ["query", "-timeout=900ms", "-node=go-b", "-tag", "role=web", "load"],
    ["query", "-timeout=300ms", "-node=nobody", "-format=json", "load"],
    ["query", "-timeout=300ms", "-tag", "role=([", "load"],
    ["query", "-relay-factor=1", "-timeout=900ms", "load"],
    ["query", "-format=xml", "load"],
    ["query", "big", BIG],
    ["info"],
    ["info", "-format=json"],
    ["info", "-format=xml"],
    ["tags", "-set", "x"],
    ["tags", "-set", "x=y=z", "-delete", "nosuch"],
    ["tags", "-set", f"x={BIG}"],
    ["keys", "-list"],
    ["keys", "-install", "x"],
    ["keys", "-use=AAAAAAAAAAAAAAAAAAAAAA=="],
    ["keys", "-remove", "AAAAAAAAAAAAAAAAAAAAAA=="],
    ["rtt", "go-a"],
    ["rtt", "go-a", "go-b"],
    ["rtt", "go-b", 'no"body'],
    ["join", f"{NET}.2", f"{NET}.99"],
    ["join", f"{NET}.98", f"{NET}.99"],
    ["join", "-replay", "nosuch.invalid"],
    ["force-leave", "nobody"],
    ["force-leave", "-prune", "nobody"],
    ["reachability"],
    ["reachability", "-verbose"],
    ["monitor", "-log-level=nosuch"],
]

WITHOUT_THE_KEY: list[list[str]] = [
    ["members"], ["event", "x"], ["query", "x"], ["join", "x"], ["leave"], ["force-leave", "x"],
    ["tags", "-set", "a=b"], ["info"], ["keys", "-list"], ["monitor"], ["reachability"],
    ["keys", "-install", "x"], ["keys", "-use", "x"], ["keys", "-remove", "x"], ["rtt", "go-c"],
]  # fmt: skip
