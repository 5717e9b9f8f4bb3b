"""`info`: show the agent's statistics."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from trioserf.cli.app import OWN_JSON, TwoJsonCommand, more, new_app
from trioserf.cli.connect import connect, connect_any
from trioserf.cli.go_format import sorted_keys
from trioserf.cli.options import Format, RpcAddr, RpcAuth
from trioserf.cli.output import Output, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.printable import printable

if TYPE_CHECKING:
    from trioserf.control.client.session import AgentSession

_TEXT_GROUPS = frozenset(("agent", "tags", "event_handlers"))

app = new_app()


@app.command(
    cls=TwoJsonCommand,
    epilog=more("info", "info -format=json", page="trioserf/control/README.md, § Commands"),
)
def info(
    ctx: typer.Context,
    output_format: Format = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Show the agent's release, addresses, counters, queues, tags and handlers.

    In JSON, -format has text for every value, as in Serf; --format has numbers as numbers.
    """
    out: Output = ctx.obj
    typed: bool = ctx.meta[OWN_JSON]
    open_session: Callable[[str, str], AgentSession] = connect_any if typed else connect
    with open_session(rpc_addr, rpc_auth) as session, reporting_errors("Error querying agent"):
        groups = session.info()
    check_format(output_format, 'Encoding error: Invalid output format "{}"')
    out.line(info_text(groups))
    if typed and session.protocol == "msgpack":
        groups = typed_groups(groups)
    out.record(sorted_keys(groups))


def typed_groups(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Convert the texts of Serf's agent: whole numbers, `true` and `false`.

    Tags and handlers stay text.
    """
    return {
        group: {
            key: value if group in _TEXT_GROUPS else _typed(value) for key, value in values.items()
        }
        for group, values in groups.items()
    }


def _typed(value: str) -> int | bool | str:
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.isdecimal() and value.isascii() else value


def info_text(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Format groups and their values, both sorted by name."""
    lines = []
    for group in sorted(groups):
        lines.append(f"{printable(group)}:")
        pairs = sorted(groups[group].items())
        lines += [f"\t{printable(key)} = {printable(str(value))}" for key, value in pairs]
    return "\n".join(lines)
