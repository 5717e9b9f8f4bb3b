"""Every module and command with the Python of macOS and of Windows (see tests/README.md)."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.interop.agents import ROOT, TRIOSERF, read_to, until

assert sys.platform == "linux"

pytestmark = pytest.mark.interop

PLATFORMS = ("darwin", "win32")
BREAK = signal.SIGTTIN
"""In place of SIGBREAK, see `stand_in`."""
CONTROL_C_EXIT = 0x3A
"""The last byte of the exit code; this system keeps no more of it."""
HANDLERS = {
    "query:load": "cat; echo 0.42",
    "query:name": 'printf "%s" "$SERF_SELF_NAME"',
    "user:hang": "echo $$ > {pid}; sleep 1000",
}
ENDINGS = ("leave", "agent", "monitor", "stream")
"""Commands that have tests of their own."""


def program(platform: str) -> tuple[str, ...]:
    return sys.executable, "-m", "tests.platforms.stand_in", platform


@attrs.frozen
class Run:
    """A running agent.

    Attributes:
        platform: the platform as which it runs.
        process: its process.
        rpc: its control address.
        directory: its files.
        env: the environment of its process, which commands get, too.
    """

    platform: str
    process: "subprocess.Popen[str]"
    rpc: str
    directory: Path
    env: dict[str, str]

    def ask(self, *words: str, native: bool = False) -> tuple[int, str, str]:
        """Run a command, as on its platform or as on Linux; return exit code and both outputs."""
        done = subprocess.run(
            [*(TRIOSERF if native else program(self.platform)), *words],
            env=self.env | {"SERF_RPC_ADDR": self.rpc},
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def fake_windows(directory: Path) -> dict[str, str]:
    """Write stand-ins of Windows's programs; return the variable that leads to them.

    `cmd` gets the rest of its command line as one word, and runs the script in it. `taskkill` ends
    the descendants of a process, and the process.
    """
    system = directory / "System32"
    system.mkdir(exist_ok=True)
    log = directory / "programs.log"
    texts = {
        "cmd.exe": f"""
            printf 'cmd %s\\n' "$1" >> {log}
            script=${{1#'/S /C "'}}
            exec /bin/sh -c "${{script%?}}"
            """,
        "taskkill.exe": f"""
            printf 'taskkill %s\\n' "$*" >> {log}
            end() {{ for child in $(ps -o pid= --ppid $1); do end $child; done; kill -9 $1; }}
            end $4
            """,
    }
    for name, text in texts.items():
        (system / name).write_text(f"#!/bin/sh\n{text}")
        (system / name).chmod(0o755)
    return {"SYSTEMROOT": str(directory)}


@contextmanager
def agent(platform: str, directory: Path, *options: str) -> Iterator[Run]:
    """Run an agent, as on a platform; macOS gives a process 256 descriptors."""
    env = {**os.environ, **(fake_windows(directory) if platform == "win32" else {})}
    scripts = [
        f"--event-handler={events}={script.format(pid=directory / 'pid')}"
        for events, script in HANDLERS.items()
    ]
    words = [*program(platform), "agent", "--node=a", "--tag=role=web", "--profile=local"]
    words += ["--bind=127.0.0.1:0", "--rpc-addr=127.0.0.1:0", *scripts]
    words += [f"--snapshot={directory / 'snapshot'}", "--rejoin", *options]
    limited = ["/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *words]
    with (
        (directory / "log").open("a") as log,
        subprocess.Popen(
            limited, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            banner = read_to(process.stdout, "Log data will now stream")
            rpc = re.search(r"RPC addr: '(.*)'", banner)
            assert rpc is not None
            yield Run(platform, process, rpc[1], directory, env)
        finally:
            process.kill()


@pytest.fixture(scope="module", params=PLATFORMS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    with agent(request.param, tmp_path_factory.mktemp(request.param)) as run:
        yield run


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_module_is_imported(platform: str) -> None:
    done = subprocess.run(
        [*program(platform), "--import-all"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    files = [
        path for path in (ROOT / "trioserf").rglob("*.py") if path.parent != ROOT / "trioserf"
    ]
    assert int(done.stdout) >= len(files)


COMMANDS: dict[str, Sequence[Sequence[str]]] = {
    "event": [["event", "deploy", "v1"]],
    "force-leave": [["force-leave", "web-3"]],
    "health": [["health"], ["health", "--format=json"]],
    "info": [["info"], ["info", "--format=json"]],
    "join": [["join", "127.0.0.1:1"]],
    "keygen": [["keygen"]],
    "keys": [["keys", "-list"]],
    "keys rotate": [["keys", "rotate"]],
    "members": [
        ["members"],
        ["members", "--format=json", "-detailed"],
        ["members", "-tag=role=x"],
    ],
    "query": [["query", "load", "in"], ["query", "name"]],
    "reachability": [["reachability"]],
    "rtt": [["rtt", "a"]],
    "service": [["service", "print", "--config"]],
    "tags": [["tags", "-set", "zone=b"]],
    "token": [["token", "new", "ci", "--scope=read"]],
    "validate": [["validate"], ["validate", "--set=retry_interval=1x", "--format=json"]],
    "version": [["version"]],
    "help": [["help"], ["help", "agent"]],
}


def test_every_command_is_tried() -> None:
    files = {path.stem for path in (ROOT / "trioserf/cli/commands").glob("[a-z]*.py")}
    tried = {name.replace(" ", "_").replace("-", "_") for name in (*COMMANDS, *ENDINGS)}
    assert files - {"agent_process"} <= tried


@pytest.mark.parametrize(
    "words", [words for several in COMMANDS.values() for words in several], ids=" ".join
)
def test_command_prints_what_it_prints_on_linux(running: Run, words: Sequence[str]) -> None:
    ours = running.ask(*words)
    native = running.ask(*words, native=True)
    random = r"[\w+/=.$-]{40,}|[\d.]+ ms|\d+"
    assert [re.sub(random, "?", text) for text in map(str, ours)] == [
        re.sub(random, "?", text) for text in map(str, native)
    ]
    assert "Traceback" not in ours[2]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_tokens_are_added_to_a_file_and_used(platform: str, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    words = [*program(platform), "token", "new", "ci", "--scope=read", f"--file={tokens}"]
    token = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with agent(platform, tmp_path, f"--set=rpc_tokens={tokens}") as run:
        assert run.ask("members")[0] == 1
        code, out, _ = run.ask("members", f"-rpc-auth={token.strip()}")
    assert (code, out.split()[0]) == (0, "a")


def test_handler_answers_a_query(running: Run) -> None:
    code, out, _ = running.ask("query", "--format=json", "load", "in")
    assert (code, json.loads(out)["Responses"]) == (0, {"a": "in\n0.42\n"})
    code, out, _ = running.ask("query", "--format=json", "name")
    assert (code, json.loads(out)["Responses"]) == (0, {"a": "a"})
    if running.platform == "win32":
        assert 'cmd /S /C "cat; echo 0.42"' in (running.directory / "programs.log").read_text()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_handler_that_hangs_is_ended_with_its_processes(platform: str, tmp_path: Path) -> None:
    with agent(platform, tmp_path, "--set=handler_timeout=1s") as run:
        assert run.ask("event", "hang")[0] == 0
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", 30)
        shell = int((tmp_path / "pid").read_text())
        until(lambda: not Path(f"/proc/{shell}").exists(), 30)
        if platform == "win32":
            log = (tmp_path / "programs.log").read_text()
            assert re.search(r"^taskkill /T /F /PID \d+$", log, re.MULTILINE)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_snapshot_is_written_and_read(platform: str, tmp_path: Path) -> None:
    with agent(platform, tmp_path) as run:
        for _ in range(5):
            assert run.ask("event", "deploy")[0] == 0
        assert run.end(signal.SIGINT) == 0
    text = (tmp_path / "snapshot").read_text()
    assert "alive: a 127.0.0.1:" in text
    clock = max(map(int, re.findall(r"^event-clock: (\d+)$", text, re.MULTILINE)))
    assert clock >= 5
    with agent(platform, tmp_path) as run:
        info = json.loads(run.ask("info", "--format=json")[1])
        assert int(info["serf"]["event_time"]) > clock


@pytest.mark.parametrize(
    ("platform", "number", "text"),
    [
        ("darwin", signal.SIGTERM, "terminated"),
        ("win32", signal.SIGINT, "interrupt"),
        ("win32", BREAK, "interrupt"),
        ("win32", signal.SIGTERM, "terminated"),
    ],
)
def test_signal_ends_the_agent(platform: str, number: int, text: str, tmp_path: Path) -> None:
    with agent(platform, tmp_path, "--set=leave_on_terminate=true") as run:
        assert run.end(number) == 0
        assert run.process.stdout is not None
        out = run.process.stdout.read()
    assert f"==> Caught signal: {text}\n==> Gracefully shutting down agent...\n" in out


def test_windows_has_no_unix_sockets(tmp_path: Path) -> None:
    text = "this system has no Unix sockets; expected an address such as 127.0.0.1:7373"
    path = f"unix:{tmp_path / 'a.sock'}"
    words = ("agent", "--bind=127.0.0.1:0", f"--rpc-addr={path}")
    done = subprocess.run(
        [*program("win32"), *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert text in done.stdout
    done = subprocess.run(
        [*program("win32"), "members", f"--rpc-addr={path}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert text.lower() in done.stdout  # in Go's style


@pytest.mark.parametrize("command", ["stream", "monitor"])
def test_follower_does_not_end_because_its_output_is_a_terminal(
    command: str, running: Run
) -> None:
    master, terminal = os.openpty()
    with (
        open(master, "rb", buffering=0) as screen,  # noqa: PTH123 - a descriptor
        open(terminal, "wb") as output,  # noqa: PTH123
        started(running, command, stdout=output) as process,
    ):
        for _ in range(3):  # the first is proof of the start, others that it runs on
            until(lambda: running.ask("event", "more")[0] == 0 and is_readable(screen), 60)
            assert screen.read(65_536)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def is_readable(file: FileIO) -> bool:
    return bool(select.select((file,), (), (), 0.5)[0])


@pytest.mark.parametrize("command", ["stream", "monitor"])
def test_follower_ends_with_the_reader_of_its_output(command: str, running: Run) -> None:
    with started(running, command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if command == "monitor":
            assert process.stdout.readline()
        process.stdout.close()
        began = time.monotonic()
        if running.platform == "win32":  # it notices that when it writes
            until(lambda: running.ask("event", "more")[0] == 0 and process.poll() is not None, 30)
        assert process.wait(30) == (0 if command == "stream" else 128 + 13)
        assert time.monotonic() - began < 30


@contextmanager
def started(run: Run, *words: str, stdout: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a command as on the agent's platform, and kill it at the end."""
    env = run.env | {"SERF_RPC_ADDR": run.rpc}
    with subprocess.Popen(
        [*program(run.platform), *words], env=env, cwd=ROOT, stdout=stdout, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_agent_leaves_on_request(platform: str, tmp_path: Path) -> None:
    with agent(platform, tmp_path) as run:
        assert run.ask("leave") == (0, "Graceful leave complete\n", "")
        assert run.process.wait(30) == 0


@pytest.mark.parametrize(
    ("platform", "expected"), [("darwin", -signal.SIGINT), ("win32", CONTROL_C_EXIT)]
)
def test_interrupted_command_ends_as_its_platform_expects(platform: str, expected: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"-rpc-addr=127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen([*program(platform), "members", address], cwd=ROOT) as process:
            try:
                connection, _ = silent.accept()
                with connection:
                    assert connection.recv(1)
                    process.send_signal(signal.SIGINT)
                    assert process.wait(30) == expected
            finally:
                process.kill()
