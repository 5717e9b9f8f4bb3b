"""`members`: list the members of the cluster."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trioserf.cli.app import OWN_JSON, TwoJsonCommand, more, new_app
from trioserf.cli.completion import complete_from, member_names, member_tags
from trioserf.cli.connect import connect, connect_any, parse_tags
from trioserf.cli.go_format import columns
from trioserf.cli.hints import expression_errors, status_error
from trioserf.cli.options import Format, RpcAddr, RpcAuth
from trioserf.cli.output import CommandError, Output, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import MemberInfo

if TYPE_CHECKING:
    from trioserf.control.client.session import AgentSession

app = new_app()


class _MembersCommand(TwoJsonCommand):
    def stray_word_hint(self, word: str) -> str:
        """Return how one member is shown."""
        return f" (for one member: members -name={word})"


@app.command(
    cls=_MembersCommand,
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
    value. In JSON, --format has the release of each member that runs trioserf, which an agent
    learns in its first ack; -format is Serf's.
    """
    out: Output = ctx.obj
    open_session: Callable[[str, str], AgentSession] = (
        connect_any if ctx.meta[OWN_JSON] else connect
    )
    tags = parse_tags(tag or (), out)
    if role:
        out.line("Deprecation warning: 'Role' has been replaced with 'Tags'")
        if tags.setdefault("role", role) != role:
            out.explain(f"-role={role} has no effect beside -tag role", "bad_request")
    with (
        open_session(rpc_addr, rpc_auth) as session,
        _explaining_expressions(out, name, status, tags),
    ):
        found = session.members(name, status, tags)
    if status and not found and (error := status_error(status)):
        out.explain(error, "invalid_filter")
    check_format(output_format, 'Encoding error: Invalid output format "{}"')
    out.line(members_text(found, detailed=detailed))
    out.record(members_record(found, releases=session.protocol == "json"))


@contextmanager
def _explaining_expressions(
    out: Output, name: str, status: str, tags: Mapping[str, str]
) -> Iterator[None]:
    """Explain the error of an invalid expression, with which Serf's RPC closes the connection.

    Raises:
        CommandError: for every ControlError raised in the block.
    """
    try:
        with reporting_errors("Error retrieving members"):
            yield
    except CommandError as error:
        named = [("-name", name), ("-status", status)]
        wrong = expression_errors([*named, *((f"-tag {key}", tags[key]) for key in tags)])
        if error.code != "disconnected" or not wrong:
            raise
        if out.json:
            raise CommandError(f"Error retrieving members: {wrong}", "invalid_filter") from error
        raise CommandError(error.text, "invalid_filter", hint=wrong) from error


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


def members_record(found: Iterable[MemberInfo], *, releases: bool = False) -> dict[str, Any]:
    """Return members in Serf's JSON, null for an empty list; with `releases` these, too."""
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
            **({"release": member.release} if releases else {}),
        }
        for member in found
    ]
    return {"members": records or None}
