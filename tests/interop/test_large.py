"""Two thousand fake members: both programs accept them in a push/pull, and return them."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.interop.agents import Cluster, Process, cluster, until
from tests.interop.fake_members import exchange, members
from trioserf.wire.swim_messages import State

pytestmark = pytest.mark.serf

COUNT = 2000
TIMEOUT = 20.0
"""Seconds, on a busy machine; it takes less than one on an idle one."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """One agent of each program, each alone with the fake members."""
    with cluster(151) as mixed:
        for name in ("go-a", "py-a"):
            agent = mixed.start(name)
            theirs, _ = exchange((agent.host, 7946), members(COUNT))
            assert [node.name for node in theirs.nodes] == [name]
        yield mixed


def fake_statuses(agent: Process) -> Counter[str]:
    """Count the fake members of an agent by status."""
    return Counter(status for name, status in agent.statuses().items() if name.startswith("fake"))


@pytest.mark.parametrize("name", ["go-a", "py-a"])
def test_all_fake_members_are_accepted_and_returned(pair: Cluster, name: str) -> None:
    agent = pair.running[name]
    until(
        lambda: fake_statuses(agent).total() == COUNT, TIMEOUT, lambda: str(fake_statuses(agent))
    )
    shown = agent.members()["fake-1234"]
    assert shown["addr"] == "127.99.4.210:7946"
    assert shown["tags"] == {"role": "fake", "dc": "none"}
    theirs, took = exchange((agent.host, 7946), [], join=False)
    assert took < TIMEOUT
    returned = {node.name: node for node in theirs.nodes}
    assert len(returned) == COUNT + 1
    for node in members(COUNT):
        found = returned[node.name]
        assert (found.addr, found.port, found.meta) == (node.addr, node.port, node.meta)
        assert found.state in {State.ALIVE, State.SUSPECT, State.DEAD}


@pytest.mark.parametrize(
    ("joiner", "seed"), [("py-new", "go-a"), ("go-new", "py-a"), ("py-too", "py-a")]
)
def test_joining_agent_accepts_fake_members(pair: Cluster, joiner: str, seed: str) -> None:
    agent = pair.start(joiner)
    began = time.monotonic()
    code, text = agent.ask("join", pair.host(seed))
    assert (code, "contacting 1 nodes" in text) == (0, True)
    assert time.monotonic() - began < TIMEOUT
    # Members that failed in the meantime (one probe a second) are unknown to the joining agent.
    enough = COUNT * 9 // 10
    until(
        lambda: fake_statuses(agent).total() >= enough, TIMEOUT, lambda: str(fake_statuses(agent))
    )
    until(lambda: pair.running[seed].statuses().get(joiner) == "alive", TIMEOUT)
    assert agent.statuses()[seed] == "alive"


@pytest.mark.parametrize(("caller", "called"), [("go-a", "py-a"), ("py-a", "go-a")])
def test_two_large_clusters_merge(pair: Cluster, caller: str, called: str) -> None:
    to = (pair.host(called), 7946)
    exchange(to, members(COUNT // 2, f"more-{called}"))

    def accepted(by: str) -> int:
        return sum(name.startswith("more-" + called) for name in pair.running[by].statuses())

    # It responds before it has accepted all of them.
    until(lambda: accepted(called) == COUNT // 2, TIMEOUT, lambda: str(accepted(called)))
    assert pair.running[caller].ask("join", pair.host(called))[0] == 0
    until(lambda: accepted(caller) >= COUNT // 2 * 9 // 10, TIMEOUT, lambda: str(accepted(caller)))
    assert pair.running[called].statuses()[caller] == "alive"
    assert pair.running[caller].statuses()[called] == "alive"
