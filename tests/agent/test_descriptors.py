"""The limit of open descriptors, in processes of their own: it is that of a whole process."""

import resource
import subprocess
import sys

import pytest

from trioserf.agent.config import HandlerOptions
from trioserf.agent.script_rights import limiting_command

assert sys.platform != "win32"

REPORT = """
import resource, sys
from trioserf.operating_system import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
descriptors.raise_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), descriptors.limit_of_scripts())
print(descriptors.low_limit_warning(128, 512))
"""


def run(soft: int, hard: int) -> tuple[str, str]:
    """Return limits and warning of a process that started with these limits."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(soft), str(hard)],
        capture_output=True, timeout=30, check=True, text=True,
    )  # fmt: skip
    limits, warning, *_ = done.stdout.split("\n")
    return limits, warning


@pytest.mark.parametrize(
    ("soft", "hard", "limits"), [(100, 1000, "1000 1000 100"), (1000, 1000, "1000 1000 None")]
)
def test_soft_limit_is_raised_to_the_hard_limit(soft: int, hard: int, limits: str) -> None:
    assert run(soft, hard) == (limits, "")


def test_limit_below_the_needs_of_an_agent_is_reported() -> None:
    assert run(100, 767)[1] == (
        "this process may open 767 descriptors, but 128 streams (max_streams), 512 connections to"
        " the control port and 128 others can be open at once; expected a limit of 768 or more"
        " (ulimit -n, LimitNOFILE= of systemd), or a smaller max_streams"
    )
    assert run(100, 768)[1] == ""


def test_script_gets_the_soft_limit_of_the_start() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(soft, 200) - 1
    command = limiting_command(HandlerOptions(), None, lower)
    done = subprocess.run(
        ["/bin/sh", "-c", command, "ulimit -n; ulimit -Hn"],
        capture_output=True, timeout=30, check=True, text=True,
    )  # fmt: skip
    shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    assert done.stdout.split() == [str(lower), shown]
