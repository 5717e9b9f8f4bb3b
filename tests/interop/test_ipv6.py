"""IPv6: agents of both programs on the loopback address, bound to all, found by name."""

import os
from collections.abc import Iterator

import pytest

from tests.interop.agents import Cluster, cluster, until

pytestmark = pytest.mark.serf

BASE = 20_000 + os.getpid() % 1500 * 8
"""The ports of this test run, eight of them, below those that Linux gives to clients: there is
one IPv6 loopback address only."""


def six(number: int) -> str:
    return f"[::1]:{BASE + number}"


@pytest.fixture(scope="module")
def four() -> Iterator[Cluster]:
    """Two of each kind on ::1; each kind was joined by both."""
    with cluster(121) as mixed:
        mixed.start("go-a", bind=six(0))
        mixed.start("py-a", f"-join={six(0)}", bind=six(1))
        mixed.start("go-b", f"-join={six(1)}", bind=six(2))
        mixed.start("py-b", f"-join={six(1)}", bind=six(3))
        mixed.all_see("alive", "go-a", "go-b", "py-a", "py-b")
        yield mixed


def test_each_shows_the_same_addresses(four: Cluster) -> None:
    wanted = {name: six(number) for number, name in enumerate(("go-a", "py-a", "go-b", "py-b"))}
    for agent in four.running.values():
        assert {name: one["addr"] for name, one in agent.members().items()} == wanted


def test_probes_and_tags_work_over_ipv6(four: Cluster) -> None:
    for name in ("go-a", "py-a"):
        assert four.running[name].ask("tags", "-set", f"by={name}")[0] == 0
        until(
            lambda name=name: all(  # type: ignore[misc]
                agent.members()[name]["tags"].get("by") == name for agent in four.running.values()
            ),
            what=lambda: str([agent.members() for agent in four.running.values()]),
        )
    for agent in four.running.values():
        assert "EventMemberFailed" not in agent.log_text()
        assert "UDP" not in agent.log_text()


@pytest.mark.parametrize("victim", ["go-b", "py-b"])
def test_a_crash_and_a_return_over_ipv6(four: Cluster, victim: str) -> None:
    bind = four.running[victim].bind
    four.end(victim)
    four.all_see("failed", victim)
    other = "py-a" if victim == "go-b" else "go-a"
    four.start(victim, f"-join={four.running[other].bind}", bind=bind)
    four.all_see("alive", victim)


@pytest.mark.parametrize("leaver", ["go-b", "py-b"])
def test_a_leave_over_ipv6(four: Cluster, leaver: str) -> None:
    agent = four.leave(leaver)
    four.all_see("left", leaver)
    four.start(leaver, f"-join={six(0)}", bind=agent.bind)
    four.all_see("alive", leaver)


@pytest.mark.parametrize("kind", ["go", "py"])
def test_joins_by_either_kind_name_every_spelling(four: Cluster, kind: str) -> None:
    agent = four.running[f"{kind}-b"]
    for spelling in (six(0), f"go-a/{six(0)}", six(1)):
        code, text = agent.ask("join", spelling)
        assert (code, text) == (0, "Successfully joined cluster by contacting 1 nodes.\n")


def test_bound_to_all_an_agent_advertises_what_it_is_told() -> None:
    port = BASE + 4
    with cluster(131) as mixed:
        mixed.start("py-all", f"-advertise=[::1]:{port}", bind=f"[::]:{port}")
        mixed.start("go-a", f"-join=[::1]:{port}", bind=six(5))
        mixed.start("py-b", f"-join={six(5)}", bind=six(6))
        mixed.all_see("alive", "py-all", "go-a", "py-b")
        for agent in mixed.running.values():
            assert agent.members()["py-all"]["addr"] == f"[::1]:{port}"
        # The same socket takes IPv4: a member there may join it, and is received.
        mixed.start("go-four", f"-join=127.0.0.1:{port}")
        until(lambda: "go-four" in mixed.running["py-all"].statuses())


def test_names_are_looked_up_for_binding_and_joining() -> None:
    port = BASE + 7
    with cluster(141) as mixed:
        mixed.start("py-a", bind=f"localhost:{port}")
        for kind in ("go", "py"):
            mixed.start(f"{kind}-b", f"-join=localhost:{port}")
        mixed.all_see("alive", "py-a", "go-b", "py-b")
        code, text = mixed.running["py-b"].ask("join", f"localhost:{port}")
        assert code == 0
        assert "contacting" in text
