"""`monitor` and `stream`: what happens, as it happens."""

import os
import select
import signal
from collections.abc import Mapping
from contextlib import suppress
from threading import Thread
from typing import Annotated, Any

from trioserf.cli.calling import connect, connect_any
from trioserf.cli.flags import Option, OurFormat, RpcAddr, RpcAuth
from trioserf.cli.golang import go_syntax
from trioserf.cli.output import Failure, Out, check_format, failing
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.records import LogEntry
from trioserf.control.client.rpc_session import log_entry
from trioserf.control.errors import ControlError

STDOUT = 1


def end_with_the_reader(code: int, descriptor: int = STDOUT) -> None:
    """End this process at once when nobody reads its output any more.

    Otherwise a quiet cluster would keep `trioserf stream | head -1` waiting for the next event.
    """

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)
        poll.poll()
        os._exit(code)

    Thread(target=watch, daemon=True).start()


def monitor(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    log_level: Annotated[
        str,
        Option(
            "log-level", "What to show: trace, debug, info (the default), warn or err.", "LEVEL"
        ),
    ] = "INFO",
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Show the last lines of the agent's log, then follow it, and its events.

    The level is independent of the one that the agent itself logs at. In JSON there are only the
    lines of the log: "trioserf stream" gives events.
    """
    with connect(rpc_addr, rpc_auth) as session:
        wants_json = check_format(output_format, "Invalid format: {}")
        seqs: list[int] = []
        if not wants_json:
            with failing("Error starting stream"):
                seqs.append(session.open_stream("stream", {"Type": "*"}))
        with failing("Error starting monitor"):
            seqs.append(session.open_stream("monitor", {"LogLevel": log_level.upper()}))
        end_with_the_reader(128 + signal.SIGPIPE)
        with suppress(KeyboardInterrupt):
            try:
                for record in session.records(*seqs):
                    show(out, record)
            except ControlError as error:
                raise Failure(
                    "\nRemote side ended the monitor! This usually means that the\n"
                    "remote side has exited or crashed.",
                    error.code,
                ) from error
    return 0


def show(out: Out, record: Mapping[str, Any]) -> None:
    """Write a line of the log, or an event in Serf's way."""
    if "Event" in record:
        fields = (f"\t{name}: {go_syntax(record[name])}" for name in sorted(record))
        out.line("\n".join(("Event Info:", *fields)))
        return
    entry = log_entry(record)
    out.line(entry.text if entry.time else entry.message)
    out.record(log_record(entry), indent=None)


def log_record(entry: LogEntry) -> dict[str, Any]:
    """Show a line of the log in JSON."""
    return entry._asdict()


def stream(
    out: Out,
    words: list[str],
    *,
    event_type: Annotated[
        list[str],
        Option(
            "type",
            "Only these events: member-join, user:deploy, query, and whatever else an event"
            " handler may ask for. Repeatable, or a list with commas. Default: all.",
            "FILTER",
            ours=True,
        ),
    ] = [],  # noqa: B006 - only read
    coalesce: Annotated[
        bool, Option("coalesce", "Gather member events that come together.", ours=True)
    ] = False,
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Write what happens in the cluster as JSON, one event a line, as it happens.

    It ends when its reader does, and fails when the agent goes. What goes wrong is told on
    standard error: whoever reads the output gets JSON and nothing else.
    """
    filters = [one for text in [*event_type, *words] for one in text.split(",") if one]
    session = connect_any(rpc_addr, rpc_auth)
    lines = Out(out.stream, json=True)
    with session, suppress(KeyboardInterrupt, BrokenPipeError):
        with failing("Error starting stream"):
            records = session.stream_records(filters, coalesce=coalesce)
        end_with_the_reader(0)
        try:
            for record in records:
                lines.record(record, indent=None)
        except ControlError as error:
            gone = error.code == "disconnected"
            why = "the agent has exited, or crashed" if gone else error.message
            raise Failure(f"The stream ended: {why}", error.code) from error
    return 0
