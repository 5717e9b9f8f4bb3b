"""Key changes and rotations in mixed clusters, under load and with failures."""

import base64
import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, TRIOSERF, Cluster, cluster, read_to
from tests.interop.helpers import Load, new_key, run_trioserf

pytestmark = pytest.mark.serf

NAMES = ("go-a", "py-a", "go-b", "py-b")


def texts_of(key: str) -> set[str]:
    """Return the texts that would reveal a key in a log."""
    raw = base64.b64decode(key)
    return {key, key.rstrip("="), raw.hex(), raw.hex().upper(), repr(raw)[2:-1]}


def keys(agents: Cluster, by: str, program: str, *words: str) -> str:
    """Change or list keys with one of the programs, through an agent."""
    agent = agents.running[by]
    if program == "serf":
        code, text = agent.ask("keys", *words)
    else:
        code, text = run_trioserf("keys", f"--rpc-addr={agent.rpc}", *words)
    assert code == 0, (by, program, words, text)
    return text


def start_all(agents: Cluster, names: Sequence[str], files: Path | None, *options: str) -> None:
    for number, name in enumerate(names):
        seed = [f"-join={agents.host(names[number - 1])}"] if number else []
        keyring = [f"-keyring-file={files / name}"] if files else []
        agents.start(name, *keyring, *options, *seed)
    agents.all_see("alive", *names)


def write_keyrings(folder: Path, names: Sequence[str], *keyring: str) -> None:
    for name in names:
        (folder / name).write_text(json.dumps(keyring))
        (folder / name).chmod(0o600)


def test_keys_change_under_load_without_loss(tmp_path: Path) -> None:
    """Each program in turn, through agents of both; no member and no event is lost."""
    used = [new_key()]
    write_keyrings(tmp_path, NAMES, used[0])
    with cluster(161) as mixed:
        start_all(mixed, NAMES, tmp_path, "-log-level=trace")
        with Load(mixed, ("go-a", "py-b")).flowing() as load:
            for by, program in (
                ("go-a", "serf"), ("py-a", "trioserf"), ("go-b", "trioserf"), ("py-b", "serf"),
            ):  # fmt: skip
                used.append(new_key())
                old, new = used[-2:]
                keys(mixed, by, program, "-install", new)
                text = keys(mixed, by, program, "-list")
                assert f"{old}  [4/4]" in text
                assert f"{new}  [4/4]" in text
                keys(mixed, by, program, "-use", new)
                keys(mixed, by, program, "-remove", old)
                assert text.count("[4/4]") == 2
                assert old not in keys(mixed, by, program, "-list")
        assert len(load.sent) > 20
        assert load.lost == []
        for name in NAMES:
            assert json.loads((tmp_path / name).read_text()) == [used[-1]]
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        # Each program starts with the keyring file that the other wrote.
        for name, other in (("go-a", "py-a"), ("py-b", "go-b")):
            assert (tmp_path / name).read_bytes() == (tmp_path / other).read_bytes()
            mixed.end(name)
            mixed.all_see("failed", name)
            seed = f"-join={mixed.host('go-b')}"
            mixed.start(name, f"-keyring-file={tmp_path / other}", "-log-level=trace", seed)
        mixed.all_see("alive", *NAMES)
        for name, agent in mixed.running.items():
            log = agent.log_text()
            assert "key query" in log or name in ("go-a", "py-b")
            assert not [key for one in used for key in texts_of(one) if key in log]


@pytest.fixture
def four(tmp_path: Path) -> Iterator[tuple[Cluster, Path]]:
    """A mixed cluster with keyring files."""
    write_keyrings(tmp_path, NAMES, new_key())
    with cluster(171) as mixed:
        start_all(mixed, NAMES, tmp_path)
        yield mixed, tmp_path


def rings(folder: Path, names: Sequence[str] = NAMES) -> list[list[str]]:
    return [json.loads((folder / name).read_text()) for name in names]


