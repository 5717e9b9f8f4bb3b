"""A partition that outlasts the memory of failed members heals by itself."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.agents import cluster, until
from tests.interop.helpers import Recorder
from tests.interop.namespaces import Host, cut, restore, two_hosts_or_skip

pytestmark = pytest.mark.serf

SIDES = ({"go-a", "py-a"}, {"go-b", "py-b"})
FORGOTTEN_AFTER = 15.0
"""Seconds after which the profile `local` sends no gossip to dead members (Serf: fixed)."""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts_or_skip() as both:
        yield both


def test_partition_longer_than_every_timeout_heals(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    received = Recorder(tmp_path / "received", "user")
    addresses = {"go-a": "10.77.0.1:7001", "py-a": "10.77.0.1:7002",
                 "go-b": "10.77.0.2:7003", "py-b": "10.77.0.2:7004"}  # fmt: skip
    keys = {"reconnect_timeout": "1s", "tombstone_timeout": "1s", "profile": "local"}
    often = {"seed_interval": "1s", "seed_interval_max": "2s", "push_pull_interval": "2s"}
    configs = {"go": keys, "py": keys | often}
    with cluster(211) as mixed:
        for name, seed, *options in (
            ("go-a", ""),
            ("py-a", "go-a"),
            ("go-b", "py-a"),
            # The only agent with a seed on the other side that it never forgets.
            ("py-b", "go-a", received.option),
        ):
            config = tmp_path / f"{name}.json"
            config.write_text(json.dumps(configs[name[:2]]))
            mixed.start(
                name,
                f"-config-file={config}",
                *([f"-join={addresses[seed]}"] if seed else []),
                *options,
                bind=addresses[name],
                namespace=hosts[name in SIDES[1]].name,
            )
        mixed.all_see("alive", *addresses)

        cut(*hosts)

        def views() -> dict[str, dict[str, str]]:
            return {name: agent.statuses() for name, agent in mixed.running.items()}

        def are_separate() -> bool:
            """Return whether no agent sees the other side alive."""
            alive = {
                name: {other for other, status in seen.items() if status == "alive"}
                for name, seen in views().items()
            }
            return alive == {name: side for side in SIDES for name in side}

        def have_forgotten() -> bool:
            return all(len(seen) == 2 for seen in views().values())

        until(are_separate, 70, lambda: str(views()))
        dead = time.monotonic()
        assert mixed.running["go-a"].ask("event", "-coalesce=false", "meanwhile")[0] == 0
        until(have_forgotten, 70, lambda: str(views()))
        # Wait until gossip to dead members has ended, too.
        until(lambda: time.monotonic() > dead + FORGOTTEN_AFTER, 60)
        assert are_separate()

        restore(*hosts)

        mixed.all_see("alive", *addresses)
        # Agents receive the events that they missed.
        received.wait("user", "meanwhile")
        for agent in mixed.running.values():
            members = agent.members()
            assert {name: one["addr"] for name, one in members.items()} == addresses
