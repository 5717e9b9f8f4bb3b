"""The snapshot writer in virtual time with files in memory, and once on a real disk."""

import errno
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import attrs
import pytest
import trio
import trio.testing

from tests.node.helpers import OURS, node_under_test, push_pull
from trioserf.address import Address
from trioserf.agent.agent import _rejoin
from trioserf.agent.files import DiskFiles
from trioserf.agent.snapshot import SnapshotWriter, load_snapshot, previous_members
from trioserf.errors import ConfigError
from trioserf.results import Dropped
from trioserf.serf.events import Event, MemberEvent, UserEventReceived
from trioserf.serf.member import Member
from trioserf.serf.snapshot import EMPTY, LamportTimes, SnapshotContents, parse
from trioserf.wire.serf_messages import Status

PATH = Path("/var/lib/serf.snapshot")


def member(name: str, status: Status = Status.ALIVE) -> Member:
    return Member(name, Address("10.0.0.1", 7946), {}, status)


def joined(*names: str) -> Event:
    return MemberEvent("member-join", tuple(map(member, names)))


def failed(name: str) -> Event:
    return MemberEvent("member-failed", (member(name),))


def user(ltime: int) -> Event:
    return UserEventReceived(ltime, "deploy", b"", coalesce=False)


def line(name: str) -> bytes:
    return f"alive: {name} 10.0.0.1:7946\n".encode()


