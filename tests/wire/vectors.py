"""The golden bytes of the real program."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

_PATH = Path(__file__).parent.parent / "vectors"


def load(name: str) -> Any:
    """Read one of the files of vectors."""
    return json.loads((_PATH / f"{name}.json").read_text())


def octets(text: str | None) -> bytes:
    """Read a byte string, which JSON carries in base64."""
    return b64decode(text or "")
