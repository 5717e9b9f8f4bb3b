"""The keyring file on a real disk."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.agent.helpers import ROOT
from trioserf.agent import keyring_file
from trioserf.agent.files import DiskFiles
from trioserf.errors import ConfigError
from trioserf.serf.keyring import Keyring, dump_keyring

assert sys.platform != "win32"

A, B = bytes(32), bytes(16)
A64, B64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def save(path: Path, content: bytes) -> None:
    trio.run(keyring_file.KeyringFile(DiskFiles(), str(path)).save, content)


def test_saved_keyring_is_serfs_format_and_private(path: Path) -> None:
    path.write_text("[]")
    path.chmod(0o644)
    save(path, dump_keyring(Keyring([A, B], B)))
    assert path.read_text() == f'[\n  "{B64}",\n  "{A64}"\n]'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_saved_content_is_loaded(path: Path) -> None:
    save(path, dump_keyring(Keyring([A, B], B)))
    assert keyring_file.load(path).keys == (B, A)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Failed to decode keyring file: not JSON; expected a JSON list of base64 keys"),
        ("{}", "Failed to decode keyring file: not a list; expected a JSON list"),
        ("[]", "Keyring file contains no keys; expected at least one"),
        (f'["{A64}", "AAAA"]', "Failed to restore keyring: key 2: .*16, 24 or 32 bytes"),
        (f'["{A64}", "!!"]', "Failed to decode key from keyring: key 2"),
    ],
)
def test_error_names_file_and_expectation(path: Path, content: str, reason: str) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"^{reason}.* \(keyring_file {path}\)$") as caught:
        keyring_file.load(path)
    assert "AAAA" not in str(caught.value)
    assert path.read_text() == content


def test_missing_keyring_file_is_an_error(path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^stat {path}: no such file or directory; expected"):
        keyring_file.load(path)
    with pytest.raises(ConfigError, match=r"^Failed to read keyring file: .*: is a directory"):
        keyring_file.load(path.parent)


def test_unwritable_keyring_file_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "missing" / "keys.json", b"[]")


def test_save_without_keyring_file_does_nothing(tmp_path: Path) -> None:
    trio.run(keyring_file.KeyringFile(DiskFiles(), "").save, b"[]")
    assert list(tmp_path.iterdir()) == []


_WRITER = """
import os, sys, trio
from trioserf.agent.files import DiskFiles
from trioserf.agent.keyring_file import KeyringFile
from trioserf.serf.keyring import Keyring, dump_keyring

async def main():
    file = KeyringFile(DiskFiles(), sys.argv[1])
    keys = [n.to_bytes(32, "big") for n in range(900)]
    contents = [dump_keyring(Keyring(keys[:count])) for count in (1, 900)]
    while True:
        for content in contents:
            await file.save(content)

for line in sys.stdin:  # one writer a line; only the first has to import all this
    writer = os.fork()
    if not writer:
        trio.run(main)
    print(writer, flush=True)
    os.waitpid(writer, 0)
    print("ended", flush=True)
"""


def test_kill_during_save_leaves_old_or_new_keys(path: Path) -> None:
    path.write_text(f'["{A64}"]')
    sizes = set()
    command = [sys.executable, "-c", _WRITER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for number in range(12):
            before = path.stat().st_ino
            writers.stdin.write("start\n")
            writers.stdin.flush()
            writer = int(writers.stdout.readline())
            while path.stat().st_ino == before:
                os.kill(writer, 0)
            for _ in range(number * 300):
                path.exists()
            os.kill(writer, signal.SIGKILL)
            assert writers.stdout.readline() == "ended\n"
            sizes.add(len(keyring_file.load(path).keys))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        writers.stdin.close()
    assert sizes <= {1, 900}
    save(path, dump_keyring(Keyring([A])))
    assert list(path.parent.iterdir()) == [path]
