"""Costs of starting: the imports of commands and of the agent."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import CLOSED, NAMES
from tests.interop.agents import ROOT, TRIOSERF, net, read_to

HEAVY = frozenset(
    (
        *("pydantic", "pydantic_core", "rich", "click", "pygments", "ssl"),
        *("trio", "attr", "attrs", "cattrs", "cryptography", "re2", "asyncio", "argparse"),
    )
)
UNUSED_BY_A_PLAIN_AGENT = frozenset(
    (
        *("typer", "shellingham", "rich", "pydantic", "click"),
        *("cryptography", "re2", "ifaddr", "dns", "prometheus_client", "h11"),
        *("asyncio", "argparse", "email", "importlib.metadata", "difflib"),
        *("trioserf.cli.app", "trioserf.cli.options", "trioserf.cli.commands.agent"),
        *("trioserf.control.server.msgpack_rpc", "trioserf.control.server.tls"),
        *("trioserf.control.client", "trioserf.sim", "trioserf.net.multicast", "trioserf.net.srv"),
        *("trioserf.agent.discovery", "trioserf.agent.mdns", "trioserf.agent.prometheus"),
        *("trioserf.agent.snapshot", "trioserf.agent.statsd", "trioserf.agent.syslog"),
    )
)
REPORT = """
import atexit, os, sys
from trioserf.cli.main import run
with open(os.devnull, "wb") as null:
    run(sys.argv[1:], null, null, None)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
print(*sorted(name for name in sys.modules if name.startswith("trioserf.cli.commands.")))
"""
MODULES_OF_AGENT = """
import json, os, sys, trio
from trioserf.cli.main import main

class Report(trio.abc.Instrument):
    def before_run(self):
        with open(os.environ["REPORT"], "w") as file:
            json.dump(sorted(sys.modules), file)

run = trio.run
trio.run = lambda *args: run(*args, instruments=[Report()])
main()
"""
LINES = [
    "version",
    "keygen",
    "members -format=json",
    "event deploy",
    "query load",
    "join x",
    "leave",
    "force-leave x",
    "tags -set a=b",
    "token list --file x",
    "service print",
    "keys -list",
    "info",
    "health",
    "monitor",
    "rtt a",
    "reachability",
    "stream",
    "members -h",
    "members -nosuch",
]
OTHERS = {"query": ["event"], "stream": ["monitor"], "keys": ["keygen", "keys_rotate"]}
"""Modules of other commands that a command uses."""


@pytest.mark.parametrize("line", LINES)
def test_client_command_imports_nothing_heavy_and_no_other_command(line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *line.split()],
        env={"SERF_RPC_ADDR": CLOSED},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    modules, commands = done.stdout.splitlines()
    assert HEAVY.isdisjoint(modules.split())
    name = line.split()[0].replace("-", "_")
    assert commands.split() == [
        f"trioserf.cli.commands.{one}" for one in sorted([name, *OTHERS.get(name, [])])
    ]


def test_every_client_command_is_counted() -> None:
    assert {line.split()[0] for line in LINES} == set(NAMES) - {
        "agent",
        "validate",
    }  # it checks what agents do


@pytest.mark.interop
def test_plain_agent_imports_only_what_it_uses(tmp_path: object) -> None:
    host, path = f"{net(7)}.83", f"{tmp_path}/modules"
    words = ["agent", f"-bind={host}:0", f"-rpc-addr={host}:0", "-node=lean", "-tag=a=b"]
    with subprocess.Popen(
        [sys.executable, "-c", MODULES_OF_AGENT, *words],
        env={**os.environ, "REPORT": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        banner = read_to(process.stdout, b"RPC addr").decode()
        assert "'lean'" in banner
        address = re.search(r"RPC addr: '(.+):(\d+)'", banner)
        assert address is not None
        with socket.create_connection((address[1], int(address[2])), timeout=30) as client:
            client.sendall(b'{"command": "members"}\n')
            assert b'"lean"' in client.recv(65536)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 0
    modules = set(json.loads(Path(path).read_text()))
    assert "trioserf.control.server.json_lines" in modules
    assert sorted(UNUSED_BY_A_PLAIN_AGENT & modules) == []


@pytest.mark.interop
def test_agent_has_the_process_id_and_the_words_of_its_command_line() -> None:
    host = f"{net(7)}.84"
    words = ["agent", f"-bind={host}:0", f"-rpc-addr={host}:0", "-node=same"]
    with subprocess.Popen(
        [*TRIOSERF, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        read_to(process.stdout, b"Node name")
        proc = Path(f"/proc/{process.pid}")
        command_line = (proc / "cmdline").read_bytes().split(b"\0")
        assert command_line[-5:-1] == [word.encode() for word in words]
        assert (proc / f"task/{process.pid}/children").read_text() == ""
        os.kill(process.pid, signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 0


@pytest.mark.parametrize(("words", "code"), [(["version"], 0), (["members"], 1), ([], 127)])
def test_module_runs_as_a_program(words: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trioserf", *words],
        env={"SERF_RPC_ADDR": CLOSED},
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
