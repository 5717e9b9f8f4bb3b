"""`members`: who is in the cluster."""

from collections.abc import Iterable
from typing import Annotated, Any

from trioserf.cli.calling import connect, tags_of
from trioserf.cli.columns import columns
from trioserf.cli.flags import Format, Option, RpcAddr, RpcAuth
from trioserf.cli.output import Out, check_format, failing
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import MemberInfo


def members(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    detailed: Annotated[
        bool, Option("detailed", "Show the protocol versions too (in text output).")
    ] = False,
    output_format: Format = "text",
    name: Annotated[str, Option("name", "Only members whose whole name matches.", "REGEXP")] = "",
    role: Annotated[
        str, Option("role", "Deprecated: the same as -tag role=REGEXP.", "REGEXP")
    ] = "",
    status: Annotated[
        str,
        Option(
            "status", "Only members in a matching state: alive, leaving, left, failed.", "REGEXP"
        ),
    ] = "",
    tag: Annotated[
        list[str],
        Option("tag", "Only members whose tag KEY matches as a whole. Repeatable.", "KEY=REGEXP"),
    ] = [],  # noqa: B006 - only read
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """List the members of the cluster as the agent sees them.

    Expressions are RE2 and must match the whole name, state or value.
    """
    tags = tags_of(tag)
    if role:
        out.line("Deprecation warning: 'Role' has been replaced with 'Tags'")
        tags.setdefault("role", role)
    with connect(rpc_addr, rpc_auth) as session, failing("Error retrieving members"):
        found = session.members(name, status, tags)
    check_format(output_format, 'Encoding error: Invalid output format "{}"')
    out.line(members_text(found, detailed=detailed))
    out.record(members_record(found))
    return 0


def socket_text(host: str, port: int) -> str:
    """Spell an address with its port, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def members_text(found: Iterable[MemberInfo], *, detailed: bool = False) -> str:
    """Show members as lines of columns."""
    rows = []
    for one in found:
        tags = ",".join(f"{key}={value}" for key, value in sorted(one.tags.items()))
        row = [one.name, socket_text(one.addr, one.port), one.status, tags]
        if detailed:
            span = f"[{one.protocol_min}, {one.protocol_max}]"
            row.append(f"Protocol Version: {one.protocol_version}")
            row.append(f"Available Protocol Range: {span}")
        rows.append(row)
    return columns(rows)


def members_record(found: Iterable[MemberInfo]) -> dict[str, Any]:
    """Show members as Serf's JSON does: no members are null."""
    shown = [
        {
            "name": one.name,
            "addr": socket_text(one.addr, one.port),
            "port": one.port,
            "tags": dict(sorted(one.tags.items())),
            "status": one.status,
            "protocol": {
                "max": one.protocol_max,
                "min": one.protocol_min,
                "version": one.protocol_version,
            },
        }
        for one in found
    ]
    return {"members": shown or None}
