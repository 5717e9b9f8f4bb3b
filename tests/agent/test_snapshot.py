"""The snapshot's task in virtual time, on a disk of our own; and once on a real one."""

import errno
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import attrs
import pytest
import trio
import trio.testing

from trioserf.address import Address
from trioserf.agent.files import DiskFiles
from trioserf.agent.snapshot import SnapshotWriter, load_snapshot, previous_members
from trioserf.errors import ConfigError
from trioserf.serf.events import Dropped, Event, MemberEvent, UserEventReceived
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
    """A disk that can be full, slow or read-only, and tells when it was written."""

    content: dict[Path, bytes] = attrs.Factory(dict)
    log: list[tuple[str, float, bytes]] = attrs.Factory(list)
    fault: int | None = None
    delay: float = 0.0

    async def read(self, path: Path) -> bytes | None:
        return self.content.get(path)

    async def append(self, path: Path, data: bytes, *, sync: bool = False) -> None:
        await self._take_time()
        if path not in self.content:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        if self.fault is not None:
            self.content[path] += data[: len(data) // 2]
            raise OSError(self.fault, "No space left on device")
        self.content[path] += data
        self.log.append(("sync" if sync else "append", trio.current_time(), data))

    async def replace(self, path: Path, data: bytes, *, suffix: str, mode: int) -> None:
        assert (suffix, mode) == (".compact", 0o644)
        await self._take_time()
        if self.fault is not None:
            raise OSError(self.fault, "No space left on device")
        self.content[path] = data
        self.log.append(("replace", trio.current_time(), data))

    async def _take_time(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(self.delay)


class Cluster:
    """A node, its events, and a snapshot of it."""

    def __init__(
        self, nursery: trio.Nursery, files: MemoryFiles, replayed: SnapshotContents
    ) -> None:
        self.present: list[Member] = [member("self")]
        self.times = (1, 1, 1)
        self.files = files
        self.tell, self._events = trio.open_memory_channel[Event | Dropped](1000)
        self.writer = SnapshotWriter(PATH, replayed, self, files)
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

    def happen(self, *events: Event | Dropped) -> None:
        for event in events:
            self.tell.send_nowait(event)

    async def end(self) -> bytes:
        self.tell.close()
        await self.finished.wait()
        return self.files.content[PATH]


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles({PATH: b""})


@pytest.fixture
def begin(nursery: trio.Nursery, files: MemoryFiles) -> "Begin":
    return lambda replayed=EMPTY: Cluster(nursery, files, replayed)


Begin = Callable[..., Cluster]
Virtual = trio.testing.MockClock


# --- in good times ---


async def test_what_happens_after_a_quiet_time_is_written_at_once(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin()
    await trio.sleep(100)
    assert files.log == [("append", 0.0, line("self"))]
    cluster.times = (3, 8, 1)
    cluster.happen(joined("a", "b"), user(7))
    await trio.sleep(10)
    content = line("a") + line("b") + b"clock: 2\nevent-clock: 7\n"
    assert files.log[1:] == [("append", 100.0, content)]
    assert await cluster.end() == line("self") + content


async def test_a_busy_time_is_written_every_half_second(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin()
    for step in range(100):
        cluster.happen(user(step + 1))
        await trio.sleep(0.0237)
    await cluster.end()
    times = [when for _, when, _ in files.log]
    assert len(times) == 6
    assert times[:5] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert parse(files.content[PATH]).clocks == LamportTimes(0, 100, 0)


async def test_clocks_are_looked_at_though_nothing_happens(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin()
    await trio.sleep(1)
    cluster.times = (9, 1, 1)
    await trio.sleep(6)
    assert files.log[1:] == [("append", 5.5, b"clock: 8\n")]
    await cluster.end()


async def test_members_who_are_there_already_are_recorded(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin(SnapshotContents({"old": "10.0.0.9:1"}, LamportTimes(), size=21))
    cluster.present += [member("a"), member("gone", Status.FAILED), member("b", Status.LEAVING)]
    await trio.sleep(1)
    assert files.log[0][2] == line("self") + line("a") + line("b")
    cluster.happen(joined("a"))
    assert await cluster.end() == line("self") + line("a") + line("b")


async def test_the_end_of_events_is_the_end(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin()
    await trio.sleep(10)
    cluster.happen(joined("a"))
    assert await cluster.end() == line("self") + line("a")
    assert trio.current_time() == 10.0


async def test_cancelling_writes_what_is_known(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin()
    await trio.sleep(0.1)
    cluster.happen(joined("a"))
    await trio.testing.wait_all_tasks_blocked()
    cluster.scope.cancel()
    await cluster.finished.wait()
    assert files.content[PATH] == line("self") + line("a")


async def test_a_big_file_is_compacted(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin()
    await trio.sleep(1)
    for _ in range(2500):  # 28 + 13 bytes each time
        cluster.happen(joined("flapping"), failed("flapping"))
        if cluster.tell.statistics().current_buffer_used > 900:
            await trio.sleep(1)
    await trio.sleep(1)
    assert [kind for kind, _, _ in files.log].count("replace") == 0
    for _ in range(1000):
        cluster.happen(joined("flapping"), failed("flapping"))
        if cluster.tell.statistics().current_buffer_used > 900:
            await trio.sleep(1)
    await trio.sleep(1)
    assert [kind for kind, _, _ in files.log].count("replace") == 1
    content = await cluster.end()
    assert len(content) < 80_000
    assert set(parse(content).alive) == {"self"}


async def test_the_size_of_the_old_file_counts(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin(
        SnapshotContents({"a": "10.0.0.1:7946"}, LamportTimes(1, 2, 3), size=128 * 1024)
    )
    assert await cluster.end() == line("a") + line("self") + (
        b"clock: 1\nevent-clock: 2\nquery-clock: 3\n"
    )
    assert files.log[0][0] == "replace"


async def test_what_happens_during_a_compaction_is_not_lost(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    files.delay = 2.0
    cluster = begin(SnapshotContents({}, LamportTimes(), size=1_000_000))
    await trio.sleep(1)
    cluster.happen(joined("a"))
    assert await cluster.end() == line("self") + line("a")
    assert [kind for kind, _, _ in files.log] == ["replace", "append"]


@pytest.mark.parametrize("torn", [b"alive: b 10.0", b"what\n", b"leave\n"])
async def test_a_file_that_cannot_be_continued_is_replaced(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual, torn: bytes
) -> None:
    files.content[PATH] = line("a") + torn
    cluster = begin(await load_snapshot(PATH, files, rejoin=True))
    await cluster.end()
    assert files.content[PATH] == line("a") + line("self")


async def test_missed_events_are_made_up_for(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin()
    cluster.happen(joined("a"), joined("b"))
    await trio.sleep(1)
    cluster.present += [member("b"), member("c"), member("a", Status.FAILED)]
    cluster.times = (6, 5, 4)
    cluster.happen(Dropped(17), joined("d"))
    await cluster.end()
    assert files.log[-1][0] == "replace"
    replayed = parse(files.content[PATH])
    assert set(replayed.alive) == {"self", "b", "c", "d"}
    assert replayed.clocks == LamportTimes(5, 4, 3)


# --- leaving ---


@pytest.mark.parametrize("rejoin", [False, True])
async def test_leaving_is_the_last_word(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual, rejoin: bool
) -> None:
    cluster = begin()
    cluster.happen(joined("a"), user(3))
    await trio.sleep(0.2)
    cluster.times = (5, 4, 1)
    await cluster.writer.leave(rejoin=rejoin)
    last = ("sync", 0.2, line("a") + b"clock: 4\nevent-clock: 3\nleave\n")
    assert files.log[1:] == [last]
    await cluster.writer.leave(rejoin=rejoin)
    cluster.times = (9, 9, 9)
    cluster.happen(failed("a"), user(8))
    await trio.sleep(60)
    await cluster.end()
    assert files.log[1:] == [last]
    assert set(parse(files.content[PATH], rejoin=True).alive) == {"self", "a"}
    assert parse(files.content[PATH]) == SnapshotContents({}, LamportTimes(), left=True)


async def test_leaving_waits_for_a_write_in_progress(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    files.delay = 3.0
    cluster = begin()
    await trio.sleep(1)
    await cluster.writer.leave(rejoin=False)
    assert trio.current_time() == 6.0
    assert await cluster.end() == line("self") + b"leave\n"


# --- in bad times ---


async def test_a_full_disk_stops_nothing_and_is_tried_again(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioserf.agent")
    cluster = begin()
    await trio.sleep(10)
    files.fault = errno.ENOSPC
    cluster.happen(joined("a"))
    await trio.sleep(5)
    torn = files.content[PATH]
    assert torn == line("self") + line("a")[: len(line("a")) // 2]
    for _ in range(84):  # until second 99; tried at 40 and 70
        cluster.happen(joined("b"), failed("b"))
        await trio.sleep(1)
    assert files.content[PATH] == torn
    assert len(cluster.writer._pending) == 0
    files.fault = None
    cluster.happen(joined("c"))
    await trio.sleep(10)
    kind, when, content = files.log[-1]
    assert (kind, when) == ("replace", 100.0)
    assert content == line("self") + line("a") + line("c")
    cluster.happen(failed("a"))
    await cluster.end()
    assert files.log[-1][::2] == ("append", b"not-alive: a\n")
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshot {PATH}: cannot be written: No space left on device; will try again every 30 s",
        f"snapshot {PATH}: written again",
    ]


async def test_leaving_does_not_wait_for_the_next_try(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    files.fault = errno.EIO
    cluster = begin()
    cluster.happen(joined("a"))
    await trio.sleep(1)
    files.fault = None
    await cluster.writer.leave(rejoin=True)
    assert files.log == [("replace", 1.0, line("self") + line("a") + b"leave\n")]
    await cluster.end()
    assert len(files.log) == 1


async def test_leaving_with_a_full_disk_goes_on(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual
) -> None:
    cluster = begin()
    await trio.sleep(1)
    files.fault = errno.ENOSPC
    await cluster.writer.leave(rejoin=False)
    await trio.sleep(10)
    files.fault = None
    assert await cluster.end() == b"leave\n"  # the end is one more try


async def test_a_file_that_somebody_removed_comes_back(
    begin: Begin, files: MemoryFiles, autojump_clock: Virtual, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = begin()
    await trio.sleep(1)
    del files.content[PATH]
    cluster.happen(joined("a"))
    await trio.sleep(1)
    assert files.content[PATH] == line("self") + line("a")
    assert caplog.records == []
    await cluster.end()


# --- starting ---


async def test_the_first_start_creates_the_file() -> None:
    files = MemoryFiles()
    assert await load_snapshot(PATH, files, rejoin=False) == EMPTY
    assert files.content == {PATH: b""}


async def test_faults_are_logged_and_passed_by(caplog: pytest.LogCaptureFixture) -> None:
    files = MemoryFiles({PATH: b"what\n" + line("a") + b"clock: 1"})
    replayed = await load_snapshot(PATH, files, rejoin=False)
    assert replayed.alive == {"a": "10.0.0.1:7946"}
    assert replayed.size == len(files.content[PATH])
    assert [record.getMessage() for record in caplog.records] == [
        f"snapshot {PATH}: line 1: unknown line 'what'",
        f"snapshot {PATH}: line 3: cut short: 'clock: 1'",
    ]


@pytest.mark.parametrize("content", [{}, {PATH: line("a")}])
async def test_a_full_disk_does_not_prevent_a_start(content: dict[Path, bytes]) -> None:
    files = MemoryFiles(dict(content), fault=errno.ENOSPC)
    replayed = await load_snapshot(PATH, files, rejoin=False)
    assert len(replayed.alive) == len(content)


@pytest.mark.parametrize("content", [{}, {PATH: line("a")}])
async def test_a_file_that_can_never_be_written_is_a_fault(content: dict[Path, bytes]) -> None:
    files = MemoryFiles(dict(content), fault=errno.EROFS)
    with pytest.raises(ConfigError, match=f"^snapshot_path {PATH}: .*; expected a file"):
        await load_snapshot(PATH, files, rejoin=False)


def test_previous_members_come_in_random_order_without_ourselves() -> None:
    replayed = SnapshotContents(
        {name: f"10.0.0.1:{i}" for i, name in enumerate("abcdef", 1)}, LamportTimes()
    )
    orders = {tuple(previous_members(replayed, "c", Random(seed))) for seed in range(20)}
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


class Alone:
    def members(self) -> Iterable[Member]:
        return [member("self")]

    def clocks(self) -> tuple[int, int, int]:
        return (4, 1, 1)


async def test_runs_on_a_real_disk(tmp_path: Path) -> None:
    path, files = tmp_path / "snapshot", DiskFiles()
    path.with_name("snapshot.compact").write_bytes(b"what a killed compaction left")
    for start in range(3):
        replayed = await load_snapshot(path, files, rejoin=True)
        assert set(replayed.alive) == (set() if start == 0 else {"self", "a"})
        writer = SnapshotWriter(path, replayed, Alone(), files)
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


async def test_a_real_directory_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; expected a file"):
        await load_snapshot(tmp_path / "missing" / "snapshot", DiskFiles(), rejoin=False)
    with pytest.raises(ConfigError, match="Is a directory"):
        await load_snapshot(tmp_path, DiskFiles(), rejoin=False)
