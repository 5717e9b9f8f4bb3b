"""A flooded agent stays in its cluster; `scripts/flood` does the same at full size."""

from collections.abc import Iterator

import pytest

from tests.interop import floods
from tests.interop.agents import Cluster, joined, until

pytestmark = pytest.mark.serf


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    with joined(80, "py-victim", "go-a", "py-a") as mixed:
        yield mixed


@pytest.mark.parametrize(("kind", "amount"), [("packets", 2), ("streams", 200), ("exchanges", 12)])
def test_flooded_agent_answers_and_frees_memory(three: Cluster, kind: str, amount: int) -> None:
    victim = three.running["py-victim"]
    before = floods.memory(victim.pid)
    with floods.pinging((victim.host, 7946), "py-victim") as answers:
        sent = floods.attack(kind, (victim.host, 7946), amount).communicate()[0]
    assert int(sent) > 0
    assert answers.packets_answered + answers.streams_answered > 0
    until(
        lambda: floods.memory(victim.pid) < before + 20,
        seconds=60,
        what=lambda: f"{before} MB before, {floods.memory(victim.pid)} MB after",
    )
    three.all_see("alive", *three.running)
    for name in ("go-a", "py-a"):
        assert "EventMemberFailed: py-victim" not in three.running[name].log_text()
    assert "Traceback" not in victim.log_text()
