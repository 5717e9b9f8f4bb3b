"""The tags file on a real disk."""

import stat
from pathlib import Path

import pytest

from trioserf.agent import tags_file
from trioserf.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tags.json"


def test_saved_tags_have_serfs_format(path: Path) -> None:
    tags_file.save(path, {"z": "", "b": "2", "a": "x"})
    assert path.read_bytes() == b'{\n  "a": "x",\n  "b": "2",\n  "z": ""\n}'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_tags_written_by_serf_are_loaded(path: Path) -> None:
    path.write_bytes(b'{\n  "a": "\\u003cx\\u003e\\u0026\xc3\xa9\\"",\n  "z": ""\n}')
    assert tags_file.load(path) == {"a": '<x>&é"', "z": ""}


@pytest.mark.parametrize(
    "tags", [{}, {"role": "web"}, {"ü": "日本\n\t\0"}, {"raw": "\udcff\udc80"}, {"": ""}]
)
def test_saved_content_is_loaded(path: Path, tags: dict[str, str]) -> None:
    tags_file.save(path, tags)
    assert tags_file.load(path) == tags


def test_missing_file_holds_no_tags(path: Path) -> None:
    assert tags_file.load(path) == {}
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1 column 1: Expecting value"),
        (b'{"a":\n"b"', "line 2 column 4"),
        (b'{"a":"b"} x', "line 1 column 11: Extra data"),
        (b"[]", 'expected a JSON object of strings, such as {"role": "web"}'),
        (b"null", "expected a JSON object"),
        (b'{"a": "b", "c": 1}', "the value of 'c' is not a string"),
        (b'{"a": null}', "the value of 'a' is not a string"),
        (b'{"a": "\xff"}', "not JSON: .*utf-8"),
        (b'{"a":' * 100_000, "not JSON"),
    ],
)
def test_error_names_file_and_expectation(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^tags_file {path}: .*{reason}") as caught:
        tags_file.load(path)
    assert "expected a JSON object" in str(caught.value)
    assert path.read_bytes() == content


def test_unreadable_or_unwritable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        tags_file.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        tags_file.save(tmp_path / "missing" / "tags.json", {})
