"""Our commands against a recorded Go agent: they ask what serf asked and print what it printed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.replayed import recorded_requests, replayed
from tests.cli.running import ran

VECTORS = Path(__file__).parent.parent / "vectors" / "rpc.json"
RECORDED: list[dict[str, Any]] = [
    one for one in json.loads(VECTORS.read_text("utf-8"))["exchanges"] if one["exchange"]
]


def steady(text: str) -> str:
    """Sort tags, which Go prints in any order, and blank measured times."""
    text = re.sub(r"time(: | to last response: )[\d.]+ sec", r"time\1N sec", text)
    return re.sub(r"\S+=\S+,\S+", lambda found: ",".join(sorted(found[0].split(","))), text)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: one["title"])
def test_a_go_agent_cannot_tell_us_from_serf(recorded: dict[str, Any]) -> None:
    verb, *words = recorded["cli"][1:]
    with replayed(recorded["exchange"]) as (address, requests):
        printed = ran([verb, f"-rpc-addr={address}", *words])
    assert printed.code == recorded["exit"]
    assert steady(printed.out) == steady(recorded["stdout"])
    assert printed.err == ""
    wanted = recorded_requests(recorded["exchange"])
    if verb == "reachability":
        # It asks for members with an empty filter, which gives the same ones.
        wanted[1] = [{"Command": "members-filtered", "Seq": 2}, requests[1][1]]
    assert [usual(one) for one in requests] == [usual(one) for one in wanted]


def usual(request: list[Any]) -> list[Any]:
    """Take no value, no list and no map for the same, as Go does."""
    return [{key: value or None for key, value in part.items()} for part in request]


def test_a_query_whose_agent_goes_is_no_success() -> None:
    """Serf counts what came until then and ends with 0, as if that were everything."""
    recorded = next(one for one in RECORDED if one["title"] == "query text")
    *before, last = recorded["exchange"]
    end = last["hex"].index(b"done".hex())
    with replayed([*before, {**last, "hex": last["hex"][: end - 80]}]) as (address, _):
        printed = ran(["query", f"-rpc-addr={address}", "load", "x"])
    assert printed.code == 1
    assert printed.out.startswith("Query 'load' dispatched\nAck from 'vec-a'\n")
    assert printed.out.endswith("The query ended before its time: client closed\n")
