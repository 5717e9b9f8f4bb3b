"""Services around membership in mixed clusters: keys, reload, large events, signals."""

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.interop.agents import cluster, until

assert sys.platform != "win32"

pytestmark = pytest.mark.serf

KEY = "5K9OtfP7efFrNKe5WCQvXvnaXJ5cWP0SvXiwe0kkjM4="
OTHER = "l4ZkaypGLT8AsB0LBldthw=="


def test_encrypted_mixed_cluster_changes_its_key() -> None:
    with cluster(51) as mixed:
        mixed.start("go-a", f"-encrypt={KEY}")
        mixed.start("py-a", f"-encrypt={KEY}", f"-join={mixed.host('go-a')}")
        mixed.start("go-b", f"-encrypt={KEY}", f"-join={mixed.host('py-a')}")
        mixed.start("py-b", f"-encrypt={KEY}", f"-join={mixed.host('go-b')}")
        names = tuple(mixed.running)
        mixed.all_see("alive", *names)
        plain = mixed.start("py-plain")
        assert plain.ask("join", mixed.host("go-a"))[0] == 1
        assert plain.ask("join", mixed.host("py-a"))[0] == 1
        wrong = mixed.start("py-wrong", f"-encrypt={OTHER}")
        assert wrong.ask("join", mixed.host("py-a"))[0] == 1
        for name in ("py-plain", "py-wrong"):
            mixed.end(name)
        for by, *words in (
            ("py-a", "-install", OTHER), ("go-a", "-use", OTHER), ("py-b", "-remove", KEY),
        ):  # fmt: skip
            code, text = mixed.running[by].ask("keys", *words)
            assert code == 0, text
        for by in names:
            code, text = mixed.running[by].ask("keys", "-list")
            assert (code, f"{OTHER}  [4/4]" in text, KEY in text) == (0, True, False)
        mixed.all_see("alive", *names)
        assert all(KEY not in agent.log_text() for agent in mixed.running.values())


def test_handlers_and_level_are_reloaded(tmp_path: Path) -> None:
    output = tmp_path / "output"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"event_handlers": [f"user=echo one >>{output}"]}))
    with cluster(71) as mixed:
        agent = mixed.start("py-a", f"-config-file={config}")
        agent.ask("event", "-coalesce=false", "x")
        until(lambda: output.exists() and output.read_text() == "one\n", 10)
        config.write_text(
            json.dumps({"event_handlers": [f"user=echo two >>{output}"], "tags": {"a": "b"}})
        )
        agent.signal(signal.SIGHUP)
        until(lambda: agent.members()["py-a"]["tags"] == {"a": "b"}, 10)
        agent.ask("event", "-coalesce=false", "y")
        until(lambda: output.read_text() == "one\ntwo\n", 10)
        config.write_text("{")
        agent.signal(signal.SIGHUP)
        until(lambda: "the configuration stays as it was" in agent.log_text(), 10)


def test_events_larger_than_a_packet_reach_all_members(tmp_path: Path) -> None:
    """trioserf sends them on streams. Serf's arrive by push/pull and are then sent on."""
    limits = tmp_path / "limits.json"
    limits.write_text(json.dumps({"user_event_size_limit": 9216}))
    names = ("go-a", "go-b", "py-a", "py-b")
    with cluster(81) as mixed:
        for name in names:
            seed = [f"-join={mixed.host('go-a')}"] if name != "go-a" else []
            if name.startswith("py"):
                seed.append("--set=push_pull_interval=1s")
            handler = f"-event-handler=user=wc -c >>{tmp_path / name}"
            mixed.start(name, f"-config-file={limits}", handler, *seed)
        mixed.all_see("alive", *names)
        counts = []
        for sender, size in (("py-a", 9000), ("go-a", 8000), ("py-b", 7000)):
            counts.append(str(size + 1))  # with the newline at the end of a handler's input
            arguments = ("event", "-coalesce=false", "big", "x" * size)
            assert mixed.running[sender].ask(*arguments)[0] == 0
            for name in names:
                until(
                    lambda path=tmp_path / name: (
                        path.exists()  # type: ignore[misc]
                        and path.read_text().split() == counts
                    ),
                    20,
                    lambda: f"{sender}: {[(tmp_path / n).read_text() for n in names]}",  # noqa: B023
                )
        queues = [mixed.running[name].ask("info")[1] for name in names[2:]]
        assert all("event_queue = 0" in text for text in queues)


def test_sigterm_leaves_only_if_configured() -> None:
    with cluster(91) as mixed:
        agent = mixed.start("py-a")
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 1
        graceful = mixed.start("py-b", "--set=leave_on_terminate=true")
        graceful.signal(signal.SIGTERM)
        assert graceful.wait() == 0
        assert "Gracefully shutting down agent" in graceful.log_text()
