"""The pytest fixture `cluster`, and its example in the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from trioserf.sim import __file__ as sim
from trioserf.testing import Cluster, cluster, cluster_seed

__all__ = ["cluster", "cluster_seed"]


async def test_cluster_partitions_and_heals(cluster: Cluster, autojump_clock: MockClock) -> None:
    await cluster.grow(4)
    assert await cluster.settle() < 5
    cluster.partition(["n1", "n2"])
    await trio.sleep(60)
    alive = {m.name for m in cluster.node("n1").members() if m.status == "alive"}
    assert alive == {"n1", "n2"}
    cluster.heal()
    await cluster.settle()
    await cluster.crash("n2")
    await cluster.settle()
    member = cluster.node("n4").member("n2")
    assert member is not None
    assert member.status == "failed"
    await cluster.restart("n2")
    await cluster.leave("n3")
    await cluster.settle()


@pytest.mark.parametrize("cluster_seed", [3, 4])
async def test_seed_is_a_parameter(
    cluster: Cluster, cluster_seed: int, autojump_clock: MockClock
) -> None:
    assert cluster.trace.seed == cluster_seed


def test_readme_example_passes(tmp_path: Path) -> None:
    text = Path(sim).with_name("README.md").read_text()
    [example] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "test_example.py").write_text(example)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["trioserf.testing"]\n')
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
