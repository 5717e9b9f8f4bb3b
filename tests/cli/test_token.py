"""`token`: creates tokens, and changes their file."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.cli.helpers import run_command
from trioserf.control.server.tokens import load


def token(*words: str) -> tuple[int, str]:
    printed = run_command(["token", *words])
    assert printed.err in ("", "trioserf: the formats are text and json\n")
    return printed.code, printed.out


def test_new_token_is_printed_and_its_hash_added(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    for name, scopes in (("ci", ["read", "event:deploy-*"]), ("ops", ["keys"])):
        options = [f"--scope={scope}" for scope in scopes]
        code, out = token("new", name, *options, f"--file={path}")
        assert (code, out.count("\n")) == (0, 1)
        entry = load(path)[name]
        assert entry.hash.matches(out.rstrip("\n"))
        assert entry.permissions.texts() == scopes
    assert list(load(path)) == ["ci", "ops"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_new_token_without_file_is_printed_with_its_entry(tmp_path: Path) -> None:
    code, out = token("new", "ci", "--scope=read")
    text, entry = out.splitlines()
    assert code == 0
    path = tmp_path / "tokens.json"
    path.write_text(f"[{entry}]")
    path.chmod(0o600)
    assert load(path)["ci"].hash.matches(text)
    _, out = token("new", "ci", "--scope=read", "--format=json")
    record = json.loads(out)
    assert record["token"].startswith("ci.")
    assert record["entry"]["scopes"] == ["read"]


def test_tokens_are_listed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token("new", "ci", "--scope=read", "--scope=query:*", f"--file={path}")
    token("new", "other", "--scope=keys", f"--file={path}")
    assert token("list", f"--file={path}") == (0, "ci     read, query:*\nother  keys\n")
    path.chmod(0o640)
    assert token("remove", "ci", f"--file={path}") == (0, "Removed token 'ci'\n")
    assert list(load(path)) == ["other"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    _, out = token("list", f"--file={path}", "--format=json")
    assert json.loads(out) == {"tokens": [{"name": "other", "scopes": ["keys"]}]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can set owners")
def test_owner_of_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("[]")
    os.chown(path, 12345, 54321)
    token("new", "ci", "--scope=read", f"--file={path}")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("new", "ci", "--file=PATH"), "Error: no scope; expected some of read, event"),
        (("new", "ci", "--scope=reed", "--file=PATH"), "Error: unknown scope 'reed'"),
        (("new", "a b", "--scope=read", "--file=PATH"), "Error: invalid name 'a b'"),
        (("new", "old", "--scope=read", "--file=PATH"), "Error: there is a token 'old' already"),
        (("remove", "ci", "--file=PATH"), "Error: unknown token 'ci'"),
        (("remove", "ci"), "Error: token remove needs --file"),
        (("list", "--scope=read", "--file=PATH"), "Error: --scope is for token new only"),
        (("list", "--file=PATH/x"), "Error: rpc_tokens PATH/x: cannot be read: Not a dir"),
        (("list", "--file=PATH", "--format=xml"), "Invalid format: xml"),
        (("list", "x", "--file=PATH"), "Unknown words: list x"),
        ((), "Usage: trioserf token"),
    ],
)
def test_error_changes_nothing(tmp_path: Path, words: tuple[str, ...], error: str) -> None:
    path = tmp_path / "tokens.json"
    token("new", "old", "--scope=read", f"--file={path}")
    before = path.read_bytes()
    code, out = token(*(word.replace("PATH", str(path)) for word in words))
    assert code == 1
    assert out.startswith(error.replace("PATH", str(path)))
    assert path.read_bytes() == before
