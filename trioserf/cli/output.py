"""Output of a command: text or JSON to a standard stream, as bytes, flushed at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from trioserf.cli.go_format import go_json, to_bytes
from trioserf.control.errors import ControlError
from trioserf.printable import printable

FAILED = 1
"""Exit code of every failure."""
_LAYOUT = "\n\t"
"""Control characters of the formats themselves."""


_HINTS = {
    "auth_required": "-rpc-auth=KEY or SERF_RPC_AUTH presents a key",
    "auth_failed": "-rpc-auth=KEY or SERF_RPC_AUTH presents another key",
    "protocol": "-rpc-addr names the agent's control port, 7373 by default, not its gossip port",
}
"""What mends an error, by its code."""


class CommandError(Exception):
    """A command that failed: Serf's text, and a code with details for JSON.

    `hint` is what mends it: a line on standard error, or a field in JSON.
    """

    def __init__(
        self,
        text: str,
        code: str = "failed",
        details: Mapping[str, Any] | None = None,
        hint: str = "",
    ) -> None:
        self.text = text
        self.code = code
        self.details = details or {}
        self.hint = hint or _HINTS.get(code, "")
        super().__init__(text)

    @property
    def record(self) -> dict[str, Any]:
        """The error in JSON."""
        message = self.text.strip()
        hint = {"hint": self.hint} if self.hint else {}
        return {"error": {"code": self.code, "message": message, **self.details, **hint}}


class UsageError(Exception):
    """Words that do not form a valid command line; the usage text follows the message."""


class OutputError(Exception):
    """Output that could not be written, for example to a full disk."""


class ReaderClosedError(OutputError):
    """Output whose reader has closed the pipe."""


class Output:
    """A standard stream of one command.

    Surrogate escapes in text are written as the original bytes. Every method but
    `line_best_effort` raises OutputError if the stream cannot be written.

    Args:
        stream: the stream.
        json: whether the format is JSON.
        stderr: standard error, for `explain`.
    """

    def __init__(
        self, stream: BinaryIO, *, json: bool = False, stderr: BinaryIO | None = None
    ) -> None:
        self.stream = stream
        self.json = json
        self.stderr = stderr

    def line(self, text: str = "", payload: str = "") -> None:
        """Write a line of text and a payload, unless the format is JSON.

        Control characters are escaped, except newlines and tabs: escape these in names and other
        text of members (`printable`). The payload is unchanged unless the stream is a terminal.
        """
        if not self.json:
            if payload and self.stream.isatty():
                payload = printable(payload, _LAYOUT)
            self.write(to_bytes(printable(text, _LAYOUT) + payload) + b"\n")

    def line_best_effort(self, text: str = "") -> None:
        """Write a line if possible: an agent continues without a reader."""
        with suppress(OutputError):
            self.line(text)

    def explain(self, text: str, code: str) -> None:
        """Write one line to standard error, if possible, about what Serf is silent on.

        In JSON it is an object like those of errors, with this code.
        """
        if self.stderr is None:
            return
        line = f"trioserf: {printable(text)}"
        if self.json:
            line = go_json(CommandError(text, code).record, indent=None)
        Output(self.stderr).line_best_effort(line)

    def record(self, record: Any, *, indent: int | None = 2) -> None:
        """Write a JSON document, if the format is JSON."""
        if self.json:
            self.write(to_bytes(go_json(record, indent=indent)) + b"\n")

    def write(self, data: bytes) -> None:
        """Write bytes."""
        try:
            self.stream.write(data)
            self.stream.flush()
        except BrokenPipeError as error:
            raise ReaderClosedError(error.strerror) from error
        except OSError as error:
            raise OutputError(error.strerror) from error

    def error(self, error: CommandError) -> None:
        """Write an error in the requested format; its hint as text goes to standard error."""
        self.line(error.text)
        self.record(error.record)
        if error.hint and not self.json:
            self.explain(error.hint, error.code)


@contextmanager
def reporting_errors(prefix: str, hints: Mapping[str, str] | None = None) -> Iterator[None]:
    """Convert an agent's error to `prefix: reason`.

    Args:
        prefix: what failed.
        hints: what mends it, by the error's code.

    Raises:
        CommandError: for every ControlError raised in the block.
    """
    try:
        yield
    except ControlError as error:
        text = f"{prefix}: {error_reason(error)}"
        hint = (hints or {}).get(error.code, "")
        raise CommandError(text, error.code, error.details, hint) from error


def error_reason(error: ControlError) -> str:
    """Return the reason of an error, with Serf's text if Serf has one."""
    return "client closed" if error.code == "disconnected" else error.message


def check_format(output_format: str, text: str = "Invalid format: {}") -> bool:
    """Return whether the format is JSON.

    Args:
        output_format: value of the option.
        text: the error's text, with `{}` in place of the format.

    Raises:
        CommandError: the format is neither text nor JSON.
    """
    if output_format not in ("text", "json"):
        raise CommandError(
            text.format(output_format), "bad_request", hint="the formats are text and json"
        )
    return output_format == "json"
