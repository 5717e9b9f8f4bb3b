"""Two thousand members that nobody ever ran: taken in, given back, and handed on by both kinds."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.interop.agents import Cluster, Process, cluster, until
from tests.interop.fake_members import hand_over, members
from trioserf.wire.swim_messages import State

pytestmark = pytest.mark.serf

COUNT = 2000
TIMEOUT = 20.0
"""Seconds, on a busy machine; it takes less than one on an idle one."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """One of each kind, each alone with as many invented members."""
    with cluster(151) as mixed:
        for name in ("go-a", "py-a"):
            agent = mixed.start(name)
            theirs, _ = hand_over((agent.host, 7946), members(COUNT))
            assert [node.name for node in theirs.nodes] == [name]
        yield mixed


def invented(agent: Process) -> Counter[str]:
    """Count the invented members that an agent shows, by status."""
    return Counter(
        status for name, status in agent.statuses().items() if name.startswith("invented")
    )


@pytest.mark.parametrize("name", ["go-a", "py-a"])
def test_all_of_them_are_taken_in_and_given_back(pair: Cluster, name: str) -> None:
    agent = pair.running[name]
    until(lambda: invented(agent).total() == COUNT, TIMEOUT, lambda: str(invented(agent)))
    shown = agent.members()["invented-1234"]
    assert shown["addr"] == "127.99.4.210:7946"
    assert shown["tags"] == {"role": "invented", "dc": "nowhere"}
    theirs, took = hand_over((agent.host, 7946), [], join=False)
    assert took < TIMEOUT
    given = {node.name: node for node in theirs.nodes}
    assert len(given) == COUNT + 1
    for node in members(COUNT):
        back = given[node.name]
        assert (back.addr, back.port, back.meta) == (node.addr, node.port, node.meta)
        assert back.state in {State.ALIVE, State.SUSPECT, State.DEAD}


@pytest.mark.parametrize(
    ("newcomer", "seed"), [("py-new", "go-a"), ("go-new", "py-a"), ("py-too", "py-a")]
)
def test_who_joins_takes_them_over(pair: Cluster, newcomer: str, seed: str) -> None:
    agent = pair.start(newcomer)
    began = time.monotonic()
    code, text = agent.ask("join", pair.host(seed))
    assert (code, "contacting 1 nodes" in text) == (0, True)
    assert time.monotonic() - began < TIMEOUT
    # Those who have failed in the meantime, probed one a second, mean nothing to a newcomer.
    enough = COUNT * 9 // 10
    until(lambda: invented(agent).total() >= enough, TIMEOUT, lambda: str(invented(agent)))
    until(lambda: pair.running[seed].statuses().get(newcomer) == "alive", TIMEOUT)
    assert agent.statuses()[seed] == "alive"


@pytest.mark.parametrize(("caller", "called"), [("go-a", "py-a"), ("py-a", "go-a")])
def test_two_large_clusters_become_one(pair: Cluster, caller: str, called: str) -> None:
    to = (pair.host(called), 7946)
    hand_over(to, members(COUNT // 2, f"more-{called}"))

    def taken(by: str) -> int:
        return sum(name.startswith("more-" + called) for name in pair.running[by].statuses())

    # It answers before it has taken them all in.
    until(lambda: taken(called) == COUNT // 2, TIMEOUT, lambda: str(taken(called)))
    assert pair.running[caller].ask("join", pair.host(called))[0] == 0
    until(lambda: taken(caller) >= COUNT // 2 * 9 // 10, TIMEOUT, lambda: str(taken(caller)))
    assert pair.running[called].statuses()[caller] == "alive"
    assert pair.running[caller].statuses()[called] == "alive"
