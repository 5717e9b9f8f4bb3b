"""Killed processes in mixed clusters, their causes, and names in use."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.agents import (
    SERF,
    STARTED_WITHIN,
    TRIOSERF,
    Cluster,
    Process,
    cluster,
    following,
    joined,
    records,
    streams_have_begun,
    until,
)
from tests.interop.namespaces import two_hosts_or_skip
from trioserf.swim.config import SwimOptions

pytestmark = pytest.mark.serf


# If Serf's agent has suspected it first, the reason is not known.
_FAILED = re.compile(
    r"\[INFO\] memberlist: 'py-d' has failed: suspected first by"
    r" ('py-[abc]' \(connection refused\)|'go-a' \(no reason reported\)),"
    r" declared failed by '(py|go)-[abc]'"
)


@pytest.fixture(scope="module")
def mixed() -> Iterator[Cluster]:
    with joined(231, "py-a", "py-b", "py-c", "py-d", "go-a") as running:
        yield running


def test_cause_of_a_killed_process_is_known_to_all(mixed: Cluster) -> None:
    watched = [mixed.running[name] for name in ("py-a", "py-b", "py-c")]
    victim = mixed.running.pop("py-d")
    try:
        with following(watched[0]) as stream:
            streams_have_begun(watched[0], [stream])
            victim.signal(signal.SIGKILL)
            victim.wait()
            mixed.all_see("failed", "py-d")
            until(lambda: any(one["event"] == "member-failed" for one in records(stream)))
            [record] = [one for one in records(stream) if one["event"] == "member-failed"]
        assert record["members"][0]["name"] == "py-d"
        assert set(record["cause"]) == {"suspected_by", "reason", "declared_by"}
        until(lambda: all("has failed:" in agent.log_text() for agent in watched))
        for agent in watched:
            [line] = [line for line in agent.log_text().splitlines() if "has failed:" in line]
            assert re.search(_FAILED, line), line
    finally:
        victim.end()
    mixed.start("py-d", f"-join={mixed.host('py-a')}")
    mixed.all_see("alive", "py-d")


def restart(mixed: Cluster, name: str) -> float:
    """Kill an agent and start it again; return the seconds that it took."""
    began = time.monotonic()
    mixed.end(name)
    time.sleep(0.3)
    mixed.start(name, f"-join={mixed.host('py-a')}")
    took = time.monotonic() - began
    mixed.all_see("alive", name)
    return took


def test_process_that_is_back_within_two_seconds_is_not_failed(mixed: Cluster) -> None:
    for _ in range(10):
        before = {name: len(agent.log_text()) for name, agent in mixed.running.items()}
        if (took := restart(mixed, "py-c")) < SwimOptions().refusal_timeout:
            break  # other restarts, on a busy machine, may count as failures
    assert took < SwimOptions().refusal_timeout
    time.sleep(4)
    for name, agent in mixed.running.items():
        if name != "py-c":
            assert "EventMemberFailed: py-c" not in agent.log_text()[before[name] :]


@pytest.mark.parametrize("incumbent", ["go-a", "py-b"])
@pytest.mark.parametrize("option", ["-join", "-retry-join", "-snapshot"])
def test_agent_with_a_name_in_use_does_not_start(
    mixed: Cluster, incumbent: str, option: str, tmp_path: Path
) -> None:
    holder = mixed.running[incumbent]
    before = {name: len(agent.log_text()) for name, agent in mixed.running.items()}
    value = mixed.host("py-a")
    if option == "-snapshot":
        value = str(tmp_path / "snapshot")
        Path(value).write_text(f"alive: py-a {mixed.host('py-a')}:7946\n")
    late = Process(TRIOSERF, incumbent, 237, [f"{option}={value}"])
    try:
        assert late.wait(STARTED_WITHIN) == 1
        text = late.log_text()
        assert f"the name {incumbent!r} is in use by the member at {holder.bind}" in text
        assert f"this one is at {late.bind}; choose another name with --node=NAME" in text
    finally:
        late.end()
    for name, agent in mixed.running.items():
        assert "conflict" not in agent.log_text()[before[name] :]
    assert holder.exit_code() is None
    mixed.all_see("alive", *mixed.running)


def test_incumbent_alone_survives_an_agent_of_serf_with_its_name() -> None:
    with cluster(238) as running:
        one = running.start("py-one")
        assert SERF is not None
        other = Process([SERF], "py-one", 239, [f"-join={one.host}"])
        try:
            other.wait(STARTED_WITHIN)
            until(lambda: "has our name, too" in one.log_text())
            assert "; this one stays, because it was first" in one.log_text()
        finally:
            other.end()
        assert one.exit_code() is None
        assert one.statuses() == {"py-one": "alive"}


_REJECT = (
    "add table ip wall",
    "add chain ip wall output {{ type filter hook output priority 0; }}",
    "add rule ip wall output ip saddr {0} ip daddr {1} meta l4proto tcp counter"
    " reject with tcp reset",
    "add rule ip wall output ip saddr {0} ip daddr {1} meta l4proto udp counter"
    " reject with icmp port-unreachable",
)


def test_firewall_that_rejects_one_direction_fails_no_member() -> None:
    if shutil.which("nft") is None:
        pytest.skip("a REJECTING FIREWALL IS NOT TESTED: the program nft (nftables) is missing")
    with two_hosts_or_skip("10.78.0") as (host, _), cluster(241) as running:
        names = ("py-a", "py-b", "py-c", "py-d", "py-e")
        for name in names:
            join = [f"-join={running.host('py-a')}"] if running.running else []
            running.start(name, "-log-level=debug", *join, namespace=host.name)
        running.all_see("alive", *names)
        for rule in _REJECT:
            words = rule.format(running.host("py-b"), running.host("py-c"))
            subprocess.run(host.inside("nft", words), check=True)
        time.sleep(10)
        for agent in running.running.values():
            assert "EventMemberFailed" not in agent.log_text()
        running.all_see("alive", *names)
        listing = subprocess.check_output(host.inside("nft", "list", "table", "ip", "wall"))
        rejected = [int(count) for count in re.findall(rb"counter packets (\d+)", listing)]
        assert len(rejected) == 2
        assert min(rejected) > 0
