"""Keys of clusters of both kinds: changed under load, rotated past failures, brought in."""

import base64
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.cli.go_agents import OURS, ROOT, SERF
from tests.interop.agents import CONVERGED_WITHIN, Cluster, cluster, following, records, until
from trioserf.control.rpc_client import RpcSession

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(SERF is None, reason="the real serf program is NOT INSTALLED"),
]

NAMES = ("go-a", "py-a", "go-b", "py-b")
PAUSE = 0.05
"""Seconds between two events of one sender."""


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def spellings(key: str) -> set[str]:
    """Give the texts by which a key could be known in a log."""
    raw = base64.b64decode(key)
    return {key, key.rstrip("="), raw.hex(), raw.hex().upper(), repr(raw)[2:-1]}


def ours(*words: str) -> tuple[int, str]:
    done = subprocess.run([*OURS, *words], capture_output=True, cwd=ROOT, timeout=120, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


def keys(agents: Cluster, by: str, program: str, *words: str) -> str:
    """Change or list keys by one of the programs, through an agent of either kind."""
    agent = agents.running[by]
    if program == "serf":
        code, text = agent.ask("keys", *words)
    else:
        code, text = ours("keys", f"--rpc-addr={agent.rpc}", *words)
    assert code == 0, (by, program, words, text)
    return text


class Load:
    """Events from some agents, and who hears them.

    Attributes:
        sent: name and sender of each.
        lost: what was seen of members that failed or left meanwhile.
    """

    def __init__(self, agents: Cluster, senders: Sequence[str]) -> None:
        self.sent: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self.faults: list[Exception] = []
        self._agents = agents
        self._stop = Event()
        self._paths: dict[str, Path] = {}
        self._threads = [Thread(target=self._send, args=(name,)) for name in senders]

    @contextmanager
    def flowing(self) -> Iterator["Load"]:
        """Send while the block lasts; every event is told once by each agent of then."""
        with ExitStack() as stack:
            for name, agent in self._agents.running.items():
                self._paths[name] = stack.enter_context(following(agent))
            self._until_all_listen()
            for thread in self._threads:
                thread.start()
            try:
                yield self
            finally:
                self._stop.set()
                for thread in self._threads:
                    thread.join()
            assert self.faults == []
            until(lambda: not self._missing(), CONVERGED_WITHIN, lambda: f"{self._missing()}")
            wanted = dict.fromkeys(self.sent, 1)
            for name in self._paths:
                assert self._heard(name) == wanted, name
            self.lost = self._gone()

    def _until_all_listen(self) -> None:
        by, number = next(iter(self._agents.running.values())), 0
        while not all(map(records, self._paths.values())):
            by.ask("event", "-coalesce=false", f"begin-{number}")
            number += 1

    def _gone(self) -> list[str]:
        gone = ("member-failed", "member-leave", "member-reap")
        return [
            f"{by}: {one['event']} {[member['name'] for member in one['members']]}"
            for by, path in self._paths.items()
            for one in records(path)
            if one["event"] in gone
        ]

    def _send(self, name: str) -> None:
        number = 0
        try:
            with RpcSession.connect(self._agents.running[name].rpc) as session:
                while not self._stop.wait(PAUSE):
                    session.event(f"load-{number}", name.encode())
                    self.sent.append((f"load-{number}", name))
                    number += 1
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            self.faults.append(error)

    def _heard(self, name: str) -> Counter[tuple[str, str]]:
        told = [one for one in records(self._paths[name]) if one["event"] == "user"]
        pairs = [(str(one["name"]), str(one["payload"])) for one in told]
        return Counter(pair for pair in pairs if pair[0].startswith("load-"))

    def _missing(self) -> dict[str, int]:
        counts = {name: len(set(self.sent) - set(self._heard(name))) for name in self._paths}
        return {name: count for name, count in counts.items() if count}


def start_all(agents: Cluster, names: Sequence[str], files: Path | None, *options: str) -> None:
    for number, name in enumerate(names):
        seed = [f"-join={agents.host(names[number - 1])}"] if number else []
        keyring = [f"-keyring-file={files / name}"] if files else []
        agents.start(name, *keyring, *options, *seed)
    agents.all_see("alive", *names)


def write_keyrings(folder: Path, names: Sequence[str], *some: str) -> None:
    for name in names:
        (folder / name).write_text(json.dumps(some))
        (folder / name).chmod(0o600)


def test_keys_change_from_either_program_under_load(tmp_path: Path) -> None:
    """Each program in turn, through agents of each kind; nobody is lost, and no event."""
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
        # What one program wrote is what the other starts from.
        for name, other in (("go-a", "py-a"), ("py-b", "go-b")):
            assert (tmp_path / name).read_bytes() == (tmp_path / other).read_bytes()
            mixed.end(name)
            mixed.all_see("failed", name)
            seed = f"-join={mixed.host('go-b')}"
            mixed.start(name, f"-keyring-file={tmp_path / other}", "-log-level=trace", seed)
        mixed.all_see("alive", *NAMES)
        for name, agent in mixed.running.items():
            said = agent.said()
            assert "key query" in said or name in ("go-a", "py-b")
            assert not [key for one in used for key in spellings(one) if key in said]


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
    """Start a rotation; what it prints can be read as it comes."""
    rpc = mixed.running[by].rpc
    return subprocess.Popen(
        [*OURS, "keys", "rotate", f"--rpc-addr={rpc}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
    )  # fmt: skip


def read_to(process: "subprocess.Popen[str]", line: str) -> str:
    """Read up to a line."""
    assert process.stdout is not None
    text = ""
    while line not in text:
        more = process.stdout.readline()
        assert more, text
        text += more
    return text


def rest(process: "subprocess.Popen[str]") -> tuple[int, str]:
    text, _ = process.communicate(timeout=180)
    return process.returncode, text


@pytest.mark.parametrize("by", ["go-a", "py-a"])
def test_a_rotation_stops_at_a_paused_member_and_is_taken_further(
    four: tuple[Cluster, Path], by: str
) -> None:
    mixed, folder = four
    (first,) = rings(folder)[0]
    paused = mixed.running["go-b" if by == "py-a" else "py-b"]
    process = rotate(mixed, by)
    read_to(process, "Successfully installed key!")
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


def test_a_rotation_stops_at_a_member_that_dies_and_is_taken_further(
    four: tuple[Cluster, Path],
) -> None:
    mixed, folder = four
    (first,) = rings(folder)[0]
    process = rotate(mixed, "py-a")
    read_to(process, "Successfully installed key!")
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


def test_an_agent_of_serf_without_a_file_forgets(tmp_path: Path) -> None:
    """It takes part in a rotation, and is shut out after a restart with the key of its options."""
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
        code, text = ours("info", f"--rpc-addr={mixed.running['py-a'].rpc}", "--format=json")
        assert code == 0
        groups = json.loads(text)
        assert int(groups["dropped"]["decrypt"]) > 0
        assert sum(map(int, groups["dropped_from"].values())) > 0  # streams come from anywhere
        assert groups["protection"]["keys"] == "1"
        assert old not in text
        assert new not in text


def test_listing_tells_the_primary_key_and_who_lags_behind(tmp_path: Path) -> None:
    first, second = new_key(), new_key()
    write_keyrings(tmp_path, NAMES, first, second)
    write_keyrings(tmp_path, ["go-b"], second, first)
    with cluster(186) as mixed:
        start_all(mixed, NAMES, tmp_path)
        rpc = f"--rpc-addr={mixed.running['py-a'].rpc}"
        code, text = ours("keys", "-list", rpc, "--format=json")
        told = json.loads(text)
        assert (code, told["primary"], told["nodes"]) == (0, None, 4)
        assert told["keys"] == {first: 4, second: 4}
        assert told["primary_keys"] == {first: 3, second: 1}
        paused = mixed.running["go-b"]
        paused.signal(signal.SIGSTOP)
        try:
            code, text = ours("keys", "-use", second, rpc, "--format=json")
        finally:
            paused.signal(signal.SIGCONT)
        assert code == 1
        laggards = json.loads(text)["error"]["laggards"]
        assert laggards in ({"go-b": "no answer"}, {"go-b": "failed"})  # the wait is long enough
        assert second not in text
        mixed.all_see("alive", *NAMES)
        _, text = ours("keys", "-list", rpc, "--format=json")
        assert json.loads(text)["primary"] == second
        assert json.loads(text)["laggards"] == {}
