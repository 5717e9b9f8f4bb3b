"""Files that survive a crash, on a real disk."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.helpers import ROOT
from trioserf.agent.files import DiskFiles, append_file, read_file, replace_file

assert sys.platform != "win32"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_read_returns_content_or_none(tmp_path: Path) -> None:
    assert read_file(tmp_path / "missing") is None
    (tmp_path / "file").write_bytes(b"a\0\n")
    assert read_file(tmp_path / "file") == b"a\0\n"
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


@pytest.mark.parametrize("sync", [False, True])
def test_append_needs_existing_file(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        append_file(path, b"a", sync=sync)
    path.write_bytes(b"a")
    append_file(path, b"bc", sync=sync)
    append_file(path, b"", sync=sync)
    assert path.read_bytes() == b"abc"


@pytest.mark.parametrize("kind", ["pipe", "/dev/null", "/dev/zero"])
def test_other_kinds_of_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "path"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)
    before = path.stat().st_mode
    for use in (
        read_file,
        lambda path: append_file(path, b"a"),
        lambda path: replace_file(path, b""),
    ):
        with pytest.raises(OSError, match="not a regular file"):
            use(path)
    assert path.stat().st_mode == before


def test_pipe_is_read_if_allowed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"some")
    os.close(writing)
    assert read_file(Path(f"/dev/fd/{reading}"), pipe=True) == b"some"
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    assert read_file(tmp_path / "pipe", pipe=True) == b""
    with pytest.raises(OSError, match="not a regular file"):
        read_file(Path("/dev/zero"), pipe=True)


def test_replace_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"one")
    replace_file(path, b"two", suffix=".compact")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_replace_sets_requested_permissions(tmp_path: Path) -> None:
    path, temporary = tmp_path / "file", tmp_path / "file.tmp"
    for old in (path, temporary):
        old.write_bytes(b"old")
        old.chmod(0o666)
    replace_file(path, b"secret", mode=0o600)
    assert mode_of(path) == 0o600
    assert not temporary.exists()


def test_planted_link_at_temporary_path_is_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    (tmp_path / "file.tmp").symlink_to(victim)
    replace_file(path, b"new")
    assert victim.read_bytes() == b"precious"
    assert path.read_bytes() == b"new"


def test_replace_follows_link_to_target(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    target, link = directory / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_failed_replace_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()  # a file cannot take the place of a directory
    (path / "inside").write_bytes(b"")
    with pytest.raises(IsADirectoryError):
        replace_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "no" / "file", b"new")


def test_kill_during_replace_leaves_old_or_new_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    program = (
        "import sys, itertools\n"
        "from pathlib import Path\n"
        "from trioserf.agent.files import replace_file\n"
        "for i in itertools.count():\n"
        "    replace_file(Path(sys.argv[1]), b'%d\\n' % i * 50_000)\n"
        "    print(i, flush=True)\n"
    )
    for rounds in range(1, 5):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            for _ in range(rounds):
                done = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
        lines = path.read_bytes().splitlines()
        assert len(lines) == 50_000
        assert len(set(lines)) == 1
        assert int(lines[0]) >= done


async def test_disk_files_work_in_threads(tmp_path: Path) -> None:
    files, path = DiskFiles(), tmp_path / "file"
    assert await files.read(path) is None
    await files.replace(path, b"a", suffix=".compact", mode=0o644)
    await files.append(path, b"b")
    await files.append(path, b"c", sync=True)
    assert await files.read(path) == b"abc"
    assert mode_of(path) == 0o644 & ~_umask()
    with pytest.raises(FileNotFoundError):
        await files.append(tmp_path / "missing", b"")


def _umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old
