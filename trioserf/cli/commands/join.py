"""`join`: make the agent join a cluster."""

from typing import Annotated

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.connect import connect_for
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import CommandError, Output, UsageError, check_format, error_reason
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.errors import ControlError

app = new_app()


class _JoinCommand(SerfCommand):
    words_are = ("an address", "the addresses")


@app.command(
    cls=_JoinCommand,
    epilog=more(
        "join 10.0.0.1",
        "join -replay 10.0.0.1:7946 seed.example",
        page="trioserf/agent/README.md, § Addresses to join",
    ),
)
def join(
    ctx: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="address ...")] = None,
    replay: Annotated[
        bool, typer.Option("-replay", help="Accept user events from before the join.")
    ] = False,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Make the agent join a cluster.

    One reachable address is enough.
    """
    out: Output = ctx.obj
    if not words:
        raise UsageError("At least one address to join must be specified.")
    with connect_for(out, rpc_addr, rpc_auth) as session:
        check_format(output_format)
        try:
            number = session.join(words, replay=replay)
        except ControlError as error:
            reason = error_reason(error)
            # Serf's list of causes ends in a blank line, which the client does not carry.
            reason += "\n\n" if "occurred:\n" in reason else ""
            text = f"Error joining the cluster: {reason}"
            raise CommandError(text, error.code, error.details) from error
    out.line(f"Successfully joined cluster by contacting {number} nodes.")
    out.record({"joined": number})
