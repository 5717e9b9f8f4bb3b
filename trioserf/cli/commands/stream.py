"""`stream`: write events as JSON."""

from contextlib import suppress
from typing import Annotated

import typer

from trioserf.cli.app import ExtensionCommand, more, new_app
from trioserf.cli.commands.monitor import exit_when_reader_closes
from trioserf.cli.completion import EVENT_FILTERS, complete_from
from trioserf.cli.connect import connect_any
from trioserf.cli.options import RpcAddr, RpcAuth, StreamFormat
from trioserf.cli.output import CommandError, Output, ReaderClosedError, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.errors import ControlError

app = new_app()


class _StreamCommand(ExtensionCommand):
    errors_to_stderr = True


@app.command(
    cls=_StreamCommand,
    epilog=more(
        "stream user:deploy query",
        "stream --type=member-join,member-failed",
        page="trioserf/control/README.md, § Event records",
    ),
)
def stream(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[filter ...]", autocompletion=complete_from(*EVENT_FILTERS)),
    ] = None,
    event_type: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="FILTER",
            help="Only these events: member-join, user:deploy, query, or any other filter of"
            " event handlers. Repeatable, or a list with commas. Default: all.",
            autocompletion=complete_from(*EVENT_FILTERS),
        ),
    ] = None,
    coalesce: Annotated[bool, typer.Option("--coalesce", help="Coalesce member events.")] = False,
    output_format: StreamFormat = "",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Write events as JSON, one a line.

    The stream ends with its reader, and fails when the agent ends. Errors go to standard error:
    standard output has nothing but JSON.
    """
    out: Output = ctx.obj
    if output_format not in ("", "json"):
        raise CommandError(
            f"Invalid format: {output_format}", "bad_request", hint="stream writes JSON only"
        )
    filters = [
        name for text in [*(event_type or ()), *(words or ())] for name in text.split(",") if name
    ]
    session = connect_any(rpc_addr, rpc_auth)
    lines = Output(out.stream, json=True)
    with session, suppress(KeyboardInterrupt, ReaderClosedError):
        with reporting_errors("Error starting stream"):
            records = session.stream_records(filters, coalesce=coalesce)
        exit_when_reader_closes(0)
        try:
            for record in records:
                lines.record(record, indent=None)
        except ControlError as error:
            ended = error.code == "disconnected"
            why = "the agent has exited, or crashed" if ended else error.message
            raise CommandError(f"The stream ended: {why}", error.code) from error
