"""An agent whose disk takes longer to sync than a leave may take."""

import signal
import sys
from pathlib import Path

import pytest

from tests.interop.agents import SERF, Process, until

assert sys.platform != "win32"

pytestmark = pytest.mark.interop
PROGRAM = """
import os, time
sync = os.fsync
def sync_slowly(descriptor):
    time.sleep(10)
    sync(descriptor)
os.fsync = sync_slowly
from trioserf.cli.main import main
main()
"""


def test_leave_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    assert SERF is not None
    snapshot = tmp_path / "snapshot"
    snapshot.touch()
    peer = Process([SERF], "go-peer", 240, [])
    options = [f"-snapshot={snapshot}", f"-join={peer.host}"]
    agent = Process([sys.executable, "-c", PROGRAM], "py-slow", 241, options)
    both = {"go-peer": "alive", "py-slow": "alive"}
    try:
        until(lambda: agent.statuses() == both == peer.statuses(), 60, agent.log_text)
        agent.signal(signal.SIGINT)
        until(lambda: peer.statuses()["py-slow"] == "left", 9, agent.log_text)
        assert agent.exit_code() is None
        assert agent.wait() == 0, agent.log_text()
        assert "took longer" not in agent.log_text()
    finally:
        agent.end()
        peer.end()
    assert "\nleave\n" in snapshot.read_text()
