"""What a command writes: text or JSON to standard output, as bytes, flushed at once."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from trioserf.cli.golang import bytes_of, go_json
from trioserf.control.errors import ControlError

FAILED = 1
"""Exit code of every failure."""


class Failure(Exception):
    """A command that failed: `text` is what Serf prints, `code` and `details` go into JSON."""

    def __init__(
        self, text: str, code: str = "failed", details: Mapping[str, Any] | None = None
    ) -> None:
        self.text = text
        self.code = code
        self.details = details or {}
        super().__init__(text)

    @property
    def record(self) -> dict[str, Any]:
        """The failure in JSON."""
        message = self.text.strip()
        return {"error": {"code": self.code, "message": message, **self.details}}


class Misuse(Exception):
    """Words that make no command: the usage text follows."""


class OutputLost(OSError):
    """Output that cannot be written, as on a full disk.

    Where only its reader has gone, it is a BrokenPipeError instead.
    """


class Out:
    """Standard output of one command; `json` says that the user wants JSON.

    Text may hold surrogate escapes, which are written as the bytes that they stand for. Whatever
    writes raises OutputLost or BrokenPipeError if it cannot, `notice` excepted.
    """

    def __init__(self, stream: BinaryIO | None = None, *, json: bool = False) -> None:
        self.stream = stream or sys.stdout.buffer
        self.json = json

    def line(self, text: str = "") -> None:
        """Write a line of text; nothing where JSON is wanted."""
        if not self.json:
            self.write(bytes_of(text) + b"\n")

    def notice(self, text: str = "") -> None:
        """Write a line if that is possible: of an agent, which goes on without a reader."""
        with suppress(OSError):
            self.line(text)

    def record(self, record: Any, *, indent: int | None = 2) -> None:
        """Write a JSON document; nothing where text is wanted."""
        if self.json:
            self.write(bytes_of(go_json(record, indent=indent)) + b"\n")

    def write(self, data: bytes) -> None:
        """Write bytes."""
        try:
            self.stream.write(data)
            self.stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error


@contextmanager
def failing(prefix: str) -> Iterator[None]:
    """Tell what an agent refuses as `prefix: reason`.

    Raises:
        Failure: for every ControlError from within.
    """
    try:
        yield
    except ControlError as error:
        raise Failure(f"{prefix}: {reason_of(error)}", error.code, error.details) from error


def reason_of(error: ControlError) -> str:
    """Say what went wrong, in Serf's words where it has some."""
    return "client closed" if error.code == "disconnected" else error.message


def check_format(wanted: str, text: str) -> bool:
    """Tell whether JSON is wanted.

    Raises:
        Failure: neither text nor JSON; `text` says it, with the format in place of `{}`.
    """
    if wanted not in ("text", "json"):
        raise Failure(text.format(wanted), "bad_request")
    return wanted == "json"
