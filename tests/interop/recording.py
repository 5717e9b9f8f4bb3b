"""What handlers find: each call's environment and input, written down by a script."""

import base64
from pathlib import Path

import attrs

from tests.interop.agents import until


@attrs.frozen
class Call:
    """One run of a handler."""

    env: dict[str, str]
    stdin: bytes

    @property
    def event(self) -> str:
        """What it ran for."""
        return self.env["SERF_EVENT"]

    @property
    def members(self) -> dict[str, tuple[str, str, frozenset[str]]]:
        """The members that it was told of, by name: address, role, and tags in no order."""
        found = {}
        for line in self.stdin.decode("utf-8", "surrogateescape").splitlines():
            name, address, role, tags = line.split("\t")
            found[name] = (address, role, frozenset(tags.split(",")))
        return found


class Recorder:
    """The calls of one agent's handler.

    Args:
        path: the file in which they gather.
        filters: the events that are recorded.
    """

    def __init__(self, path: Path, filters: str = "*") -> None:
        self._path = path
        self.option = f"-event-handler={filters}={self.script}"

    @property
    def script(self) -> str:
        """Write a line of environment and a line of input, each base64, and print nothing."""
        return (
            f"{{ env -0 | grep -z ^SERF_ | base64 -w0; echo; base64 -w0; echo; }} >>{self._path}"
        )

    def calls(self) -> list[Call]:
        """Give the calls that have ended, in their order."""
        if not self._path.exists():
            return []
        *lines, _ = self._path.read_bytes().split(b"\n")
        pairs = zip(lines[::2], lines[1::2], strict=False)
        return [Call(_env(base64.b64decode(env)), base64.b64decode(text)) for env, text in pairs]

    def of(self, event: str, about: str = "") -> list[Call]:
        """Give the calls for one kind of event, and for one member or one name of events."""
        return [
            call
            for call in self.calls()
            if call.event == event
            and (
                not about
                or about in (call.env.get("SERF_USER_EVENT"), call.env.get("SERF_QUERY_NAME"))
                or (event.startswith("member-") and about in call.members)
            )
        ]

    def wait(self, event: str, about: str, seconds: float = 70.0) -> Call:
        """Wait for a call, and give it."""
        until(lambda: bool(self.of(event, about)), seconds, lambda: f"no {event} of {about}")
        return self.of(event, about)[0]


def _env(data: bytes) -> dict[str, str]:
    pairs = data.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return dict(pair.split("=", 1) for pair in pairs)
