"""HTTP of an agent's process: banner, a new token on SIGHUP, the end with a client connected."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, STARTED_WITHIN, TRIOSERF, until

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
HOST = f"127.26.{os.getpid() % 250}.11"
"""An address that no other test run uses."""
PORT = 8018


def status(path: str, token: str = "") -> int:
    client = http.client.HTTPConnection(HOST, PORT, timeout=30)
    try:
        client.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = client.getresponse()
        response.read()
        return response.status
    finally:
        client.close()


def test_process_serves_reloads_and_ends(tmp_path: Path) -> None:
    token, config, log = tmp_path / "token", tmp_path / "agent.json", tmp_path / "log"
    token.write_text("first\n")
    token.chmod(0o600)
    values = {"http_addr": f"{HOST}:{PORT}", "http_token_file": str(token), "bind": f"{HOST}:0"}
    config.write_text(json.dumps(values | {"rpc_addr": f"{HOST}:0", "node_name": "a"}))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*TRIOSERF, "agent", f"--config-file={config}"],
            stdout=out, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip
    try:
        until(lambda: "Log data" in log.read_text(), STARTED_WITHIN, log.read_text)
        assert f"                      HTTP addr: '{HOST}:{PORT}'\n" in log.read_text()
        assert (status("/-/ready"), status("/metrics"), status("/metrics", "first")) == (
            200, 401, 200,
        )  # fmt: skip
        # A file that cannot be used leaves the token as it was.
        token.write_text("two words")
        process.send_signal(signal.SIGHUP)
        until(lambda: "stays as it was" in log.read_text(), 30.0, log.read_text)
        assert status("/metrics", "first") == 200
        token.write_text("second")
        process.send_signal(signal.SIGHUP)
        until(lambda: "Configuration reloaded" in log.read_text(), 30.0, log.read_text)
        assert (status("/metrics", "first"), status("/metrics", "second")) == (401, 200)
        client = http.client.HTTPConnection(HOST, PORT, timeout=30)
        client.request("GET", "/v1/events", headers={"Authorization": "Bearer second"})
        with client.getresponse() as response:
            assert response.readline() == b": \n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 1
        client.close()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def test_taken_port_ends_the_start_in_one_line() -> None:
    with socket.create_server((HOST, 0)) as taken:
        address = f"{HOST}:{taken.getsockname()[1]}"
        done = subprocess.run(
            [
                *(*TRIOSERF, "agent", f"--bind={HOST}:0", f"--rpc-addr={HOST}:0"),
                f"--set=http_addr={address}",
            ],
            capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
        )  # fmt: skip
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last == f"==> http_addr: cannot listen on {address}: already in use"
    assert "EventMemberJoin" not in done.stderr
