"""Runs command lines within the test's own process."""

import io
from collections.abc import Sequence
from typing import Any

import attrs

from trioserf.cli.output import Out
from trioserf.cli.program import run

CLOSED = "127.17.0.250:7373"
"""Nobody listens there."""


@attrs.frozen
class Printed:
    code: int
    out: str
    err: str


def ran(words: Sequence[str], **env: str) -> Printed:
    """Run one command line to its end."""
    out, err = io.BytesIO(), io.BytesIO()
    code = run(words, out, err, env)
    return Printed(code, out.getvalue().decode(), err.getvalue().decode())


class Page:
    """An `Out` whose text can be read."""

    def __init__(self, **wishes: Any) -> None:
        self._written = io.BytesIO()
        self.out = Out(self._written, **wishes)

    @property
    def text(self) -> str:
        return self._written.getvalue().decode("utf-8", "surrogateescape")
