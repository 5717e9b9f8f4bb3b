"""Commands against recorded exchanges of a Go agent: requests and output equal serf's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import recorded_requests, replayed, run_command

VECTORS = Path(__file__).parent.parent / "vectors" / "rpc.json"
RECORDED: list[dict[str, Any]] = [
    one for one in json.loads(VECTORS.read_text("utf-8"))["exchanges"] if one["exchange"]
]
HINTS = {
    "keys list plaintext": "trioserf: start the agents with -encrypt=KEY or -keyring-file=PATH"
    " (trioserf keygen makes a key)\n",
    "event too big": "trioserf: the agents' key user_event_size_limit is the limit: agent --set\n",
    "query too big": "trioserf: the agents' key query_size_limit is the limit: agent --set\n",
    "members bad regex": "trioserf: -name=([ is not a valid regular expression: missing ]: [\n",
}
"""Lines on standard error, by the title of a recorded exchange; Serf writes none."""


def normalise(text: str) -> str:
    """Sort tags, which Go prints in any order, and blank measured times."""
    text = re.sub(r"time(: | to last response: )[\d.]+ sec", r"time\1N sec", text)
    return re.sub(r"\S+=\S+,\S+", lambda found: ",".join(sorted(found[0].split(","))), text)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda exchange: exchange["title"])
def test_requests_and_output_equal_serf(recorded: dict[str, Any]) -> None:
    verb, *words = recorded["cli"][1:]
    with replayed(recorded["exchange"]) as (address, requests):
        printed = run_command([verb, f"-rpc-addr={address}", *words])
    assert printed.code == recorded["exit"]
    assert normalise(printed.out) == normalise(recorded["stdout"])
    assert printed.err == HINTS.get(recorded["title"], "")
    wanted = recorded_requests(recorded["exchange"])
    if verb == "reachability":
        # An empty filter returns the same members.
        wanted[1] = [{"Command": "members-filtered", "Seq": 2}, requests[1][1]]
    assert list(map(without_empty, requests)) == list(map(without_empty, wanted))


def without_empty(request: list[Any]) -> list[Any]:
    """Replace empty values by None: Go does not distinguish them."""
    return [{key: value or None for key, value in part.items()} for part in request]


def test_query_fails_when_the_agent_ends() -> None:
    """Serf counts the responses up to then and exits with 0."""
    recorded = next(one for one in RECORDED if one["title"] == "query text")
    *before, last = recorded["exchange"]
    end = last["hex"].index(b"done".hex())
    with replayed([*before, {**last, "hex": last["hex"][: end - 80]}]) as (address, _):
        printed = run_command(["query", f"-rpc-addr={address}", "load", "x"])
    assert printed.code == 1
    assert printed.out.startswith("Query 'load' dispatched\nAck from 'vec-a'\n")
    assert printed.out.endswith("The query ended before its time: client closed\n")
