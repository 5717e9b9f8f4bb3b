"""Command lines with the recorded results of the real program."""

import json
import re
from typing import Any

import pytest

from tests.cli.helpers import CLOSED, GOLDEN, command, run_command

MISUSE: list[dict[str, Any]] = json.loads((GOLDEN / "misuse.json").read_text("utf-8"))
OPTIONS: dict[str, list[str]] = json.loads((GOLDEN / "options.json").read_text("utf-8"))
REFUSED = [
    ["members", "-"], ["members", "extra", "-nosuch"], ["tags", "x", "y"],
    ["members", f"-rpc-addr={CLOSED}", "--", "x"], ["keys", "-list", "x"], ["leave", "x"],
    ["info", "x"], ["monitor", "x"], ["reachability", "x"],
]  # fmt: skip
"""Words that Serf ignores."""
OWN_WORDS = {"": "Usage", "nosuch": "no such command", "-x": "Invalid flags before the"}
"""First words of our own texts above the usage of the whole program; no script reads them."""


@pytest.mark.parametrize("recorded", MISUSE, ids=lambda line: " ".join(line["argv"]) or "empty")
def test_result_equals_the_recorded_one(recorded: dict[str, Any]) -> None:
    words: list[str] = recorded["argv"]
    printed = run_command(words, SERF_RPC_ADDR=CLOSED)
    assert printed.code == recorded["exit"]
    if words in REFUSED:
        assert re.match("un(expected|known) words?: ", printed.err)
        assert printed.out.startswith("Usage:")
        return
    complaint, usage_in_stderr, _ = printed.err.partition("Usage:")
    assert bool(usage_in_stderr) == recorded["usage_in_stderr"]
    first = words[0] if words else ""
    if first in OWN_WORDS:
        assert printed.err.startswith(OWN_WORDS[first])
        assert printed.out == ""
        return
    text = json_message(printed.out) if asks_json(words) else printed.out.partition("Usage:")[0]
    assert text == recorded["said"]
    assert ("Usage:" in printed.out) == recorded["usage"]
    # Lines and parentheses that explain are our own.
    serf = "".join(one for one in complaint.splitlines(True) if not one.startswith("trioserf: "))
    assert (
        re.sub(r" \((did you mean|expected) .*\)", "", serf).strip()
        == recorded["complaint"].strip()
    )


def asks_json(words: list[str]) -> bool:
    """Return whether errors are in JSON; those of Serf never are."""
    return "json" in words or "-format=json" in words


def json_message(text: str) -> str:
    """Return the message of an error in JSON, as the line that Serf prints."""
    message: str = json.loads(text)["error"]["message"]
    return message + "\n"


@pytest.mark.parametrize("name", OPTIONS)
def test_command_has_every_option_of_serf(name: str) -> None:
    known = command(name).flags
    assert set(OPTIONS[name]) <= set(known)
    assert not any(known[option].extension for option in OPTIONS[name])
