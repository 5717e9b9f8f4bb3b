"""The reference of settings, the tables of limits and the help agree with the declarations.

The tables of settings in agent/README.md are generated from the declarations:
`python -m tests.agent.test_reference` rewrites them. Tables of limits are written by hand; their
numbers are compared with the constants.
"""

import itertools
import re
import textwrap
from pathlib import Path
from typing import Any

import attrs

from tests.agent.helpers import ROOT
from trioserf import printable
from trioserf.agent import log_limits, script_runner, stream_writer
from trioserf.agent.config import AgentConfig, HandlerOptions
from trioserf.agent.config_reload import reloaded_keys
from trioserf.cli.agent_options import OPTIONS
from trioserf.control.server import admission, audit, commands, connection
from trioserf.control.server.http_api import app, event_log, server
from trioserf.control.server.http_api import connection as http_connection
from trioserf.node import (
    drop_counts,
    event_hub,
    key_handler,
    refusals,
    seen_nonces,
    state,
    state_owner,
    stream_queue,
)
from trioserf.node.config import NodeConfig
from trioserf.serf import event_repair, filters, incoming_queries, query_collector, query_filters
from trioserf.settings import setting_of, settings_of
from trioserf.swim import broadcast_queue, reply_limits
from trioserf.swim import refusals as swim_refusals
from trioserf.swim.config import LAN, PROFILES, Timing
from trioserf.wire import (
    event_digest,
    msgpack,
    packet,
    serf_codec,
    stream,
    stream_decoders,
    swim_messages,
)

REFERENCE = ROOT / "trioserf" / "agent" / "README.md"
LIMITS = ROOT / "SECURITY.md"
CHANNELS = ROOT / "trioserf" / "node" / "README.md"
UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "bytes": 1, "s": 1}
NODE = NodeConfig(name="a")
HANDLERS = HandlerOptions()
LIMITS_OF_ROWS: list[list[float]] = [
    [packet.MAX_EXPANDED, packet.MAX_EXPANDED],
    [stream_decoders.MAX_SEALED, stream.MAX_EXPANDED],
    [NODE.max_streams, LAN.tcp_timeout],
    [NODE.stream_memory],
    [NODE.swim.max_members],
    [msgpack.MAX_NAME, swim_messages.MAX_META, serf_codec.USER_EVENT_HARD_LIMIT],
    [NODE.serf.intents_kept, 2 * NODE.serf.max_queue_depth],
    [NODE.serf.event_buffer, NODE.serf.event_buffer_bytes],
    [stream_queue.MAX_PER_MEMBER, stream_queue.MAX_BYTES],
    [NODE.serf.pending_queries, query_collector.MAX_RESPONSE_BYTES],
    [NODE.serf.pending_queries, incoming_queries._MAX_REPEATS],
    [
        event_digest.MAX_DIGEST,
        1 / event_repair._OBSERVE_INTERVAL,
        1 / event_repair._INTERVAL,
        1,
        event_repair._PEER_INTERVAL,
    ],
    [broadcast_queue._MAX_HOLDERS],
    [commands.STREAM_BUFFER, event_hub._MAX_BYTES],
    [filters.MAX_EXPRESSION, filters._PATTERN_MEMORY, query_filters.MAX_FILTERS],
    [
        1000 * one
        for one in (
            query_filters._BURST,
            query_filters._TOTAL_BURST,
            query_filters._RATE,
            query_filters._TOTAL_RATE,
        )
    ],
    [
        reply_limits._BURST,
        reply_limits._TOTAL_BURST,
        reply_limits._RATE,
        reply_limits._TOTAL_RATE,
    ],
    [incoming_queries._RELAY_BURST, incoming_queries._RELAY_RATE],
    [reply_limits.MAX_PINGS],
    [swim_refusals.MAX_CHECKERS, refusals._AT_ONCE, state_owner._MAX_CHECKS],
    [state._AT_ONCE, state._MAX_WAITING],
    [2 * seen_nonces.MAX],
    [log_limits._BURST, log_limits._BURST_OF_ALL, log_limits.INTERVAL],
    [printable.LOGGED_NAME, printable._LOGGED_BYTES],
    [
        HANDLERS.limit,
        HANDLERS.limit,
        HANDLERS.timeout,
        HANDLERS.queue,
        script_runner.OUTPUT_KEPT,
    ],
    [drop_counts._MAX_PEERS, drop_counts._LOG_INTERVAL, drop_counts._WARN_INTERVAL],
    [stream_writer.MAX_WAITING],
    [server.MAX_CONNECTIONS, server.MAX_PER_HOST, app.MAX_STREAMS],
    [
        http_connection.MAX_HEAD,
        http_connection.IDLE,
        http_connection.REQUEST,
        http_connection.WRITE,
    ],
    [event_log.MAX_EVENTS, event_log.MAX_BYTES],
    [
        admission.Limits().connections,
        admission.Limits().kept_for_unix,
        admission.Limits().source,
        admission.Limits().loopback,
    ],
    [
        admission.Limits().unauthenticated,
        admission.Limits().source_unauthenticated,
        connection.MAX_UNAUTHENTICATED_MESSAGE,
        admission.Limits().auth,
    ],
    [admission.KEY_TRIES, admission.KEY_RATE, admission.Limits().wrong_key],
    [audit.MAX_LINES, audit.MAX_BYTES],
]
"""The numbers of each row of the table of limits, in its order."""
BOUNDS_OF_CHANNELS: list[list[float]] = [
    [NODE.inbox_depth, state_owner._MAX_BATCHES],
    [stream_queue.MAX_PER_MEMBER, stream_queue.MAX_BYTES],
    [event_hub._MAX_BYTES],
    [],
    [key_handler._MAX_CHANGES],
    [state_owner._MAX_CHECKS],
    [],
    [],
]
"""The numbers of each row of the table of channels, in its order."""


