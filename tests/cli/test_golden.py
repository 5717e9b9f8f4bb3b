"""Command lines that the real program was asked, and what it said."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import CLOSED, ran
from trioserf.cli.commands import COMMANDS, flags

GOLDEN = Path(__file__).parent / "golden"
MISUSE: list[dict[str, Any]] = json.loads((GOLDEN / "misuse.json").read_text("utf-8"))
OPTIONS: dict[str, list[str]] = json.loads((GOLDEN / "options.json").read_text("utf-8"))
OWN_WORDS = {"": "Usage", "nosuch": "no such command", "-x": "Invalid flags before the"}
"""Lines of ours where the usage of the whole program is shown; no script reads them."""


@pytest.mark.parametrize("recorded", MISUSE, ids=lambda one: " ".join(one["argv"]) or "nothing")
def test_it_answers_as_serf_does(
    recorded: dict[str, Any],
) -> None:
    words: list[str] = recorded["argv"]
    printed = ran(words, SERF_RPC_ADDR=CLOSED)
    assert printed.code == recorded["exit"]
    complaint, usage_in_stderr, _ = printed.err.partition("Usage:")
    assert bool(usage_in_stderr) == recorded["usage_in_stderr"]
    first = words[0] if words else ""
    if first in OWN_WORDS:
        assert printed.err.startswith(OWN_WORDS[first])
        assert printed.out == ""
        return
    said = wanted_json(printed.out) if asks_json(words) else printed.out.partition("Usage:")[0]
    assert said == recorded["said"]
    assert ("Usage:" in printed.out) == recorded["usage"]
    assert complaint.partition(" (did you mean")[0].strip() == recorded["complaint"].strip()


def asks_json(words: list[str]) -> bool:
    """Tell whether errors come in JSON, as ours do where that is asked for."""
    return "json" in words or "-format=json" in words


def wanted_json(text: str) -> str:
    """Give the message of an error in JSON, as the line that Serf prints."""
    message: str = json.loads(text)["error"]["message"]
    return message + "\n"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_serf_is_known(name: str) -> None:
    known = flags(COMMANDS[name])
    assert set(OPTIONS[name]) <= set(known)
    assert not any(known[option].option.ours for option in OPTIONS[name])