@attrs.define
class MemoryFiles:
    """Files in memory that can be full, slow or read-only, with a log of writes."""

    content: dict[Path, bytes] = attrs.Factory(dict)
    log: list[tuple[str, float, bytes]] = attrs.Factory(list)
    error: int | None = None
    delay: float = 0.0
    blocked: bool = False

    async def read(self, path: Path) -> bytes | None:
        return self.content.get(path)

    async def append(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        await self._take_time()
        if path not in self.content:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        if self.error is not None:
            self.content[path] += data[: len(data) // 2]
            raise OSError(self.error, "No space left on device")
        self.content[path] += data
        self.log.append(("sync" if sync else "append", trio.current_time(), data))

    async def replace(self, path: Path, data: bytes, *, suffix: str, mode: int) -> None:
        assert (suffix, mode) == (".compact", 0o644)
        await self._take_time()
        if self.blocked:
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        if self.error is not None:
            raise OSError(self.error, "No space left on device")
        self.content[path] = data
        self.log.append(("replace", trio.current_time(), data))

    async def _take_time(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(self.delay)


class NodeWithSnapshot:
    """A node, its events, and its snapshot writer."""

    def __init__(
        self, nursery: trio.Nursery, files: MemoryFiles, contents: SnapshotContents
    ) -> None:
        self.present: list[Member] = [member("self")]
        self.times = (1, 1, 1)
        self.files = files
        self.send, self._events = trio.open_memory_channel[Event | Dropped](1000)
        self.writer = SnapshotWriter(PATH, contents, self, files)
        self.finished = trio.Event()
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope:
            await self.writer.run(self._events)
        self.finished.set()

    def members(self) -> Iterable[Member]:
        return self.present

    def clocks(self) -> tuple[int, int, int]:
        return self.times

    def publish(self, *events: Event | Dropped) -> None:
        for event in events:
            self.send.send_nowait(event)

    async def end(self) -> bytes:
        self.send.close()
        await self.finished.wait()
        return self.files.content[PATH]


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles({PATH: b""})


@pytest.fixture
def start_writer(nursery: trio.Nursery, files: MemoryFiles) -> "StartWriter":
    return lambda contents=EMPTY: NodeWithSnapshot(nursery, files, contents)


StartWriter = Callable[..., NodeWithSnapshot]
Virtual = trio.testing.MockClock


# --- writing ---


async def test_event_after_quiet_time_is_written_at_once(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer()
    await trio.sleep(100)
    assert files.log == [("append", 0.0, line("self"))]
    node.times = (3, 8, 1)
    node.publish(joined("a", "b"), user(7))
    await trio.sleep(10)
    content = line("a") + line("b") + b"clock: 2\nevent-clock: 7\n"
    assert files.log[1:] == [("append", 100.0, content)]
    assert await node.end() == line("self") + content


async def test_frequent_events_are_written_every_half_second(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer()
    for step in range(100):
        node.publish(user(step + 1))
        await trio.sleep(0.0237)
    await node.end()
    times = [when for _, when, _ in files.log]
    assert len(times) == 6
    assert times[:5] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert parse(files.content[PATH]).clocks == LamportTimes(0, 100, 0)


async def test_clocks_are_checked_without_events(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer()
    await trio.sleep(1)
    node.times = (9, 1, 1)
    await trio.sleep(6)
    assert files.log[1:] == [("append", 5.5, b"clock: 8\n")]
    await node.end()


async def test_present_members_are_recorded_at_start(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer(SnapshotContents({"old": "10.0.0.9:1"}, LamportTimes(), size=21))
    node.present += [member("a"), member("failed", Status.FAILED), member("b", Status.LEAVING)]
    await trio.sleep(1)
    assert files.log[0][2] == line("self") + line("a") + line("b")
    node.publish(joined("a"))
    assert await node.end() == line("self") + line("a") + line("b")


async def test_writer_ends_with_events(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer()
    await trio.sleep(10)
    node.publish(joined("a"))
    assert await node.end() == line("self") + line("a")
    assert trio.current_time() == 10.0


async def test_cancellation_writes_pending_lines(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer()
    await trio.sleep(0.1)
    node.publish(joined("a"))
    await trio.testing.wait_all_tasks_blocked()
    node.scope.cancel()
    await node.finished.wait()
    assert files.content[PATH] == line("self") + line("a")


async def test_large_file_is_compacted(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer()
    await trio.sleep(1)
    for _ in range(2500):  # 28 + 13 bytes each time
        node.publish(joined("flapping"), failed("flapping"))
        if node.send.statistics().current_buffer_used > 900:
            await trio.sleep(1)
    await trio.sleep(1)
    assert [kind for kind, _, _ in files.log].count("replace") == 0
    for _ in range(1000):
        node.publish(joined("flapping"), failed("flapping"))
        if node.send.statistics().current_buffer_used > 900:
            await trio.sleep(1)
    await trio.sleep(1)
    assert [kind for kind, _, _ in files.log].count("replace") == 1
    content = await node.end()
    assert len(content) < 80_000
    assert set(parse(content).alive) == {"self"}


async def test_size_of_loaded_file_counts_for_compaction(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer(
        SnapshotContents({"a": "10.0.0.1:7946"}, LamportTimes(1, 2, 3), size=128 * 1024)
    )
    assert await node.end() == line("a") + line("self") + (
        b"clock: 1\nevent-clock: 2\nquery-clock: 3\n"
    )
    assert files.log[0][0] == "replace"


async def test_event_during_compaction_is_not_lost(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    files.delay = 2.0
    node = start_writer(SnapshotContents({}, LamportTimes(), size=1_000_000))
    await trio.sleep(1)
    node.publish(joined("a"))
    assert await node.end() == line("self") + line("a")
    assert [kind for kind, _, _ in files.log] == ["replace", "append"]


@pytest.mark.parametrize("torn", [b"alive: b 10.0", b"what\n", b"leave\n"])
async def test_damaged_file_is_replaced(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual, torn: bytes
) -> None:
    files.content[PATH] = line("a") + torn
    node = start_writer(await load_snapshot(PATH, files, rejoin=True))
    await node.end()
    assert files.content[PATH] == line("a") + line("self")


async def test_members_replace_dropped_events(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer()
    node.publish(joined("a"), joined("b"))
    await trio.sleep(1)
    node.present += [member("b"), member("c"), member("a", Status.FAILED)]
    node.times = (6, 5, 4)
    node.publish(Dropped(17), joined("d"))
    await node.end()
    assert files.log[-1][0] == "replace"
    contents = parse(files.content[PATH])
    assert set(contents.alive) == {"self", "b", "c", "d"}
    assert contents.clocks == LamportTimes(5, 4, 3)


# --- leaving ---


@pytest.mark.parametrize("rejoin", [False, True])
async def test_leave_is_last_record(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual, rejoin: bool
) -> None:
    node = start_writer()
    node.publish(joined("a"), user(3))
    await trio.sleep(0.2)
    node.times = (5, 4, 1)
    await node.writer.leave(rejoin=rejoin)
    last = ("sync", 0.2, line("a") + b"clock: 4\nevent-clock: 3\nleave\n")
    assert files.log[1:] == [last]
    await node.writer.leave(rejoin=rejoin)
    node.times = (9, 9, 9)
    node.publish(failed("a"), user(8))
    await trio.sleep(60)
    await node.end()
    assert files.log[1:] == [last]
    assert set(parse(files.content[PATH], rejoin=True).alive) == {"self", "a"}
    assert parse(files.content[PATH]) == SnapshotContents({}, LamportTimes(), left=True)


async def test_leave_waits_for_write_in_progress(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    files.delay = 3.0
    node = start_writer()
    await trio.sleep(1)
    await node.writer.leave(rejoin=False)
    assert trio.current_time() == 6.0
    assert await node.end() == line("self") + b"leave\n"


# --- errors ---


async def test_blocked_compaction_leaves_appends(
    start_writer: StartWriter,
    files: MemoryFiles,
    autojump_clock: Virtual,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trioserf.agent")
    files.blocked = True
    node = start_writer(SnapshotContents({}, LamportTimes(), size=1_000_000))
    await trio.sleep(1)
    assert files.content[PATH] == line("self")
    node.publish(joined("a"))
    await trio.sleep(100)
    assert files.content[PATH] == line("self") + line("a")
    files.blocked = False
    node.publish(user(7))
    await trio.sleep(40)
    assert [kind for kind, _, _ in files.log] == ["append"] * 3 + ["replace"]
    assert await node.end() == line("self") + line("a") + b"event-clock: 7\n"
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshot {PATH}: cannot be compacted: Is a directory; it grows, and compaction is tried"
        " again every 30 s",
        f"snapshot {PATH}: compacted again",
    ]


@pytest.mark.parametrize("torn", [b"alive: b 10.0", b"what\n"])
async def test_damaged_file_that_cannot_be_replaced_is_appended_to(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual, torn: bytes
) -> None:
    files.content[PATH] = line("a") + torn
    files.blocked = True
    node = start_writer(await load_snapshot(PATH, files, rejoin=True))
    await trio.sleep(1)
    node.publish(joined("c"))
    content = await node.end()
    assert content == line("a") + torn + b"\n" + line("a") + line("self") + line("c")
    assert set(parse(content).alive) == {"a", "self", "c"}


async def test_file_that_was_removed_and_cannot_be_created_is_retried(
    start_writer: StartWriter,
    files: MemoryFiles,
    autojump_clock: Virtual,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = start_writer()
    await trio.sleep(1)
    del files.content[PATH]
    files.blocked = True
    node.publish(joined("a"))
    await trio.sleep(20)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    files.blocked = False
    await trio.sleep(20)
    assert files.content[PATH] == line("self") + line("a")
    await node.end()


async def test_full_disk_is_retried(
    start_writer: StartWriter,
    files: MemoryFiles,
    autojump_clock: Virtual,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trioserf.agent")
    node = start_writer()
    await trio.sleep(10)
    files.error = errno.ENOSPC
    node.publish(joined("a"))
    await trio.sleep(5)
    torn = files.content[PATH]
    assert torn == line("self") + line("a")[: len(line("a")) // 2]
    for _ in range(84):  # until second 99; retries at 40 and 70
        node.publish(joined("b"), failed("b"))
        await trio.sleep(1)
    assert files.content[PATH] == torn
    assert len(node.writer._pending) == 0
    files.error = None
    node.publish(joined("c"))
    await trio.sleep(10)
    kind, when, content = files.log[-1]
    assert (kind, when) == ("replace", 100.0)
    assert content == line("self") + line("a") + line("c")
    node.publish(failed("a"))
    await node.end()
    assert files.log[-1][::2] == ("append", b"not-alive: a\n")
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshot {PATH}: cannot be written: No space left on device; will try again every 30 s",
        f"snapshot {PATH}: written again",
    ]


async def test_leave_does_not_wait_for_retry(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    files.error = errno.EIO
    node = start_writer()
    node.publish(joined("a"))
    await trio.sleep(1)
    files.error = None
    await node.writer.leave(rejoin=True)
    assert files.log == [("replace", 1.0, line("self") + line("a") + b"leave\n")]
    await node.end()
    assert len(files.log) == 1


async def test_leave_with_full_disk_succeeds(
    start_writer: StartWriter, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    node = start_writer()
    await trio.sleep(1)
    files.error = errno.ENOSPC
    await node.writer.leave(rejoin=False)
    await trio.sleep(10)
    files.error = None
    assert await node.end() == b"leave\n"  # the end is one more attempt


async def test_removed_file_is_rewritten(
    start_writer: StartWriter,
    files: MemoryFiles,
    autojump_clock: Virtual,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = start_writer()
    await trio.sleep(1)
    del files.content[PATH]
    node.publish(joined("a"))
    await trio.sleep(1)
    assert files.content[PATH] == line("self") + line("a")
    assert caplog.records == []
    await node.end()


# --- starting ---


async def test_first_start_creates_file() -> None:
    files = MemoryFiles()
    assert await load_snapshot(PATH, files, rejoin=False) == EMPTY
    assert files.content == {PATH: b""}


async def test_unreadable_lines_are_logged_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    files = MemoryFiles({PATH: b"what\n" + line("a") + b"clock: 1"})
    contents = await load_snapshot(PATH, files, rejoin=False)
    assert contents.alive == {"a": "10.0.0.1:7946"}
    assert contents.size == len(files.content[PATH])
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshot {PATH}: line 1: unknown line 'what'",
        f"snapshot {PATH}: line 3: cut short: 'clock: 1'",
    ]


@pytest.mark.parametrize("content", [{}, {PATH: line("a")}])
async def test_start_succeeds_with_full_disk(content: dict[Path, bytes]) -> None:
    files = MemoryFiles(dict(content), error=errno.ENOSPC)
    contents = await load_snapshot(PATH, files, rejoin=False)
    assert len(contents.alive) == len(content)


@pytest.mark.parametrize("content", [{}, {PATH: line("a")}])
async def test_unwritable_file_is_an_error(content: dict[Path, bytes]) -> None:
    files = MemoryFiles(dict(content), error=errno.EROFS)
    with pytest.raises(ConfigError, match=f"^snapshot_path {PATH}: .*; expected a file"):
        await load_snapshot(PATH, files, rejoin=False)


def test_previous_members_are_shuffled_without_self() -> None:
    contents = SnapshotContents(
        {name: f"10.0.0.1:{i}" for i, name in enumerate("abcdef", 1)}, LamportTimes()
    )
    orders = {tuple(previous_members(contents, "c", Random(seed))) for seed in range(20)}
    assert len(orders) > 10
    assert {tuple(sorted(order)) for order in orders} == {
        (
            ("a", "10.0.0.1:1"),
            ("b", "10.0.0.1:2"),
            ("d", "10.0.0.1:4"),
            ("e", "10.0.0.1:5"),
            ("f", "10.0.0.1:6"),
        )
    }


# --- a real disk ---


class LoneNode:
    def members(self) -> Iterable[Member]:
        return [member("self")]

    def clocks(self) -> tuple[int, int, int]:
        return (4, 1, 1)


async def test_snapshot_on_real_disk(tmp_path: Path) -> None:
    path, files = tmp_path / "snapshot", DiskFiles()
    path.with_name("snapshot.compact").write_bytes(b"what a killed compaction left")
    for start in range(3):
        contents = await load_snapshot(path, files, rejoin=True)
        assert set(contents.alive) == (set() if start == 0 else {"self", "a"})
        writer = SnapshotWriter(path, contents, LoneNode(), files)
        tell, events = trio.open_memory_channel[Event | Dropped](10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run, events)
            await tell.send(joined("a"))
            await trio.testing.wait_all_tasks_blocked()
            if start == 1:
                await writer.leave(rejoin=True)
            tell.close()
    assert path.read_bytes() == line("self") + line("a") + b"clock: 3\n"
    assert not path.with_name("snapshot.compact").exists()


async def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; expected a file"):
        await load_snapshot(tmp_path / "missing" / "snapshot", DiskFiles(), rejoin=False)
    with pytest.raises(ConfigError, match="Is a directory"):
        await load_snapshot(tmp_path, DiskFiles(), rejoin=False)


async def test_rejoin_names_the_member_that_was_joined(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioserf.serf")
    async with node_under_test(seed_interval=1e6) as s:
        peer = s.peer("p")
        alive = {"us": str(OURS), "p": str(peer.address), "gone": "10.9.9.9:7946"}
        s.nursery.start_soon(peer.answer_streams, *[push_pull(peer.node_state())] * 2)
        await _rejoin(s.node, SnapshotContents(alive, LamportTimes()), Random(1))
        assert "Re-joined to previously known node: p: 10.0.1.1:7946" in caplog.messages
        assert "previously known node: gone: 10.9.9.9:7946" in caplog.text
        assert "Re-joined to previously known node: gone" not in caplog.text
        assert ": us:" not in caplog.text
        caplog.clear()
        alive = {"gone": "10.9.9.9:7946"}
        await _rejoin(s.node, SnapshotContents(alive, LamportTimes()), Random(1))
        assert caplog.messages[-1] == "Failed to re-join any previously known node"
