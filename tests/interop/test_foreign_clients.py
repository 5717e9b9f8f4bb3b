"""Client libraries for Serf receive the same from both agents."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.agents import ROOT, TRIOSERF, AgentAddresses, as_newest, net, serf_cluster

pytestmark = pytest.mark.serf


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentAddresses]:
    with serf_cluster(net(3), tmp_path_factory.mktemp("theirs") / "auth.json") as running:
        yield running


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentAddresses]:
    path = tmp_path_factory.mktemp("ours") / "auth.json"
    with serf_cluster(net(4), path, TRIOSERF) as running:
        yield running


def run_client(script: str, cluster: AgentAddresses) -> dict[str, Any]:
    """Run a script with the first agent of a cluster; return what it received."""
    host, _, port = cluster.first.partition(":")
    peer, secret = (one.partition(":")[0] for one in (cluster.second, cluster.secret))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.interop.foreign.{script}",
         host, port, peer, secret],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    received: dict[str, Any] = json.loads(done.stdout)
    return received


def normalise(value: Any, key: str = "") -> Any:
    """Replace what differs by chance or by version; sort members and responses."""
    if isinstance(value, dict):
        return {name: normalise(one, name) for name, one in value.items()}
    if isinstance(value, list):
        found = [normalise(one) for one in value]
        if all(isinstance(one, dict) and ("Addr" in one or "From" in one) for one in found):
            found.sort(key=lambda one: (one.get("Type") == "done", json.dumps(one)))
        return found
    if isinstance(value, str):
        value = as_newest(value)
    return "N" if key in ("ID", "LTime", "Seq", "Addr") else value


def without_stats(received: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in received.items() if name != "stats"}


@pytest.mark.parametrize("script", ["use_serfclient", "use_serfio"])
def test_client_library_receives_the_same_from_both_agents(
    script: str, ours: AgentAddresses, theirs: AgentAddresses
) -> None:
    from_ours, from_theirs = run_client(script, ours), run_client(script, theirs)
    assert list(from_ours) == list(from_theirs)
    for name, expected in without_stats(from_theirs).items():
        assert normalise(from_ours[name]) == normalise(expected), name
    # serfclient returns [header, groups], serfio the groups.
    stats, reference = (
        one["stats"][1] if isinstance(one["stats"], list) else one["stats"]
        for one in (from_ours, from_theirs)
    )
    assert set(stats) - {"handler_stats"} == set(reference)
    for group in ("agent", "serf", "tags"):
        assert set(reference[group]) <= set(stats[group])
        assert {type(value) for value in stats[group].values()} == {str}
