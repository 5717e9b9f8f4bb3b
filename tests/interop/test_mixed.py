"""Mixed clusters: joins, failures, leaves, suspicions and name conflicts of both programs."""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.agents import (
    SERF,
    STARTED_WITHIN,
    TRIOSERF,
    Cluster,
    Process,
    cluster,
    following,
    records,
    until,
)
from tests.interop.helpers import run_trioserf
from trioserf import __version__
from trioserf.swim.config import LAN
from trioserf.swim.suspicion import required_confirmations, suspicion_timeout

assert sys.platform != "win32"

pytestmark = pytest.mark.serf


def detected_within(n: int, slack: float = 5.0) -> float:
    """Return the seconds until all members detect a crash, by the formulas of the profile.

    The probe order changes after each round, so two probes of the same member are at most
    2 (n - 1) - 1 intervals apart, and a failed probe takes one more. By then every other member
    suspects the victim. In a cluster of four these are the first suspicion and the two
    confirmations that give the suspicion its minimum timeout. Gossip of the last one takes less
    than a second. `slack` is for a busy machine.
    """
    suspected_by_all = (2 * (n - 1) - 1 + 1) * LAN.probe_interval
    shortest = suspicion_timeout(LAN.suspicion_mult, n, LAN.probe_interval)
    assert required_confirmations(LAN.suspicion_mult, n) == n - 2
    return suspected_by_all + shortest + 1.0 + slack


DETECTED_WITHIN = detected_within(4)


@pytest.fixture(scope="module")
def four() -> Iterator[Cluster]:
    """Two agents of each program; both programs joined through each."""
    with cluster(1) as mixed:
        mixed.start("go-a", "-tag=kind=go")
        mixed.start("py-a", "-tag=kind=py", f"-join={mixed.host('go-a')}")
        mixed.start("go-b", f"-join={mixed.host('py-a')}")
        mixed.start("py-b", f"-join={mixed.host('py-a')}")
        mixed.all_see("alive", "go-a", "go-b", "py-a", "py-b")
        yield mixed


def rejoin(mixed: Cluster, name: str) -> None:
    other = "go-a" if name != "go-a" else "py-a"
    mixed.start(name, f"-join={mixed.host(other)}")
    mixed.all_see("alive", name)


def test_changed_tags_reach_all_members(four: Cluster) -> None:
    def all_show(name: str, tags: dict[str, str]) -> None:
        def views() -> list[dict[str, str]]:
            return [agent.members()[name]["tags"] for agent in four.running.values()]

        until(lambda: all(view == tags for view in views()), what=lambda: str(views()))

    all_show("go-a", {"kind": "go"})
    all_show("py-a", {"kind": "py"})
    for name in ("go-a", "py-a"):
        assert four.running[name].ask("tags", "-set", "zone=ü,1", "-delete", "kind")[0] == 0
        all_show(name, {"zone": "ü,1"})


def test_releases_of_our_agents_are_shown_by_our_agents(four: Cluster) -> None:
    rpc = f"--rpc-addr={four.running['py-a'].rpc}"

    def releases() -> dict[str, str]:
        code, text = run_trioserf("members", rpc, "--format=json")
        assert code == 0
        return {member["name"]: member["release"] for member in json.loads(text)["members"]}

    expected = {"go-a": "", "py-a": __version__, "go-b": "", "py-b": __version__}
    until(lambda: releases() == expected, what=lambda: str(releases()))
    [as_serf, *_] = json.loads(run_trioserf("members", rpc, "-format=json")[1])["members"]
    assert "release" not in as_serf
    go = f"--rpc-addr={four.running['go-a'].rpc}"
    [of_serf, *_] = json.loads(run_trioserf("members", go, "--format=json")[1])["members"]
    assert "release" not in of_serf


@pytest.mark.parametrize("victim", ["go-b", "py-b"])
def test_killed_member_fails_everywhere_and_rejoins(four: Cluster, victim: str) -> None:
    four.end(victim)
    four.all_see("failed", victim, seconds=DETECTED_WITHIN)
    rejoin(four, victim)


