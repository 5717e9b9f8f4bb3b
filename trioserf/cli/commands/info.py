"""`info`: show the agent's statistics."""

from collections.abc import Mapping
from typing import Any

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.connect import connect
from trioserf.cli.go_format import sorted_keys
from trioserf.cli.options import Format, RpcAddr, RpcAuth
from trioserf.cli.output import Output, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.printable import printable

app = new_app()


@app.command(
    cls=SerfCommand,
    epilog=more("info", "info -format=json", page="trioserf/control/README.md, § Commands"),
)
def info(
    ctx: typer.Context,
    output_format: Format = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Show the agent's counters, queues, tags and handlers."""
    out: Output = ctx.obj
    with connect(rpc_addr, rpc_auth) as session, reporting_errors("Error querying agent"):
        groups = session.info()
    check_format(output_format, 'Encoding error: Invalid output format "{}"')
    out.line(info_text(groups))
    out.record(sorted_keys(groups))


def info_text(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Format groups and their values, both sorted by name."""
    lines = []
    for group in sorted(groups):
        lines.append(f"{printable(group)}:")
        pairs = sorted(groups[group].items())
        lines += [f"\t{printable(key)} = {printable(str(value))}" for key, value in pairs]
    return "\n".join(lines)
