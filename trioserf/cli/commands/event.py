"""`event`: send a user event."""

from typing import Annotated

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.connect import connect_for
from trioserf.cli.go_format import to_bytes
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import Output, UsageError, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS

_SIZE_HINT = {"too_large": "the agents' key user_event_size_limit is the limit: agent --set"}
TOO_MANY_WORDS = "Too many command line arguments. Only a name and payload must be specified."

app = new_app()


class MessageCommand(SerfCommand):
    """A command whose words are a name and a payload."""

    words_are = ("the payload", "the name")


@app.command(
    cls=MessageCommand,
    epilog=more(
        "event deploy v1",
        "event -coalesce=false restart",
        page="trioserf/agent/README.md, § Event handlers",
    ),
)
def event(
    ctx: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="name [payload]")] = None,
    coalesce: Annotated[
        bool,
        typer.Option(
            "-coalesce",
            metavar="true|false",
            help="Of several events with this name in a short time, each member handles only"
            " the last one. Default true.",
        ),
    ] = True,
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Send a user event to every member."""
    out: Output = ctx.obj
    if not words:
        raise UsageError("An event name must be specified.")
    if len(words) > 2:
        raise UsageError(TOO_MANY_WORDS)
    name, payload = words[0], "".join(words[1:])
    with connect_for(out, rpc_addr, rpc_auth) as session:
        check_format(output_format)
        with reporting_errors("Error sending event", _SIZE_HINT):
            ltime = session.event(name, to_bytes(payload), coalesce=coalesce)
    flag = "true" if coalesce else "false"
    out.line(f"Event '{name}' dispatched! Coalescing enabled: {flag}")
    out.record({"name": name, "coalesce": coalesce, "ltime": ltime})
