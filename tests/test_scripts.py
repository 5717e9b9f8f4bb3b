"""Every script starts and explains itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
PROGRAMS = sorted(
    path.name for path in SCRIPTS.iterdir() if path.is_file() and os.access(path, os.X_OK)
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_script_prints_its_help(name: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / name, "--help"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