@pytest.mark.parametrize("leaver", ["go-b", "py-b"])
def test_leaving_member_is_left_everywhere(four: Cluster, leaver: str) -> None:
    four.leave(leaver)
    four.all_see("left", leaver)
    assert all(
        view.statuses()[other] == "alive"
        for view in four.running.values()
        for other in four.running
    )
    rejoin(four, leaver)


@pytest.mark.parametrize(("victim", "by"), [("go-b", "py-a"), ("py-b", "go-a")])
def test_force_leave_makes_failed_member_left(four: Cluster, victim: str, by: str) -> None:
    four.end(victim)
    four.all_see("failed", victim, seconds=DETECTED_WITHIN)
    assert four.running[by].ask("force-leave", victim)[0] == 0
    four.all_see("left", victim)
    rejoin(four, victim)


def test_force_leave_with_prune_removes_the_member(four: Cluster) -> None:
    four.end("py-b")
    four.all_see("failed", "py-b", seconds=DETECTED_WITHIN)
    assert four.running["go-a"].ask("force-leave", "-prune", "py-b")[0] == 0
    until(lambda: all("py-b" not in view.statuses() for view in four.running.values()))
    rejoin(four, "py-b")


@pytest.mark.parametrize("paused", ["go-b", "py-b"])
def test_paused_member_is_suspected_and_refutes(four: Cluster, paused: str) -> None:
    types = "member-suspect,member-recovered,member-failed"
    with following(four.running["py-a"], f"--type={types}") as path:
        four.running[paused].signal(signal.SIGSTOP)

        def seen() -> list[str]:
            return [one["event"] for one in records(path) if one["members"][0]["name"] == paused]

        until(lambda: "member-suspect" in seen(), 15)
        four.running[paused].signal(signal.SIGCONT)
        until(lambda: "member-recovered" in seen(), 15)
        assert "member-failed" not in seen()
    four.all_see("alive", paused)


@pytest.mark.parametrize("paused", ["go-b", "py-b"])
def test_long_paused_member_returns_and_suspects_no_other(four: Cluster, paused: str) -> None:
    others = [name for name in four.running if name != paused]
    types = "member-suspect,member-failed,member-join"
    with following(four.running["py-a"], f"--type={types}") as path:
        agent = four.running[paused]
        before = len(agent.log_text())
        agent.signal(signal.SIGSTOP)

        def seen() -> list[tuple[str, str]]:
            return [(one["event"], one["members"][0]["name"]) for one in records(path)]

        until(lambda: ("member-failed", paused) in seen(), DETECTED_WITHIN)
        agent.signal(signal.SIGCONT)
        four.all_see("alive", paused, *others)
        assert {name for _, name in seen()} == {paused}
    # The paused member has declared no other member dead.
    assert "EventMemberFailed" not in agent.log_text()[before:]
    assert {agent.statuses()[name] for name in others} == {"alive"}


def test_quick_restart_causes_no_failure(four: Cluster) -> None:
    for name in ("go-b", "py-b"):
        four.end(name)
        rejoin(four, name)
    deadline = time.monotonic() + DETECTED_WITHIN
    while time.monotonic() < deadline:  # the time itself is tested
        views = [agent.statuses() for agent in four.running.values()]
        assert {view[name] for view in views for name in four.running} == {"alive"}
        time.sleep(1)


@pytest.mark.parametrize("name", ["go-b", "py-b"])
def test_name_of_left_member_can_be_reclaimed_at_another_address(four: Cluster, name: str) -> None:
    host, home = four.host(name), four.running[name].bind
    for bind in (f"{host}:7950", home):
        four.leave(name)
        four.all_see("left", name)
        # Both programs use their own port as the default of others, so the port is given.
        four.start(name, f"-join={four.host('go-a')}:7946", bind=bind)

        def seen(bind: str = bind) -> bool:
            views = [agent.members().get(name, {}) for agent in four.running.values()]
            return all((view.get("addr"), view.get("status")) == (bind, "alive") for view in views)

        until(seen, 70, lambda: str([one.members().get(name) for one in four.running.values()]))


