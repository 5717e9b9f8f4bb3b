"""Admission to a cluster: encryption of a running cluster, labels, networks and names."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.agents import Cluster, Process, cluster, until
from tests.interop.helpers import Load, new_key, run_trioserf

assert sys.platform != "win32"

pytestmark = pytest.mark.serf


def info(agent: Process) -> dict[str, dict[str, str]]:
    code, text = run_trioserf("info", f"--rpc-addr={agent.rpc}", "-format=json")
    assert code == 0, text
    groups: dict[str, dict[str, str]] = json.loads(text)
    return groups


class Settings:
    """Configuration files of trioserf's agents, which reload them on SIGHUP.

    Attributes:
        files: the keyring file of each agent that has one.
    """

    def __init__(self, folder: Path, agents: Cluster, *names: str) -> None:
        self.files: dict[str, Path] = {}
        self._agents = agents
        self._paths = {name: folder / f"{name}.json" for name in names}
        self.write({})

    def option(self, name: str) -> str:
        return f"-config-file={self._paths[name]}"

    def write(self, values: dict[str, object]) -> None:
        for name, path in self._paths.items():
            own = {"keyring_file": str(self.files[name])} if name in self.files else {}
            path.write_text(json.dumps({**values, **own}))

    def change(self, holds: Callable[[dict[str, str]], bool], **values: object) -> None:
        """Reload all agents with new values, and wait until `info` shows them as `protection`."""
        self.write(values)
        for name in self._paths:
            self._agents.running[name].signal(signal.SIGHUP)
        for name in self._paths:
            agent = self._agents.running[name]
            until(lambda: holds(info(agent).get("protection", {})), 20, agent.log_text)  # noqa: B023


def test_running_cluster_turns_encryption_on(tmp_path: Path) -> None:
    """Three steps without a restart of trioserf; Serf's agent is restarted before the second."""
    key = new_key()
    files = {name: tmp_path / name for name in ("py-a", "py-b", "go-a")}
    for file in files.values():
        file.write_text(json.dumps([key]))
    with cluster(191) as mixed:
        settings = Settings(tmp_path, mixed, "py-a", "py-b")
        mixed.start("py-a", settings.option("py-a"))
        seed = f"-join={mixed.host('py-a')}"
        mixed.start("py-b", settings.option("py-b"), seed)
        mixed.start("go-a", seed)
        mixed.all_see("alive", "py-a", "py-b", "go-a")
        # A missing file changes nothing.
        ours_a = mixed.running["py-a"]
        settings.files = {"py-a": tmp_path / "missing"}
        settings.write({"log_level": "debug"})
        ours_a.signal(signal.SIGHUP)
        error = f"stat {tmp_path / 'missing'}: no such file"
        until(lambda: error in ours_a.log_text(), 10, ours_a.log_text)
        assert "the configuration stays as it was" in ours_a.log_text()
        assert "protection" not in info(ours_a)
        with Load(mixed, ("py-a", "py-b")).flowing("py-a", "py-b") as load:
            step = {"verify_incoming": False}
            settings.files = {"py-a": files["py-a"], "py-b": files["py-b"]}
            settings.change(
                lambda status: status.get("keys") == "1", **step, verify_outgoing=False
            )
            mixed.all_see("alive", "py-a", "py-b", "go-a")
            assert mixed.running["go-a"].ask("leave")[0] == 0
            mixed.end("go-a")
            mixed.all_see("left", "go-a")
            settings.change(lambda status: status["verify_outgoing"] == "true", **step)
            go = mixed.start("go-a", f"-keyring-file={files['go-a']}", seed)
            mixed.all_see("alive", "py-a", "py-b", "go-a")
            settings.change(lambda status: status["verify_incoming"] == "true")
            plain = mixed.start("go-plain")
            assert plain.ask("join", mixed.host("py-a"))[0] == 1
            mixed.end("go-plain")
            mixed.all_see("alive", "py-a", "py-b", "go-a")
        assert len(load.sent) > 20
        assert load.lost == ["py-a: member-leave ['go-a']", "py-b: member-leave ['go-a']"]
        # The cluster can now change its keys.
        code, text = go.ask("keys", "-install", new_key())
        assert code == 0, text
        assert {len(json.loads(file.read_text())) for file in files.values()} == {2}
        # A reload adds the first key only, and removes none.
        settings.files = {}
        settings.write({})
        mixed.running["py-a"].signal(signal.SIGHUP)
        until(lambda: "the configuration stays as it was" in mixed.running["py-a"].log_text(), 10)
        assert info(mixed.running["py-a"])["protection"]["keys"] == "2"
        assert all(key not in agent.log_text() for agent in mixed.running.values())


