"""Agents of the real program, on addresses of this room's own."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trioserf.control.client.rpc_session import RpcSession
from trioserf.control.errors import ControlError

SERF = shutil.which("serf")
needs_serf = [
    pytest.mark.interop,
    pytest.mark.skipif(SERF is None, reason="the real serf program is NOT INSTALLED"),
]


@contextmanager
def serf_agent(host: str, name: str, directory: Path, *options: str) -> Iterator[str]:
    """Run a real agent; gives its RPC address once it answers."""
    assert SERF is not None
    address = f"{host}:7373"
    command = [SERF, "agent", f"-node={name}", f"-bind={host}:7946", f"-rpc-addr={address}"]
    log = (directory / f"{name}.log").open("wb")
    with log, subprocess.Popen([*command, *options], stdout=log, stderr=log) as process:
        try:
            _wait_for(address, process)
            yield address
        finally:
            process.kill()


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(100):
        try:
            RpcSession.connect(address, timeout=5).close()
        except ControlError as error:
            if error.code != "unreachable":
                return
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        else:
            return
    raise AssertionError(f"no serf agent at {address}")