def test_random_bytes_have_no_effect(four: Cluster) -> None:
    target = (four.host("py-a"), 7946)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for size in range(1, 1400, 7):
            sock.sendto(os.urandom(size), target)
    for data in (b"\x00" * 100, b"\x06" + b"\xff" * 64, os.urandom(5000), b"\x09\xde\xff\xff"):
        with socket.create_connection(target) as stream:
            stream.sendall(data)
    assert set(four.running["py-a"].statuses().values()) == {"alive"}
    four.all_see("alive", "py-a")


def test_agent_with_a_duplicate_name_ends(four: Cluster) -> None:
    """One agent of each program, with the name of an agent of the other."""
    assert SERF is not None
    holders = {name: four.host(name) for name in ("go-b", "py-b")}
    join = [f"-join={four.host('py-a')}", f"-join={four.host('go-a')}"]
    go = Process([SERF], "py-b", 31, join)
    ours = Process(TRIOSERF, "go-b", 32, join)
    try:
        assert ours.wait(STARTED_WITHIN) == 1
        assert go.wait(STARTED_WITHIN) == 0  # not an error for Serf
        minority = r"\[WARN\] serf: minority in name conflict resolution, quitting \[0 / \d\]"
        assert re.search(minority, go.log_text())
        in_use = f"the name 'go-b' is in use by the member at {holders['go-b']}:7946"
        assert in_use in ours.log_text()
    finally:
        go.end()
        ours.end()
    four.all_see("alive", *four.running)
    for agent in four.running.values():
        for name, host in holders.items():
            assert agent.members()[name]["addr"] == f"{host}:7946"
    for name in ("go-a", "py-a"):
        log = four.running[name].log_text()
        assert re.search(
            rf"\[WARN\] serf: Name conflict for 'py-b' both {holders['py-b']}:7946 and"
            rf" {go.host}:7946 are claiming",
            log,
        )
        assert f"{ours.host}:7946 are claiming" not in log


@pytest.fixture(scope="module")
def eight() -> Iterator[Cluster]:
    """Three agents of Serf and five of trioserf, with handlers."""
    with cluster(101) as mixed:
        for number in range(8):
            name = f"go-{number}" if number < 3 else f"py-{number}"
            seed = [f"-join={mixed.host('go-0')}"] if number else []
            handler = f"-event-handler=query:who=echo {name}"
            mixed.start(name, handler, *seed)
        mixed.all_see("alive", *mixed.running)
        yield mixed


@pytest.mark.parametrize("requester", ["go-1", "py-4"])
@pytest.mark.parametrize("relay", ["0", "3"])
def test_query_is_answered_by_all_members(eight: Cluster, requester: str, relay: str) -> None:
    def received() -> dict[str, Any]:
        code, text = eight.running[requester].ask(
            "query", "-format=json", "-timeout=4s", f"-relay-factor={relay}", "who"
        )
        assert code == 0
        answers: dict[str, Any] = json.loads(text)
        return answers

    def all_answer() -> bool:
        answers = received()
        outputs = {name: text.strip() for name, text in answers["Responses"].items()}
        assert outputs == {name: name for name in outputs}
        assert len(answers["Acks"]) == len(set(answers["Acks"]))
        return set(outputs) == set(answers["Acks"]) == set(eight.running)

    # Gossip may miss a member, and push/pulls bring no queries, so repeat it.
    until(all_answer, 60)


def test_quiet_minute_has_no_events(eight: Cluster) -> None:
    with (
        following(eight.running["py-5"], "--type=*,member-suspect") as ours,
        following(eight.running["go-2"]) as theirs,
    ):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(5)  # the time itself is tested
            assert records(ours) == []
            assert records(theirs) == []
    for agent in eight.running.values():
        assert set(agent.statuses().values()) == {"alive"}
        assert not re.search(r"EventMember(Failed|Leave)", agent.log_text())
