"""Import this first: the script is run by the project's own Python, and finds the project.

Another Python is kept if the project is installed there, with what it needs.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_VENV = ROOT / ".venv"
_PYTHON = _VENV / "bin" / "python"

if find_spec("trioserf") is None and _PYTHON.exists() and Path(sys.prefix) != _VENV:
    os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606
sys.path.insert(0, str(ROOT))
