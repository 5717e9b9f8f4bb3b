"""The keyring file on a real disk."""

import stat
from pathlib import Path

import pytest
import trio

from trioserf.agent import keyring_file
from trioserf.agent.files import DiskFiles
from trioserf.errors import ConfigError
from trioserf.serf.keyring import Keyring, dump_keyring

A, B = bytes(32), bytes(16)
A64, B64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def save(path: Path, content: bytes) -> None:
    trio.run(keyring_file.save, path, DiskFiles(), content)


def test_saves_what_serf_can_read_for_its_owner_alone(path: Path) -> None:
    path.write_text("[]")
    path.chmod(0o644)
    save(path, dump_keyring(Keyring([A, B], B)))
    assert path.read_text() == f'[\n  "{B64}",\n  "{A64}"\n]'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_loads_what_was_saved(path: Path) -> None:
    save(path, dump_keyring(Keyring([A, B], B)))
    assert keyring_file.load(path).keys == (B, A)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Not JSON; expected a list of base64 keys"),
        ("{}", "Expected a JSON list"),
        ("[]", "empty; expected at least one"),
        (f'["{A64}", "AAAA"]', "Key 2: .*16, 24 or 32 bytes"),
    ],
)
def test_a_fault_names_the_file_and_what_was_expected(
    path: Path, content: str, reason: str
) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"^keyring_file {path}: .*{reason}") as caught:
        keyring_file.load(path)
    assert "AAAA" not in str(caught.value)
    assert path.read_text() == content


def test_a_missing_file_is_a_fault(path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; expected a JSON list"):
        keyring_file.load(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        keyring_file.load(path.parent)


def test_what_cannot_be_saved_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "missing" / "keys.json", b"[]")
