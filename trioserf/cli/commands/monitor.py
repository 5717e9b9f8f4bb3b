"""`monitor`: follow the agent's log."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from typing import Annotated, Any

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.connect import connect
from trioserf.cli.go_format import go_syntax
from trioserf.cli.options import LOG_LEVELS, OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import CommandError, Output, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import LogEntry
from trioserf.control.client.rpc_session import log_entry
from trioserf.control.errors import ControlError
from trioserf.operating_system.processes import SIGPIPE, wait_for_reader_to_close

STDOUT = 1
_NEXT_LINE = re.compile(r"\n(?![\t\n]|$)")

app = new_app()


@app.command(
    cls=SerfCommand,
    epilog=more(
        "monitor -log-level=debug",
        "monitor --format=json",
        page="trioserf/control/README.md, § The log",
    ),
)
def monitor(
    ctx: typer.Context,
    log_level: Annotated[
        str,
        typer.Option(
            "-log-level",
            metavar="LEVEL",
            help="Lowest level: trace, debug, info (the default), warn or err.",
            autocompletion=LOG_LEVELS,
        ),
    ] = "INFO",
    output_format: OwnFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> None:
    """Follow the agent's log.

    The last lines come first. The level is independent of the agent's own. Text output shows
    events, too; JSON has the lines of the log only ("trioserf stream" writes events).
    """
    out: Output = ctx.obj
    with connect(rpc_addr, rpc_auth) as session:
        wants_json = check_format(output_format)
        seqs: list[int] = []
        if not wants_json:
            with reporting_errors("Error starting stream"):
                seqs.append(session.open_stream("stream", {"Type": "*"}))
        with reporting_errors("Error starting monitor"):
            seqs.append(session.open_stream("monitor", {"LogLevel": log_level.upper()}))
        exit_when_reader_closes(128 + SIGPIPE)
        with suppress(KeyboardInterrupt):
            try:
                for record in session.records(*seqs):
                    show(out, record)
            except ControlError as error:
                raise CommandError(
                    "\nRemote side ended the monitor! This usually means that the\n"
                    "remote side has exited or crashed.",
                    error.code,
                ) from error


def exit_when_reader_closes(code: int, descriptor: int = STDOUT) -> None:
    """End this process as soon as the reader of its output closes the pipe, if that is noticed.

    Otherwise `trioserf stream | head -1` would wait for another event, in a quiet cluster
    forever.
    """

    def watch() -> None:
        if wait_for_reader_to_close(descriptor):
            os._exit(code)

    Thread(target=watch, daemon=True).start()


def show(out: Output, record: Mapping[str, Any]) -> None:
    """Write a line of the log, or an event in Serf's format."""
    if "Event" in record:
        fields = (f"\t{name}: {go_syntax(record[name])}" for name in sorted(record))
        out.line("\n".join(("Event Info:", *fields)))
        return
    entry = log_entry(record)
    # Further lines of a message begin with a tab, so that no text looks like a line of its own.
    out.line(_NEXT_LINE.sub("\n\t", entry.text if entry.time else entry.message))
    out.record(log_record(entry), indent=None)


def log_record(entry: LogEntry) -> dict[str, Any]:
    """Return a line of the log for JSON."""
    return entry._asdict()
