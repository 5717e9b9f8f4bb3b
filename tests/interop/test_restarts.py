"""Restarts: snapshots and tags files, each read by the other program; reconnects."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.agents import Cluster, Process, cluster, until
from tests.interop.helpers import Recorder, fill
from trioserf.control.client.rpc_session import RpcSession
from trioserf.serf.snapshot import parse

assert sys.platform != "win32"

pytestmark = pytest.mark.serf

OTHER = {"go-w": "py-w", "py-w": "go-w"}
LOGGED_WITHIN = 30.0
"""Seconds until an expected line is in the log."""


def wait_for_log(agent: Process, pattern: str, seconds: float = LOGGED_WITHIN) -> None:
    def what() -> str:
        return f"{pattern} is not in:\n{agent.log_text()}"

    until(lambda: bool(re.search(pattern, agent.log_text())), seconds, what)


# --- a full disk: starts first and ends last, because the agent retries after half a minute ---


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a FULL DISK IS NOT TESTED, a small one cannot be mounted: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Path]]:
    """An agent of trioserf that cannot write its snapshot."""
    if os.geteuid() != 0:
        pytest.skip("a FULL DISK IS NOT TESTED: only root may mount a small one")
    with small_disk(tmp_path_factory.mktemp("disk") / "small") as disk, cluster(201) as mixed:
        snapshot = disk / "snapshot"
        # A page of the disk with room for a few lines only.
        snapshot.write_bytes(b"#" * (4096 - 100) + b"\n")
        agent = mixed.start("py-full", f"-snapshot={snapshot}")
        until(lambda: b"alive: py-full" in snapshot.read_bytes())
        fill(disk / "filler")
        with RpcSession.connect(agent.rpc) as session:

            def is_reported() -> bool:
                """Send another event: the file gets a line every half second."""
                session.event("more")
                return "cannot be written" in agent.log_text()

            until(is_reported, LOGGED_WITHIN, agent.log_text)
        yield agent, snapshot


def test_agent_continues_with_a_full_disk(full: tuple[Process, Path]) -> None:
    agent, snapshot = full
    wait_for_log(
        agent, rf"\[ERR\] agent: snapshot {snapshot}: cannot be written: No space left on device"
    )
    assert agent.statuses() == {"py-full": "alive"}
    assert agent.ask("event", "during")[0] == 0
    (snapshot.parent / "filler").unlink()


# --- snapshots ---


@pytest.fixture(scope="module")
def base() -> Iterator[Cluster]:
    """One agent of each program that runs throughout."""
    with cluster(161) as mixed:
        mixed.start("go-a")
        mixed.start("py-a", f"-join={mixed.host('go-a')}", "--set=push_pull_interval=1s")
        mixed.all_see("alive", "go-a", "py-a")
        yield mixed


def send_event_and_query(mixed: Cluster, name: str) -> None:
    assert mixed.running["go-a"].ask("event", "-coalesce=false", name)[0] == 0
    assert mixed.running["py-a"].ask("query", "-no-ack", "-timeout=200ms", name)[0] == 0


def test_each_program_continues_from_the_snapshot_of_the_other(
    base: Cluster, tmp_path: Path
) -> None:
    """The file has members and clocks, so no old event and no old query is delivered again."""
    seed = f"-join={base.host('go-a')}"
    files = {name: tmp_path / f"{name}.snapshot" for name in OTHER}
    received = {name: Recorder(tmp_path / name, "user,query") for name in OTHER}
    for name, file in files.items():
        base.start(name, f"-snapshot={file}", seed, received[name].option)
    base.all_see("alive", *base.running)
    for number in range(3):
        send_event_and_query(base, f"before-{number}")
    for recorder in received.values():
        recorder.wait("user", "before-2")
        recorder.wait("query", "before-2")
    for clock in (b"event-clock: 3\n", b"query-clock: 3\n"):
        until(lambda clock=clock: clock in files["py-w"].read_bytes(), 10)  # type: ignore[misc]
    base.end("py-w")  # a crash: the file is complete within half a second
    leaver = base.running["go-w"]
    leaver.signal(signal.SIGTERM)  # Serf buffers lines until it ends
    assert leaver.wait() == 1
    base.end("go-w")
    written = {name: parse(file.read_bytes()) for name, file in files.items()}
    for replayed in written.values():
        assert replayed.errors == ()
        assert set(replayed.alive) == {"go-a", "py-a", "go-w", "py-w"}
        assert (replayed.clocks.event, replayed.clocks.query) == (3, 3)
        assert replayed.clocks.member > 0
    send_event_and_query(base, "meanwhile")
    again = {name: Recorder(tmp_path / f"{name}-again", "user,query") for name in OTHER}
    for name, other in OTHER.items():
        # With -replay; without the clocks in the file, all events would be delivered again.
        base.start(name, f"-snapshot={files[other]}", again[name].option, seed, "-replay")
    base.all_see("alive", *base.running)
    send_event_and_query(base, "after")
    for recorder in again.values():
        recorder.wait("user", "after")
        recorder.wait("query", "after")
        names = [
            call.env.get("SERF_USER_EVENT") or call.env["SERF_QUERY_NAME"]
            for call in recorder.calls()
        ]
        assert set(names) <= {"meanwhile", "after"}
        assert names.count("after") == 2
    for name in OTHER:
        base.end(name)


def test_left_agent_rejoins_only_with_the_option(base: Cluster, tmp_path: Path) -> None:
    """Snapshots that end with a leave, read by the other program with `-rejoin` and without."""
    files = {name: tmp_path / f"{name}.snapshot" for name in OTHER}
    for name, file in files.items():
        base.start(name, f"-snapshot={file}", f"-join={base.host('py-a')}", "-rejoin")
    base.all_see("alive", *base.running)
    for name, file in files.items():
        agent = base.running.pop(name)
        assert agent.ask("leave")[0] == 0
        assert agent.wait() == 0
        agent.end()
        replayed = parse(file.read_bytes(), rejoin=True)
        assert (replayed.left, {"go-a", "py-a"} <= set(replayed.alive)) == (True, True)
        forgotten = parse(file.read_bytes())
        assert (forgotten.left, forgotten.alive) == (True, {})
    # Serf writes a clock after it.
    assert files["py-w"].read_bytes().endswith(b"leave\n")
    base.all_see("left", *OTHER)
    for name, other in OTHER.items():
        copy = tmp_path / f"{name}.copy"
        copy.write_bytes(files[other].read_bytes())
        alone = base.start(name, f"-snapshot={copy}")
        assert set(alone.statuses()) == {name}
        assert not re.search("(?i)re-?join", alone.log_text())
        base.end(name)
        base.start(name, f"-snapshot={files[other]}", "-rejoin")
    base.all_see("alive", *OTHER)
    for name in OTHER:
        base.end(name)


def test_damaged_snapshot_is_used(base: Cluster, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    at = base.host("go-a")
    snapshot.write_bytes(
        b"alive: go-a %s:7946\nwhat is this\n\0\0\0\0clock: 7\nevent-clock: x\nquery-clo"
        % at.encode()
    )
    agent = base.start("py-d", f"-snapshot={snapshot}")
    base.all_see("alive", "py-d")
    for error in (
        "line 2: unknown line 'what is this'",
        "line 3: a hole of NULs",
        "line 4: expected a 64-bit number after event-clock: 'x'",
        "line 5: cut short: 'query-clo'",
    ):
        assert f"[WARN] agent: snapshot {snapshot}: {error}\n" in agent.log_text()
    until(lambda: {"go-a", "py-a", "py-d"} <= set(parse(snapshot.read_bytes()).alive), 10)
    assert parse(snapshot.read_bytes()).errors == ()
    base.end("py-d")


# --- failed members ---


def test_failed_members_are_reconnected_with_their_tags(tmp_path: Path) -> None:
    """Two pairs: each program reconnects to the other, which has its tags in a file."""
    options = tmp_path / "often.json"
    options.write_text(json.dumps({"reconnect_interval": "1s"}))
    files = {name: tmp_path / f"{name}.tags" for name in ("go-v", "py-v")}
    with cluster(181) as left, cluster(191) as right:
        pairs = ((left, "py-a", "go-v"), (right, "go-a", "py-v"))
        for pair, finder, victim in pairs:
            pair.start(finder, f"-config-file={options}")
            at = f"-join={pair.host(finder)}"
            agent = pair.start(victim, f"-tags-file={files[victim]}", at)
            assert agent.ask("tags", "-set=zone=ü<&>", "-set=b=1", "-set=a=")[0] == 0
            assert agent.ask("tags", "-delete=b")[0] == 0
        for pair, finder, victim in pairs:
            until(lambda: len(pair.running[finder].statuses()) == 2)  # noqa: B023
            pair.end(victim)
        tags = {"zone": "ü<&>", "a": ""}
        assert [json.loads(file.read_bytes()) for file in files.values()] == [tags, tags]
        for pair, finder, victim in pairs:
            pair.all_see("failed", victim)
            file = files["py-v" if victim == "go-v" else "go-v"]
            pair.start(victim, f"-tags-file={file}")  # without a seed
            pair.all_see("alive", finder, victim)
            assert pair.running[finder].members()[victim]["tags"] == tags
        with RpcSession.connect(left.running["py-a"].rpc) as session:
            assert session.info()["serf"]["flaps"] == "1"


def test_snapshot_is_written_again_when_the_disk_has_room(full: tuple[Process, Path]) -> None:
    agent, snapshot = full
    wait_for_log(agent, rf"\[INFO\] agent: snapshot {snapshot}: written again", 60)
    replayed = parse(snapshot.read_bytes())
    assert replayed.errors == ()
    assert set(replayed.alive) == {"py-full"}
    with RpcSession.connect(agent.rpc) as session:
        assert replayed.clocks.event + 1 == int(str(session.info()["serf"]["event_time"]))
