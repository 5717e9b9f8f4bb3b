"""`reachability`: test whether all live members can reach each other."""

from collections.abc import Iterable
from time import monotonic
from typing import Annotated, NamedTuple

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.connect import PING, connect
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import FAILED, Output, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.printable import printable
from trioserf.results import QueryAck

HINTS = (
    "Gossip packets may be lost on the way. Things to check:",
    "* Can every member reach the bind address and port of every other member?",
    "* Do advertised addresses, if any, lead to the bind addresses?",
    "* Is there a NAT between some members?",
    "* Do all firewalls allow Serf's port, for UDP and for TCP?",
    "* Does the network itself work?",
)

app = new_app()


@app.command(
    cls=SerfCommand,
    epilog=more(
        "reachability",
        "reachability -verbose",
        page="trioserf/control/README.md, § Commands",
    ),
)
def reachability(
    ctx: typer.Context,
    verbose: Annotated[
        bool,
        typer.Option("-verbose", help="Name every member that acknowledges, with the times."),
    ] = False,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Test whether all live members can be reached.

    Every member is asked to acknowledge a query; the acknowledgements are compared with the list
    of live members.
    """
    out: Output = ctx.obj
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format)
        with reporting_errors("Error getting members"):
            members = session.members()
        live = [member.name for member in members if member.status == "alive"]
        out.line(f"Total members: {len(members)}, live members: {len(live)}")
        acks: list[str] = []
        with reporting_errors("Error sending query"):
            records = session.query(PING)
            out.line("Starting reachability test...")
            start = last = monotonic()
            try:
                for record in records:
                    if isinstance(record, QueryAck):
                        acks.append(record.source)
                        last = monotonic()
                        if verbose:
                            out.line(f"\tAck from '{printable(record.source)}'")
            except KeyboardInterrupt:
                out.line("Test interrupted")
                raise typer.Exit(FAILED) from None
    total = monotonic() - start
    if verbose:
        out.line(f"Query time: {total:.2f} sec, time to last response: {last - start:.2f} sec")
    report = compare_acks(live, acks)
    for line in report.lines:
        out.line(line)
    out.record(
        {
            "ok": report.ok,
            "members": len(members),
            "live": len(live),
            "acks": acks,
            "missing": report.missing,
            "strangers": report.unexpected,
            "duplicates": report.duplicates,
            "seconds": total,
            "last_ack_seconds": last - start,
        }
    )
    if not report.ok:
        raise typer.Exit(FAILED)


class ReachabilityReport(NamedTuple):
    """The acknowledgements compared with the live members.

    Attributes:
        ok: whether each live member, and no other member, has acknowledged.
        missing: live members that have not acknowledged.
        unexpected: members that have acknowledged, but are not alive in the agent's view.
        duplicates: names that have acknowledged more than once.
        lines: the text output.
    """

    ok: bool
    missing: list[str]
    unexpected: list[str]
    duplicates: list[str]
    lines: list[str]


def compare_acks(live: Iterable[str], acks: Iterable[str]) -> ReachabilityReport:
    """Compare the acknowledgements with the live members."""
    expected = set(live)
    received: set[str] = set()
    duplicates = []
    count = 0
    for name in acks:
        count += 1
        if name in received:
            duplicates.append(name)
        received.add(name)
    missing, unexpected = sorted(expected - received), sorted(received - expected)
    lines = [f"Duplicate response from '{printable(name)}'" for name in duplicates]
    if duplicates:
        lines.append("Two members must have the same name: every name has to be unique.")
    elif count > len(expected):
        lines.append("Received more acks than live nodes! Acks from non-live nodes:")
        lines += [f"\t{printable(name)}" for name in unexpected]
        lines += ["Live nodes may be mistaken for failed ones.", "", *HINTS]
    elif count < len(expected):
        lines.append("Received less acks than live nodes! Missing acks from:")
        lines += [f"\t{printable(name)}" for name in missing]
        lines += HINTS
    else:
        lines.append("Successfully contacted all live nodes")
        return ReachabilityReport(True, missing, unexpected, duplicates, lines)
    return ReachabilityReport(False, missing, unexpected, duplicates, lines)