def rotate(mixed: Cluster, by: str) -> "subprocess.Popen[str]":
    """Start a rotation; its output can be read line by line."""
    rpc = mixed.running[by].rpc
    return subprocess.Popen(
        [*TRIOSERF, "keys", "rotate", f"--rpc-addr={rpc}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
    )  # fmt: skip


def rest(process: "subprocess.Popen[str]") -> tuple[int, str]:
    text, _ = process.communicate(timeout=180)
    return process.returncode, text


@pytest.mark.parametrize("by", ["go-a", "py-a"])
def test_rotation_stops_at_a_paused_member_and_can_be_repeated(
    four: tuple[Cluster, Path], by: str
) -> None:
    mixed, folder = four
    (first,) = rings(folder)[0]
    paused = mixed.running["go-b" if by == "py-a" else "py-b"]
    process = rotate(mixed, by)
    assert process.stdout is not None
    read_to(process.stdout, "Successfully installed key!")
    paused.signal(signal.SIGSTOP)
    try:
        code, text = rest(process)
    finally:
        paused.signal(signal.SIGCONT)
    assert code == 1, text
    assert f"lagging:  {paused.name}  " in text
    assert "The rotation stopped there. All members understand each other as before" in text
    mixed.all_see("alive", *NAMES)
    assert all(first in ring for ring in rings(folder))
    code, text = rest(rotate(mixed, by))
    assert code == 0, text
    new = text.splitlines()[-1]
    assert rings(folder) == [[new]] * 4
    mixed.all_see("alive", *NAMES)


def test_rotation_stops_at_a_failed_member_and_can_be_repeated(
    four: tuple[Cluster, Path],
) -> None:
    mixed, folder = four
    (first,) = rings(folder)[0]
    process = rotate(mixed, "py-a")
    assert process.stdout is not None
    read_to(process.stdout, "Successfully installed key!")
    mixed.running["py-b"].signal(signal.SIGKILL)
    code, text = rest(process)
    assert code == 1, text
    assert "lagging:  py-b  " in text
    mixed.end("py-b")
    assert all(first in ring for ring in rings(folder))
    mixed.start("py-b", f"-keyring-file={folder / 'py-b'}", f"-join={mixed.host('go-a')}")
    mixed.all_see("alive", *NAMES)
    code, text = rest(rotate(mixed, "py-a"))
    assert code == 0, text
    assert rings(folder) == [[text.splitlines()[-1]]] * 4


def test_serf_agent_without_keyring_file_loses_new_keys_at_restart(tmp_path: Path) -> None:
    """After a rotation and a restart with the old key, it cannot join."""
    old = new_key()
    with cluster(181) as mixed:
        start_all(mixed, ("go-a", "py-a"), None, f"-encrypt={old}")
        code, text = rest(rotate(mixed, "py-a"))
        assert code == 0, text
        new = text.splitlines()[-1]
        mixed.end("go-a")
        mixed.all_see("failed", "go-a")
        again = mixed.start("go-a", f"-encrypt={old}")
        assert again.ask("join", mixed.host("py-a"))[0] == 1
        mixed.end("go-a")
        mixed.start("go-a", f"-encrypt={new}", f"-join={mixed.host('py-a')}")
        mixed.all_see("alive", "go-a", "py-a")
        code, text = run_trioserf(
            "info", f"--rpc-addr={mixed.running['py-a'].rpc}", "-format=json"
        )
        assert code == 0
        groups = json.loads(text)
        assert int(groups["dropped"]["decrypt"]) > 0
        assert (
            sum(map(int, groups["dropped_from"].values())) > 0
        )  # streams have any source address
        assert groups["protection"]["keys"] == "1"
        assert old not in text
        assert new not in text


def test_list_reports_primary_keys_and_missing_members(tmp_path: Path) -> None:
    first, second = new_key(), new_key()
    write_keyrings(tmp_path, NAMES, first, second)
    write_keyrings(tmp_path, ["go-b"], second, first)
    with cluster(186) as mixed:
        start_all(mixed, NAMES, tmp_path)
        rpc = f"--rpc-addr={mixed.running['py-a'].rpc}"
        code, text = run_trioserf("keys", "-list", rpc, "--format=json")
        listed = json.loads(text)
        assert (code, listed["primary"], listed["nodes"]) == (0, None, 4)
        assert listed["keys"] == {first: 4, second: 4}
        assert listed["primary_keys"] == {first: 3, second: 1}
        paused = mixed.running["go-b"]
        paused.signal(signal.SIGSTOP)
        try:
            code, text = run_trioserf("keys", "-use", second, rpc, "--format=json")
        finally:
            paused.signal(signal.SIGCONT)
        assert code == 1
        missing = json.loads(text)["error"]["laggards"]
        assert missing in (
            {"go-b": "no answer"},
            {"go-b": "failed"},
        )  # it may be suspected by then
        assert second not in text
        mixed.all_see("alive", *NAMES)
        _, text = run_trioserf("keys", "-list", rpc, "--format=json")
        assert json.loads(text)["primary"] == second
        assert json.loads(text)["laggards"] == {}
