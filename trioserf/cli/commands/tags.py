"""`tags`: change the agent's tags."""

from typing import Annotated

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.completion import own_tags
from trioserf.cli.connect import connect_for, parse_tags
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import Output, UsageError, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS

app = new_app()


@app.command(
    cls=SerfCommand,
    epilog=more(
        "tags -set role=web -set zone=a",
        "tags -delete zone",
        page="trioserf/agent/README.md, § Files",
    ),
)
def tags(
    ctx: typer.Context,
    set_pairs: Annotated[
        list[str] | None,
        typer.Option(
            "-set", metavar="KEY=VALUE", help="Create a tag or change its value. Repeatable."
        ),
    ] = None,
    delete: Annotated[
        list[str] | None,
        typer.Option(
            "-delete",
            metavar="KEY",
            help="Remove a tag, if it exists. Repeatable.",
            autocompletion=own_tags,
        ),
    ] = None,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Change the tags of a running agent."""
    out: Output = ctx.obj
    if not set_pairs and not delete:
        raise UsageError
    with connect_for(out, rpc_addr, rpc_auth) as session:
        check_format(output_format)
        changes = parse_tags(set_pairs or (), out)
        with reporting_errors("Error setting tags"):
            after = session.tags(changes, delete or ())
    out.line("Successfully updated agent tags")
    out.record({"set": changes, "delete": delete or [], "tags": after})
