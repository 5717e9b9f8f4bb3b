"""`members`: list the members of the cluster."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.completion import complete_from, member_names, member_tags
from trioserf.cli.connect import connect, parse_tags
from trioserf.cli.go_format import columns
from trioserf.cli.options import Format, RpcAddr, RpcAuth
from trioserf.cli.output import Output, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import MemberInfo

app = new_app()


@app.command(
    cls=SerfCommand,
    epilog=more(
        "members -status=alive -tag role=web",
        "members -format=json",
        page="trioserf/control/README.md, § Commands",
    ),
)
def members(
    ctx: typer.Context,
    detailed: Annotated[
        bool, typer.Option("-detailed", help="Show the protocol versions, too (in text output).")
    ] = False,
    output_format: Format = "text",
    name: Annotated[
        str,
        typer.Option(
            "-name",
            metavar="REGEXP",
            help="Only members whose whole name matches.",
            autocompletion=member_names,
        ),
    ] = "",
    role: Annotated[
        str,
        typer.Option("-role", metavar="REGEXP", help="Deprecated: the same as -tag role=REGEXP."),
    ] = "",
    status: Annotated[
        str,
        typer.Option(
            "-status",
            metavar="REGEXP",
            help="Only members whose status matches: alive, leaving, left, failed.",
            autocompletion=complete_from("alive", "leaving", "left", "failed"),
        ),
    ] = "",
    tag: Annotated[
        list[str] | None,
        typer.Option(
            "-tag",
            metavar="KEY=REGEXP",
            help="Only members whose whole tag KEY matches. Repeatable.",
            autocompletion=member_tags,
        ),
    ] = None,
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """List the members of the cluster.

    The agent reports its own view. Expressions are RE2 and must match the whole name, status or
    value.
    """
    out: Output = ctx.obj
    tags = parse_tags(tag or ())
    if role:
        out.line("Deprecation warning: 'Role' has been replaced with 'Tags'")
        tags.setdefault("role", role)
    with connect(rpc_addr, rpc_auth) as session, reporting_errors("Error retrieving members"):
        found = session.members(name, status, tags)
    check_format(output_format, 'Encoding error: Invalid output format "{}"')
    out.line(members_text(found, detailed=detailed))
    out.record(members_record(found))


def format_address(host: str, port: int) -> str:
    """Format an address with its port, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def members_text(found: Iterable[MemberInfo], *, detailed: bool = False) -> str:
    """Format members as lines in columns."""
    rows = []
    for member in found:
        tags = ",".join(f"{key}={value}" for key, value in sorted(member.tags.items()))
        row = [member.name, format_address(member.addr, member.port), member.status, tags]
        if detailed:
            span = f"[{member.protocol_min}, {member.protocol_max}]"
            row.append(f"Protocol Version: {member.protocol_version}")
            row.append(f"Available Protocol Range: {span}")
        rows.append(row)
    return columns(rows)


def members_record(found: Iterable[MemberInfo]) -> dict[str, Any]:
    """Return members in Serf's JSON, which has null for an empty list."""
    records = [
        {
            "name": member.name,
            "addr": format_address(member.addr, member.port),
            "port": member.port,
            "tags": dict(sorted(member.tags.items())),
            "status": member.status,
            "protocol": {
                "max": member.protocol_max,
                "min": member.protocol_min,
                "version": member.protocol_version,
            },
        }
        for member in found
    ]
    return {"members": records or None}
