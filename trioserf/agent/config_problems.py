"""Errors of a configuration, each with its source, key, value and expectation."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from trioserf.agent.config import AgentConfig


class Finding(NamedTuple):
    """What a check found: an error, or a warning.

    Attributes:
        key: the key, with a dot into an object.
        message: what was expected, with the value unless that is secret.
        item: the number of the item, if the value is a list.
        others: further keys that the message is about.
        lacks: keys that have no value, though they need one because of `key`.
        is_serfs: the message begins like one of Serf's.
        is_warning: an agent starts all the same.
    """

    key: str
    message: str
    item: int | None = None
    others: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    is_serfs: bool = False
    is_warning: bool = False


Check = Callable[[AgentConfig], Iterable[Finding]]
"""Checks one part of a configuration of valid types; keys with errors have their defaults."""


class Place(NamedTuple):
    """A key and its source: a file, an environment variable, the command line, or the default."""

    source: str
    key: str


class Problem(NamedTuple):
    """An error of a configuration.

    Attributes:
        source: where the value comes from (see `Place`).
        key: the key, with a dot into an object; empty for a whole file or the command line.
        message: what was expected, with the value unless that is secret.
        value: the value as JSON has it; None if it is secret or there is none.
        others: further keys that the message is about.
        is_serfs: the message begins like one of Serf's, so the place follows it.
        is_whole_line: the message is a line of Serf's.
    """

    source: str
    key: str
    message: str
    value: Any = None
    others: tuple[Place, ...] = ()
    is_serfs: bool = False
    is_whole_line: bool = False

    def __str__(self) -> str:
        """Return the error as one line."""
        if self.is_whole_line:
            return self.message
        places = [f"{key} in {source}" for source, key in self.others]
        if self.is_serfs:
            places.insert(0, f"{self.key} in {self.source}")
            return f"{self.message} ({', '.join(places)})"
        text = ": ".join(filter(None, (self.source, self.key, self.message)))
        return f"{text} ({', '.join(places)})" if places else text

    @property
    def record(self) -> dict[str, Any]:
        """The error in JSON."""
        return {
            "source": self.source,
            "key": self.key,
            "value": self.value,
            "message": self.message,
            "others": [place._asdict() for place in self.others],
        }


class Checked(NamedTuple):
    """A configuration that was checked.

    Attributes:
        config: the configuration; keys with errors have their defaults.
        problems: all errors.
        warnings: texts about settings that work, but hardly as intended.
        sources: what was read: files, environment variables, and the command line if it sets keys.
    """

    config: AgentConfig
    problems: list[Problem]
    warnings: list[str]
    sources: list[str]
