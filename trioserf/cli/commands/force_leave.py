"""`force-leave`: declare that a failed member has left."""

from typing import Annotated

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.completion import member_names
from trioserf.cli.connect import connect
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import Output, UsageError, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS

app = new_app()


@app.command(
    "force-leave",
    cls=SerfCommand,
    epilog=more(
        "force-leave db-1",
        "force-leave -prune db-1",
        page="trioserf/control/README.md, § Commands",
    ),
)
def force_leave(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="name", autocompletion=member_names)
    ] = None,
    prune: Annotated[
        bool, typer.Option("-prune", help="Remove the member from the list, too.")
    ] = False,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Declare that a failed member has left.

    The cluster then stops trying to reconnect to it. A member that is alive rejoins by itself.
    """
    out: Output = ctx.obj
    if not words or len(words) != 1:
        raise UsageError("A node name must be specified to force leave.")
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format)
        with reporting_errors("Error force leaving"):
            session.force_leave(words[0], prune=prune)
    out.record({"name": words[0], "prune": prune})
