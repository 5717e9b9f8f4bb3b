"""`force-leave`: declare that a failed member has left."""

from typing import Annotated

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.completion import member_names
from trioserf.cli.connect import connect_for
from trioserf.cli.hints import name_errors
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import CommandError, Output, UsageError, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS

app = new_app()


class _ForceLeaveCommand(SerfCommand):
    words_are = ("a name", "the name")


@app.command(
    "force-leave",
    cls=_ForceLeaveCommand,
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
    [name] = words
    with connect_for(out, rpc_addr, rpc_auth) as session:
        check_format(output_format)
        # An agent of Serf accepts any name, and after -prune a member is unknown, too.
        errors = name_errors(session, [name]) if prune else []
        with reporting_errors("Error force leaving"):
            session.force_leave(name, prune=prune)
        errors = errors if prune else name_errors(session, [name])
    if errors and out.json:
        raise CommandError(f"Error force leaving: {errors[0]}", "no_such_member")
    for error in errors:
        out.explain(error, "no_such_member")
    out.record({"name": name, "prune": prune})
