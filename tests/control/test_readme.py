"""The tables of the room's README equal the declarations."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import trioserf.control
from trioserf.control.errors import CODES
from trioserf.control.server.admission import KEY_RATE, KEY_TRIES, Limits
from trioserf.control.server.commands import (
    COMMANDS,
    CONNECTION_PARAMS,
    STREAMS,
    Command,
    Stream,
)
from trioserf.control.server.connection import (
    MAX_IN_FLIGHT,
    MAX_MESSAGE,
    MAX_STREAMS,
    MAX_UNAUTHENTICATED_MESSAGE,
)
from trioserf.control.server.msgpack_handlers import BODIES, BODILESS, COMMANDS_OF
from trioserf.control.server.params import Params
from trioserf.control.server.permissions import SCOPES

README = (Path(trioserf.control.__file__).parent / "README.md").read_text()
PARAMETER = re.compile(r"(\*\*)?`(\w+)(?:\[\]|\{\})?`(?:\*\*)?(?:=([^\s,]+))?")
NOT_SHOWN: tuple[object, ...] = (None, "", b"", (), {})


def rows(heading: str, table: int = 0) -> Iterator[list[str]]:
    """Yield the cells of a table under a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[table].splitlines()
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def documented(cell: str) -> list[tuple[str, bool, str]]:
    """Return name, whether it is required, and the default of each parameter of a cell."""
    text = re.sub(r"\[[^]]+\]\([^)]*\)", "", cell)
    return [(name, bool(bold), default) for bold, name, default in PARAMETER.findall(text)]


def declared(params: Params) -> list[tuple[str, bool, str]]:
    """Return the same for declared parameters; `payload_base64` is not listed."""
    found = []
    for name in params.names:
        if name == "payload_base64":
            continue
        required = name in params._required
        default = None if required else params._defaults[name]
        found.append((name, required, "" if default in NOT_SHOWN else json.dumps(default)))
    return found


def test_command_table_equals_the_declared_commands() -> None:
    params = {
        **{name: command.params for name, command in COMMANDS.items()},
        **{name: stream.params for name, stream in STREAMS.items()},
        **CONNECTION_PARAMS,
    }
    table = {cells[0].strip("`"): documented(cells[1]) for cells in rows("Commands")}
    assert table == {name: declared(command_params) for name, command_params in params.items()}


def test_error_table_equals_the_declared_codes() -> None:
    table = [code for cells in rows("Errors") for code in re.findall(r"`(\w+)`", cells[0])]
    assert table == list(CODES)


def test_scope_table_equals_the_declared_scopes() -> None:
    json_commands: dict[str, Command | Stream] = {**COMMANDS, **STREAMS}
    table = [[re.findall(r"`([\w-]+)`", cell) for cell in cells[:3]] for cells in rows("Scopes")]
    assert [scope for (scope,), _, _ in table] == list(SCOPES)
    for column, commands in ((1, json_commands), (2, COMMANDS_OF)):
        listed = {name: cells[0][0] for cells in table for name in cells[column]}
        assert listed == {name: command.scope for name, command in commands.items()}


def test_rpc_table_equals_the_declared_bodies() -> None:
    table = {
        command: re.findall(r"`(\w+)`", cells[1])
        for cells in rows("RPC")
        for command in re.findall(r"`([\w-]+)`", cells[0])
    }
    assert table == {
        **{name: list(fields) for name, fields in BODIES.items()},
        **{name: [] for name in BODILESS},
    }


def test_limits_table_equals_the_declared_limits() -> None:
    limits = Limits()
    numbers = [list(map(int, re.findall(r"\d+", cells[1]))) for cells in rows("Limits")]
    assert numbers == [
        [MAX_MESSAGE >> 20, MAX_UNAUTHENTICATED_MESSAGE >> 10],
        [limits.connections, limits.kept_for_unix],
        [limits.loopback, limits.source],
        [limits.unauthenticated, limits.source_unauthenticated],
        [limits.first],
        [limits.auth],
        [KEY_TRIES, KEY_RATE, limits.wrong_key],
        [limits.message],
        [limits.write],
        [MAX_IN_FLIGHT],
        [MAX_STREAMS],
    ]