def format_value(value: object) -> str:
    """Return a value as a configuration file has it, in the Markdown of a table's cell."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            for unit, seconds in (("h", 3600), ("m", 60), ("s", 1)):
                if value >= seconds and value % seconds == 0:
                    return f"`{value / seconds:g}{unit}`"
            return f"`{value * 1000:g}ms`" if value else "`0s`"
        case tuple():
            return ", ".join(map(format_value, value))
        case dict() | list():
            return f"`{value}`"
        case _:
            return f"`{value}`" if value else ""


def default_of(field: "attrs.Attribute[Any]") -> str:
    declared = setting_of(field)
    if declared and declared.shown:
        return declared.shown
    factory = getattr(field.default, "factory", None)
    return format_value(factory() if factory else field.default)


def numbers_in_column(path: Path, heading: str, column: int) -> list[list[float]]:
    """Return the numbers in each row of a table, without estimates (in KB)."""
    found = re.search(
        rf"^\| {re.escape(heading)} \|\n\|[-|]+\n((?:\|.*\n)+)",
        path.read_text("utf-8"),
        re.MULTILINE,
    )
    assert found, heading
    number = re.compile(r"(?<![\w.])(\d[\d,]*+)(?! KB)(?: (KiB|MiB|bytes|s)\b)?")
    return [
        [
            float(digits.replace(",", "")) * UNITS[unit]
            for digits, unit in number.findall(row.strip("|").split("|")[column])
        ]
        for row in found[1].splitlines()
    ]


def table(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|--" * len(columns) + "|"]


def tables() -> dict[str, list[str]]:
    """Return the lines of each table by the heading of its section."""
    serf, own = table("key", "default", "meaning"), table("key", "default", "meaning")
    timings = table("key", *PROFILES, "meaning")
    for key, field in settings_of(AgentConfig).items():
        declared = setting_of(field)
        assert declared is not None
        if key in attrs.fields_dict(Timing):
            values = [format_value(getattr(profile, key)) for profile in PROFILES.values()]
            timings.append(f"| `{key}` | {' | '.join(values)} | {declared.help} |")
        else:
            rows = serf if declared.serf else own
            rows.append(f"| `{key}` | {default_of(field)} | {declared.help} |")
    return {"Keys of Serf": serf, "Keys on top": own, "Timings": timings}


def with_reloaded_keys(text: str) -> str:
    """Replace the list of keys that a reload applies by the generated one."""
    before, title, rest = text.partition("applies these keys:\n\n")
    assert title
    lines = textwrap.wrap(" ".join(reloaded_keys()), 100)
    new = "".join(f"    {line}\n" for line in lines)
    return before + title + re.sub(r"(^    .*\n)+", new, rest, count=1, flags=re.MULTILINE)


def with_tables(text: str) -> str:
    """Replace the first table of each section of the reference by the generated one."""
    text = with_reloaded_keys(text)
    for heading, lines in tables().items():
        before, title, rest = text.partition(f"### {heading}\n")
        assert title, heading
        new = "".join(f"{line}\n" for line in lines).replace("\\", r"\\")
        text = before + title + re.sub(r"(^\|.*\n)+", new, rest, count=1, flags=re.MULTILINE)
    return text


def test_reference_is_generated_from_declarations() -> None:
    text = REFERENCE.read_text("utf-8")
    assert text == with_tables(text), "run: python -m tests.agent.test_reference"


def test_query_buffer_limits_equal_those_of_events() -> None:
    """The table of limits has one row for both."""
    options = NODE.serf
    assert (options.query_buffer, options.query_buffer_bytes) == (
        options.event_buffer,
        options.event_buffer_bytes,
    )


def test_limits_in_documentation_equal_constants() -> None:
    assert numbers_in_column(LIMITS, "what | limit", 1) == LIMITS_OF_ROWS


def test_bounds_of_channels_equal_constants() -> None:
    heading = "channel | holds | bound | when full | ends"
    assert numbers_in_column(CHANNELS, heading, 2) == BOUNDS_OF_CHANNELS


def test_defaults_in_help_of_options_equal_declarations() -> None:
    fields = settings_of(AgentConfig)
    for option in itertools.chain(*OPTIONS.values()):
        stated = re.search(r"Default:? ([^ ]+?)(?:: [\w ]+)?\.(?: |$)", option.help)
        named = re.search(r"(\w+) \(the default\)", option.help)
        if option.key in fields and (shown := stated or named):
            declared = default_of(fields[option.key]).strip("`").lower()
            assert shown[1].lower() == declared, option.names


if __name__ == "__main__":
    REFERENCE.write_text(with_tables(REFERENCE.read_text("utf-8")), "utf-8")
