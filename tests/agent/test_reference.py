"""The reference of the agent's configuration names every key, with its true default."""

import re
from pathlib import Path
from typing import Any

import attrs
import pytest

import trioserf.agent
from trioserf.agent.config import AgentConfig
from trioserf.agent.durations import parse_duration
from trioserf.node.config import NodeConfig
from trioserf.serf.config import SerfOptions
from trioserf.swim.config import PROFILES, Timing

REFERENCE = (Path(trioserf.agent.__file__).parent / "README.md").read_text("utf-8")
ROWS = {
    key: cells
    for key, *cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in REFERENCE.splitlines()
        if line.startswith("| `")
    )
}
DEFAULTS: dict[str, Any] = {
    field.name: field.default
    for options in (AgentConfig, NodeConfig, SerfOptions)
    for field in attrs.fields(options)
    if isinstance(field.default, bool | int | float)
}


def told(cell: str) -> Any:
    """Read a default as the reference spells it."""
    text = cell.strip("`")
    if text in ("true", "false"):
        return text == "true"
    return parse_duration(text) if re.search("[a-z]", text) else int(text)


def test_every_key_is_told() -> None:
    named = {name for key in ROWS for name in re.findall("`([a-z_0-9]+)`", key)}
    assert {field.name for field in attrs.fields(AgentConfig)} - named == set()


@pytest.mark.parametrize(
    "key",
    sorted(
        field.name
        for field in attrs.fields(AgentConfig)
        if field.name in DEFAULTS and f"`{field.name}`" in ROWS
    ),
)
def test_defaults_are_told_as_they_are(key: str) -> None:
    assert told(ROWS[f"`{key}`"][0]) == DEFAULTS[key]


@pytest.mark.parametrize("place", range(len(PROFILES)))
def test_profiles_are_told_as_they_are(place: int) -> None:
    timing = list(PROFILES.values())[place]
    found: dict[str, Any] = {}
    for key, cells in ROWS.items():
        names = re.findall("`([a-z_0-9]+)`", key)
        if len(cells) == len(PROFILES) and names[0] != "key":
            found |= dict(zip(names, map(told, cells[place].split(", ")), strict=True))
    assert found == {field.name: getattr(timing, field.name) for field in attrs.fields(Timing)}
