"""Where platforms may be mentioned, and that hosted runners do what `make check` does."""

import os
import re
import subprocess
import sys

from tests.interop.agents import ROOT
from tests.platforms.typeshed import changes, missing_modules

assert sys.platform == "linux"

ROOM = "operating_system"
_PLATFORM = re.compile(r"\bsys\.platform\b|\bos\.name\b|\bplatform\.system\b")
REPORTS = {"trioserf/agent/agent.py": 1}
"""Files that show the name of the platform, and decide nothing by it."""


def test_only_one_room_asks_for_the_platform() -> None:
    found = {
        str(path.relative_to(ROOT)): len(_PLATFORM.findall(path.read_text()))
        for path in (ROOT / "trioserf").rglob("*.py")
        if path.parent.name != ROOM
    }
    assert {name: count for name, count in found.items() if count} == REPORTS


def test_workflow_runs_on_windows_what_make_check_runs() -> None:
    # The tests may be run by make, too: its options are none of the command that is looked at.
    env = {
        name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "ARGS"))
    }
    done = subprocess.run(
        ["make", "-n", "check", "OS=Windows_NT", "PYTHON=python", "VENV=.missing"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = [line.strip().replace(".missing", ".venv") for line in done.stdout.splitlines()]
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    job = text.partition("\n  windows:\n")[2]
    job = re.split(r"\n  \w+:\n", job)[0].replace("- run: ", "")
    lines = [line.strip() for line in job.splitlines()]
    commands = [line for line in expected if not line.startswith("touch")]
    assert len(commands) >= 9
    assert [line for line in commands if line not in lines] == []


def test_stubs_know_what_windows_lacks() -> None:
    """If the form of the stubs changed, the views would lack nothing."""
    assert {"fcntl", "grp", "pwd", "resource", "syslog", "termios"} <= missing_modules("win32")
    lacks, has = changes("os", "win32")
    assert {"O_CLOEXEC", "fork", "geteuid", "killpg", "sysconf", "uname"} <= lacks
    assert "O_BINARY" in has
    lacks, has = changes("signal", "win32")
    assert {"SIGALRM", "SIGHUP", "SIGPIPE", "SIGUSR1", "pthread_sigmask"} <= lacks
    assert "SIGBREAK" in has
    assert {"AF_UNIX", "SO_REUSEPORT"} <= changes("socket", "win32")[0]
    assert "poll" in changes("select", "win32")[0]
    assert "TCP_KEEPIDLE" in changes("socket", "darwin")[0]
