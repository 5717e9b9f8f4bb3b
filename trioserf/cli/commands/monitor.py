"""`monitor`: follow the agent's log."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Annotated, Any

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.completion import LOG_LEVELS
from trioserf.cli.connect import connect, connect_any
from trioserf.cli.go_format import go_syntax
from trioserf.cli.options import OwnFormat, RpcAddr, RpcAuth
from trioserf.cli.output import CommandError, Output, check_format, reporting_errors
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import LogEntry
from trioserf.control.client.rpc_session import log_entry
from trioserf.control.errors import ControlError
from trioserf.operating_system.processes import SIGPIPE, wait_for_reader_to_close
from trioserf.results import Dropped

STDOUT = 1
_LEVEL_HINT = {"bad_request": "the levels are trace, debug, info, warn and err"}
_LOCAL_TIME = re.compile(r"(\d{4})/(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d+))?", re.ASCII)
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
    if out.json:
        with connect_any(rpc_addr, rpc_auth) as agent:
            with reporting_errors("Error starting monitor"):
                lines = agent.monitor(log_level.upper())
            with _following():
                for line in lines:
                    out.record(log_record(line), indent=None)
        return
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format)
        with reporting_errors("Error starting stream"):
            events = session.open_stream("stream", {"Type": "*"})
        with reporting_errors("Error starting monitor", _LEVEL_HINT):
            log = session.open_stream("monitor", {"LogLevel": log_level.upper()})
        with _following():
            for record in session.records(events, log):
                show(out, record)


@contextmanager
def _following() -> Iterator[None]:
    """Read a stream in the block, until its reader or the user ends it.

    Raises:
        CommandError: the agent ended it.
    """
    exit_when_reader_closes(128 + SIGPIPE)
    with suppress(KeyboardInterrupt):
        try:
            yield
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


def log_record(line: LogEntry | Dropped) -> dict[str, Any]:
    """Return a line of the log as the control socket sends it, its time in UTC."""
    if isinstance(line, Dropped):
        return {"event": line.kind, "count": line.count}
    return {"log": {**line.record, "time": utc_text(line.time)}}


def utc_text(text: str) -> str:
    """Convert the time of a line of an agent of Serf to ISO 8601 in UTC, with milliseconds.

    Such a line has the agent's local time, which is taken for that of this host. Any other text,
    such as a time in UTC, is returned as it is.
    """
    found = _LOCAL_TIME.fullmatch(text)
    if found is None:
        return text
    *fields, fraction = found.groups()
    year, month, day, hour, minute, second = map(int, fields)
    instant = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
    milliseconds = (fraction or "").ljust(3, "0")[:3]
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(instant)) + f".{milliseconds}Z"
