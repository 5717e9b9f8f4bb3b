"""IPv6: agents on the loopback address, bound to all addresses, joined by host name."""

import os
from collections.abc import Iterator

import pytest

from tests.interop.agents import Cluster, cluster, until

pytestmark = pytest.mark.serf

BASE = 20_000 + os.getpid() % 1500 * 8
"""The first of eight ports of this test run, below those that Linux assigns to clients; there is
only one IPv6 loopback address."""


def v6(number: int) -> str:
    return f"[::1]:{BASE + number}"


@pytest.fixture(scope="module")
def four() -> Iterator[Cluster]:
    """Two agents of each program on ::1; both programs joined through each."""
    with cluster(121) as mixed:
        mixed.start("go-a", bind=v6(0))
        mixed.start("py-a", f"-join={v6(0)}", bind=v6(1))
        mixed.start("go-b", f"-join={v6(1)}", bind=v6(2))
        mixed.start("py-b", f"-join={v6(1)}", bind=v6(3))
        mixed.all_see("alive", "go-a", "go-b", "py-a", "py-b")
        yield mixed


def test_all_agents_show_the_same_addresses(four: Cluster) -> None:
    wanted = {name: v6(number) for number, name in enumerate(("go-a", "py-a", "go-b", "py-b"))}
    for agent in four.running.values():
        assert {name: one["addr"] for name, one in agent.members().items()} == wanted


def test_probes_and_tag_changes_work_over_ipv6(four: Cluster) -> None:
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
def test_crashed_member_fails_and_rejoins_over_ipv6(four: Cluster, victim: str) -> None:
    bind = four.running[victim].bind
    four.end(victim)
    four.all_see("failed", victim)
    other = "py-a" if victim == "go-b" else "go-a"
    four.start(victim, f"-join={four.running[other].bind}", bind=bind)
    four.all_see("alive", victim)


@pytest.mark.parametrize("leaver", ["go-b", "py-b"])
def test_member_leaves_and_rejoins_over_ipv6(four: Cluster, leaver: str) -> None:
    agent = four.leave(leaver)
    four.all_see("left", leaver)
    four.start(leaver, f"-join={v6(0)}", bind=agent.bind)
    four.all_see("alive", leaver)


@pytest.mark.parametrize("kind", ["go", "py"])
def test_join_accepts_every_form_of_address(four: Cluster, kind: str) -> None:
    agent = four.running[f"{kind}-b"]
    for address in (v6(0), f"go-a/{v6(0)}", v6(1)):
        code, text = agent.ask("join", address)
        assert (code, text) == (0, "Successfully joined cluster by contacting 1 nodes.\n")


def test_agent_bound_to_all_addresses_advertises_the_configured_one() -> None:
    port = BASE + 4
    with cluster(131) as mixed:
        mixed.start("py-all", f"-advertise=[::1]:{port}", bind=f"[::]:{port}")
        mixed.start("go-a", f"-join=[::1]:{port}", bind=v6(5))
        mixed.start("py-b", f"-join={v6(5)}", bind=v6(6))
        mixed.all_see("alive", "py-all", "go-a", "py-b")
        for agent in mixed.running.values():
            assert agent.members()["py-all"]["addr"] == f"[::1]:{port}"
        # The same socket receives IPv4.
        mixed.start("go-four", f"-join=127.0.0.1:{port}")
        until(lambda: "go-four" in mixed.running["py-all"].statuses())


def test_host_names_are_resolved_for_bind_and_join() -> None:
    port = BASE + 7
    with cluster(141) as mixed:
        mixed.start("py-a", bind=f"localhost:{port}")
        for kind in ("go", "py"):
            mixed.start(f"{kind}-b", f"-join=localhost:{port}")
        mixed.all_see("alive", "py-a", "go-b", "py-b")
        code, text = mixed.running["py-b"].ask("join", f"localhost:{port}")
        assert code == 0
        assert "contacting" in text