def test_label_separates_clusters() -> None:
    with cluster(201) as mixed:
        blue = ("py-a", "py-b")
        mixed.start("py-a", "--label=blue")
        mixed.start("py-b", "--label=blue", f"-join={mixed.host('py-a')}")
        mixed.start("py-red", "--label=red")
        mixed.start("go-a")
        mixed.start("go-b", f"-join={mixed.host('go-a')}")
        clusters = {"py-a": blue, "go-a": ("go-a", "go-b"), "py-red": ("py-red",)}

        def are_separate() -> bool:
            views = {by: mixed.running[by].statuses() for by in mixed.running}
            wanted = {by: names for names in clusters.values() for by in names}
            return views == {by: dict.fromkeys(wanted[by], "alive") for by in views}

        until(are_separate, 70)
        for by in clusters:
            for other in clusters:
                if by != other:
                    code, text = mixed.running[by].ask("join", mixed.host(other))
                    assert code == 1, text
                    assert are_separate()
        # A message and some probes later they are still separate.
        assert mixed.running["py-a"].ask("event", "-coalesce=false", "x")[0] == 0
        assert mixed.running["go-a"].ask("query", "-timeout=2s", "x")[0] == 0
        assert are_separate()
        for name in ("py-a", "py-red"):
            assert int(info(mixed.running[name])["dropped"]["label"]) >= 2
        assert info(mixed.running["py-a"])["protection"]["label"] == "blue"


def test_members_outside_the_allowed_networks_are_refused() -> None:
    with cluster(211) as mixed:
        names = ("go-a", "py-a", "py-b")
        mixed.start("go-a")
        hosts = [f"{mixed.host('go-a').rpartition('.')[0]}.{211 + n}/32" for n in range(3)]
        # Serf's streams have the loopback's own address as source.
        allowed = [f"--allowed-network={one}" for one in (*hosts, "127.0.0.1/32")]
        often = "--set=push_pull_interval=2s"  # gossip about go-out may miss one
        for name in ("py-a", "py-b"):
            mixed.start(name, *allowed, often, f"-join={mixed.host('go-a')}")
        mixed.all_see("alive", *names)
        outside = mixed.start("go-out", f"-join={mixed.host('go-a')}")
        until(lambda: mixed.running["go-a"].statuses().get("go-out") == "alive", 20)
        for name in ("py-a", "py-b"):
            agent = mixed.running[name]
            until(
                lambda: int(info(agent).get("dropped_from", {}).get(outside.host, 0)) > 0,  # noqa: B023
                30,
                agent.log_text,
            )
            until(lambda: "'go-out'" in agent.log_text(), 60, agent.log_text)  # noqa: B023
            assert set(agent.statuses()) == set(names)
            assert "its address is not allowed" in agent.log_text()
        # Others relay the pings of go-out to our agents, so that no member is suspected.
        statuses = mixed.running["go-a"].statuses()
        assert statuses == dict.fromkeys((*names, "go-out"), "alive")


def test_members_with_invalid_names_are_refused() -> None:
    with cluster(221) as mixed:
        mixed.start("go-a")
        mixed.start("py-a", "--validate-node-names", f"-join={mixed.host('go-a')}")
        mixed.start("py-b", f"-join={mixed.host('go-a')}")
        mixed.start("go_bad", f"-join={mixed.host('go-a')}")
        for name in ("go-a", "py-b", "go_bad"):
            until(lambda: mixed.running[name].statuses().get("go_bad") == "alive", 70)  # noqa: B023
        strict = mixed.running["py-a"]
        until(lambda: "refusing the member 'go_bad'" in strict.log_text(), 70, strict.log_text)
        assert "its name is not valid" in strict.log_text()
        assert set(strict.statuses()) == {"go-a", "py-a", "py-b"}
        mixed.all_see("alive", "go-a", "py-a", "py-b")


@pytest.mark.parametrize("kind", ["go", "py"])
def test_name_of_dead_member_can_be_reclaimed_after_the_time(kind: str) -> None:
    with cluster(231 if kind == "go" else 241) as mixed:
        reclaim = "--dead-node-reclaim-time=2s"
        mixed.start("py-a", reclaim, "-profile=local")
        seed = f"-join={mixed.host('py-a')}"
        mixed.start("py-b", reclaim, "-profile=local", seed)
        old = mixed.start(f"{kind}-x", "-profile=local", seed)
        mixed.all_see("alive", "py-a", "py-b", old.name)
        mixed.end(old.name)
        mixed.all_see("failed", old.name)
        # The same name at another address.
        host = mixed.running["py-a"].host.rpartition(".")[0] + ".250"
        new = mixed.start(old.name, "-profile=local", f"-bind={host}:7946")

        def has_new_address(agent: Process) -> bool:
            known = agent.members()[old.name]
            return (known["addr"], known["status"]) == (f"{host}:7946", "alive")

        def joins() -> bool:
            new.ask("join", mixed.host("py-a"))
            return has_new_address(mixed.running["py-a"])

        until(joins, 30, lambda: str(mixed.running["py-a"].members()))
        until(lambda: has_new_address(mixed.running["py-b"]), 70)
