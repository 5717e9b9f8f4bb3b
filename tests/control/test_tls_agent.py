"""TLS of a real agent: its configuration, its command line, and a new certificate on SIGHUP."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.control.certificates import Authority, new_authority
from tests.interop.agents import ROOT, SERF, STARTED_WITHIN, TRIOSERF, until
from trioserf.control.client.connect import connect_any
from trioserf.control.errors import ControlError
from trioserf.control.tls import Tls

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = f"127.25.{os.getpid() % 250}.11"
"""An address that no other test run uses."""
ADDRESS = f"tls://{HOST}:7373"
KEY = "sesame-0715"


@attrs.frozen
class Agent:
    process: "subprocess.Popen[bytes]"
    log: Path
    config: Path
    ca: Authority

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def reload(self, settings: dict[str, object]) -> None:
        """Change the configuration; return when the agent has read it."""
        self.config.write_text(json.dumps(settings))
        before = self.log_text().count("Reloading configuration")
        done = self.log_text().count("Configuration reloaded") + self.log_text().count("as it was")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.log_text().count("Reloading configuration") > before)
        until(
            lambda: (
                self.log_text().count("Configuration reloaded")
                + self.log_text().count("as it was")
                > done
            )
        )


def settings_of(files: tuple[str, str, str]) -> dict[str, object]:
    cert, key, client_ca = files
    return {
        "rpc_addr": ADDRESS,
        "rpc_auth": KEY,
        "rpc_tls_cert": cert,
        "rpc_tls_key": key,
        "rpc_tls_client_ca": client_ca,
    }


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    ca = new_authority(tmp_path)
    files = ca.issue("agent", HOST, "agent.example")
    config, log = tmp_path / "agent.json", tmp_path / "log"
    config.write_text(json.dumps(settings_of(files)))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*TRIOSERF, "agent", f"--config-file={config}", f"--bind={HOST}:0", "--node=a"],
            stdout=out, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip
        try:
            until(lambda: "agent running" in log.read_text(), STARTED_WITHIN, log.read_text)
            yield Agent(process, log, config, ca)
        finally:
            process.kill()
            process.wait()


def run(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command; the environment has the agent's address and key."""
    return subprocess.run(
        [*TRIOSERF, *words],
        env={"PATH": os.environ["PATH"], "SERF_RPC_ADDR": ADDRESS, "SERF_RPC_AUTH": KEY, **env},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )


def test_commands_connect_over_tls(agent: Agent) -> None:
    ca = agent.ca.file
    assert f"RPC addr: '{ADDRESS}'" in agent.log_text()
    printed = run("members", f"--tls-ca={ca}")
    assert printed.stdout.startswith("a  ")
    assert run("event", "deploy", SERF_TLS_CA=ca).returncode == 0
    over_json = json.loads(run("keys", "-list", "-format=json", SERF_TLS_CA=ca).stdout)
    assert over_json["error"]["code"] == "key_failed"  # it has no keys
    assert run("info", f"--tls-ca={ca}", "--tls-server-name=agent.example").returncode == 0


@pytest.mark.parametrize(
    ("words", "env", "expected"),
    [
        ((), {}, "certificate not accepted (unable to get local issuer certificate); --tls-ca"),
        (("--tls-server-name=x",), {"SERF_TLS_CA": "CA"}, "its certificate is not for x; --tls-"),
        (("--tls-ca=/nowhere",), {}, "--tls-ca: /nowhere cannot be read: No such file"),
        ((f"-rpc-addr={HOST}:7373",), {}, "this address speaks TLS; put tls:// before it"),
        ((f"-rpc-addr={HOST}:7373",), {"SERF_TLS_CA": "CA"}, f"expected tls://{HOST}:7373"),
    ],
    ids=["no CA", "other name", "no file", "plain", "plain with CA"],
)
def test_errors_of_commands_name_what_mends_them(
    agent: Agent, words: tuple[str, ...], env: dict[str, str], expected: str
) -> None:
    env = {name: agent.ca.file if value == "CA" else value for name, value in env.items()}
    for command in (("members",), ("keys", "-list", "-format=json")):
        printed = run(*command, *words, **env)
        assert printed.returncode == 1
        assert expected in printed.stdout
        if command == ("members",):
            assert printed.stdout.count("\n") == 1


def test_certificates_are_reloaded_on_sighup_and_bad_ones_are_not(agent: Agent) -> None:
    other = new_authority(agent.ca.directory, "other")
    with connect_any(ADDRESS, KEY, tls=Tls(agent.ca.file)) as session:
        agent.reload(settings_of(("/nowhere", "", "")))
        assert "rpc_tls_cert: /nowhere cannot be read" in agent.log_text()
        assert run("members", SERF_TLS_CA=agent.ca.file).returncode == 0
        new = other.issue("new", HOST)
        agent.reload(settings_of(new._replace(client_ca=other.file)))
        assert session.info()["agent"]["name"] == "a"
    operator = other.issue("operator")
    assert "it requires a client certificate" in run("members", SERF_TLS_CA=other.file).stdout
    assert run("members", SERF_TLS_CA=agent.ca.file).returncode == 1
    words = ("members", f"--tls-cert={operator.cert}", f"--tls-key={operator.key}")
    assert run(*words, SERF_TLS_CA=other.file).returncode == 0
    with pytest.raises(ControlError, match="requires a client certificate"):
        connect_any(ADDRESS, KEY, tls=Tls(other.file))
    assert "Traceback" not in agent.log_text()


def test_plain_client_receives_an_error_with_its_seq(agent: Agent) -> None:
    with socket.create_connection((HOST, 7373), 10) as stream:
        stream.sendall(b'{"command": "members", "seq": 7}\n')
        reply = json.loads(stream.makefile("rb").readline())
    assert reply == {
        "seq": 7,
        "ok": False,
        "error": {
            "code": "bad_request",
            "message": "this address speaks TLS; put tls:// before it",
        },
    }
    until(lambda: "No TLS with a client at loopback: it does not speak TLS" in agent.log_text())


@pytest.mark.serf
def test_serf_reports_that_the_address_speaks_tls(agent: Agent) -> None:
    assert SERF is not None
    printed = subprocess.run(
        [SERF, "members", f"-rpc-addr={HOST}:7373"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert printed.returncode == 1
    assert "this address speaks TLS; put tls:// before it" in printed.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            (f"-rpc-addr={ADDRESS}",),
            ": needs a certificate; expected rpc_tls_cert",
        ),
        (("--set=rpc_tls_cert=/x",), "rpc_tls_cert: no address in rpc_addr begins with tls://"),
        (
            (f"-rpc-addr={ADDRESS}", "--set=rpc_tls_cert=/nowhere"),
            "rpc_tls_cert: /nowhere cannot be read: No such file or directory",
        ),
    ],
)
def test_agent_does_not_start_with_wrong_settings(words: tuple[str, ...], expected: str) -> None:
    printed = run("agent", f"-bind={HOST}:0", *words)
    assert printed.returncode == 1
    assert expected in printed.stdout
