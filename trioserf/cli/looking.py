"""`info`, `rtt` and `reachability`: how the agent and its cluster are doing."""

from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Annotated, Any, NamedTuple

from trioserf.cli.calling import PING, connect
from trioserf.cli.flags import Format, Option, OurFormat, RpcAddr, RpcAuth
from trioserf.cli.golang import quote, sorted_keys
from trioserf.cli.output import FAILED, Failure, Misuse, Out, check_format, failing
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import QueryAck
from trioserf.control.errors import ControlError

HINTS = (
    "Packets of the gossip may get lost on the way. Things to look at:",
    "* Can every member reach the bind address and port of every other one?",
    "* Do advertised addresses, where there are any, lead to the bind addresses?",
    "* Is there a NAT between some of them?",
    "* Do all firewalls let Serf's port pass, for UDP and for TCP?",
    "* Does the network itself work?",
)


def info(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    output_format: Format = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Show what the agent knows about itself: counters, queues, tags, handlers."""
    with connect(rpc_addr, rpc_auth) as session, failing("Error querying agent"):
        groups = session.info()
    check_format(output_format, 'Encoding error: Invalid output format "{}"')
    out.line(info_text(groups))
    out.record(sorted_keys(groups))
    return 0


def info_text(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Show groups and what stands in them, both sorted by name."""
    lines = []
    for group in sorted(groups):
        lines.append(f"{group}:")
        lines += [f"\t{key} = {value}" for key, value in sorted(groups[group].items())]
    return "\n".join(lines)


def rtt(
    out: Out,
    words: list[str],
    *,
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Estimate the round trip between two members from their network coordinates.

    Without a second name, the agent itself is the other end. Names are those that "trioserf
    members" shows.
    """
    with connect(rpc_addr, rpc_auth) as session:
        if len(words) not in (1, 2):
            raise Misuse("One or two node names must be specified")
        check_format(output_format, "Invalid format: {}")
        ends = list(words)
        if len(ends) == 1:
            with failing("Error querying agent"):
                ends.append(str(session.info()["agent"]["name"]))
        places = []
        for name in ends:
            try:
                places.append(session.coordinate(name))
            except ControlError as error:
                if error.code == "no_such_member":
                    text = f"Could not find a coordinate for node {quote(name)}"
                    raise Failure(text, error.code) from error
                raise Failure(f"Error getting coordinates: {error.message}", error.code) from error
    seconds = places[0].distance(places[1])
    out.line(f"Estimated {ends[0]} <-> {ends[1]} rtt: {seconds * 1000:.3f} ms")
    out.record({"node": ends[0], "other": ends[1], "seconds": seconds})
    return 0


def reachability(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    verbose: Annotated[
        bool, Option("verbose", "Name every member that answers, and say how long it took.")
    ] = False,
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Ask every member for a sign of life, and compare that with who should be alive."""
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format, "Invalid format: {}")
        with failing("Error getting members"):
            everybody = session.members()
        live = [one.name for one in everybody if one.status == "alive"]
        out.line(f"Total members: {len(everybody)}, live members: {len(live)}")
        acks: list[str] = []
        with failing("Error sending query"):
            records = session.query(PING)
            out.line("Starting reachability test...")
            start = last = monotonic()
            try:
                for record in records:
                    if isinstance(record, QueryAck):
                        acks.append(record.source)
                        last = monotonic()
                        if verbose:
                            out.line(f"\tAck from '{record.source}'")
            except KeyboardInterrupt:
                out.line("Test interrupted")
                return FAILED
    total = monotonic() - start
    if verbose:
        out.line(f"Query time: {total:.2f} sec, time to last response: {last - start:.2f} sec")
    verdict = judge(live, acks)
    for line in verdict.lines:
        out.line(line)
    out.record(
        {
            "ok": verdict.ok,
            "members": len(everybody),
            "live": len(live),
            "acks": acks,
            "missing": verdict.missing,
            "strangers": verdict.strangers,
            "duplicates": verdict.duplicates,
            "seconds": total,
            "last_ack_seconds": last - start,
        }
    )
    return 0 if verdict.ok else FAILED


class Verdict(NamedTuple):
    """What the acknowledgements say about the network.

    `missing` are live members that kept silent, `strangers` answered although nobody took them
    for alive, `duplicates` are names that answered more than once.
    """

    ok: bool
    missing: list[str]
    strangers: list[str]
    duplicates: list[str]
    lines: list[str]


def judge(live: Iterable[str], acks: Iterable[str]) -> Verdict:
    """Compare the members that should have answered with those that did."""
    expected = set(live)
    heard: set[str] = set()
    duplicates = []
    count = 0
    for name in acks:
        count += 1
        if name in heard:
            duplicates.append(name)
        heard.add(name)
    missing, strangers = sorted(expected - heard), sorted(heard - expected)
    lines = [f"Duplicate response from '{name}'" for name in duplicates]
    if duplicates:
        lines.append("Two members must have taken the same name: every name has to be unique.")
        return Verdict(False, missing, strangers, duplicates, lines)
    if count > len(expected):
        lines.append("Received more acks than live nodes! Acks from non-live nodes:")
        lines += [f"\t{name}" for name in strangers]
        lines += ["Live nodes may be mistaken for failed ones.", "", *HINTS]
    elif count < len(expected):
        lines.append("Received less acks than live nodes! Missing acks from:")
        lines += [f"\t{name}" for name in missing]
        lines += HINTS
    else:
        lines.append("Successfully contacted all live nodes")
        return Verdict(True, missing, strangers, duplicates, lines)
    return Verdict(False, missing, strangers, duplicates, lines)
