"""Orphans are reaped, in a process that adopts them; scripts keep their exit status."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.agents import ROOT, TRIOSERF, net, read_to, until

assert sys.platform == "linux"

PROGRAM = """
import ctypes, os, sys, trio
from functools import partial
from trioserf.agent.orphans import OrphanReaper
from trioserf.agent.script_runner import ShellRunner

PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
# Each script ends with its own status; its orphans end at once, in the middle, and after it.
SCRIPT = '''
for pause in 0 0.05 0.4; do (setsid sleep $pause >/dev/null 2>&1 &); done
sleep 0.1
exit %d
'''

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()

async def main():
    reaper = OrphanReaper()
    runner = ShellRunner(reaper=reaper)
    statuses = {}

    async def run(number):
        result = await runner(SCRIPT % number, os.environ, b"")
        statuses[number] = result.status

    async with trio.open_nursery() as nursery:
        if sys.argv[1] == "reap":
            nursery.start_soon(reaper.run)
        async with trio.open_nursery() as scripts:
            for number in range(20):
                scripts.start_soon(run, number)
        assert statuses == {number: number for number in range(20)}, statuses
        with trio.move_on_after(5):
            while children():
                await trio.sleep(0.05)
        print(len(children()))
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.parametrize(("mode", "left"), [("reap", 0), ("leave", 60)])
def test_orphans_are_reaped_and_scripts_keep_their_status(mode: str, left: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        capture_output=True, timeout=60, check=False, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stderr == ""
    assert int(done.stdout) == left


@pytest.mark.interop
def test_agent_that_is_pid_1_reaps_orphans_of_its_handlers(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, for a PID namespace")
    host, ran = f"{net(7)}.1", tmp_path / "ran"
    script = (
        f"(setsid sleep 0 >/dev/null 2>&1 &); (setsid sleep 0 >/dev/null 2>&1 &); echo >>{ran}"
    )
    with subprocess.Popen(
        [
            "unshare", "--pid", "--fork", "--kill-child", *TRIOSERF, "agent",
            f"--bind={host}:0", f"--rpc-addr={host}:7373", f"--event-handler=user={script}",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT,
    ) as unshare:  # fmt: skip
        try:
            assert unshare.stdout is not None
            read_to(unshare.stdout, b"Log data will now stream")
            (agent,) = _children(unshare.pid)
            for number in range(3):
                command = [*TRIOSERF, "event", f"--rpc-addr={host}:7373", f"event-{number}"]
                subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=ROOT)
            until(lambda: ran.exists() and ran.read_text() == "\n" * 3)
            until(lambda: not _children(agent), what=lambda: str(_children(agent)))
        finally:
            unshare.kill()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(word) for word in text.split()]
