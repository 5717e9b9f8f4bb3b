"""Lines of the agent's log, and their formats (see agent/README.md, § Log lines)."""

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import attrs

from trioserf.value_objects import ValueObject

TRACE: Final = 5
LEVELS: Final = {
    "TRACE": TRACE,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERR": logging.ERROR,
}
FORMATS: Final = ("text", "json")
NO_FIELDS: Final[Mapping[str, Any]] = MappingProxyType({})
OWN_FIELDS: Final = frozenset(("time", "level", "source", "message"))
"""Names that no named value of a log call may have."""
_NAMES: Final = {level: name for name, level in LEVELS.items()}
_PRIORITIES: Final = {"TRACE": 7, "DEBUG": 7, "INFO": 6, "WARN": 4, "ERR": 3}
"""Priorities of syslog, as the journal of systemd reads them in front of a line."""


def level_name(level: int) -> str:
    """Return Serf's name of a level of `logging`."""
    known = _NAMES.get(level)
    if known is not None:
        return known
    for name, least in reversed(LEVELS.items()):
        if level >= least:
            return name
    return "TRACE"


def utc_text(instant: datetime) -> str:
    """Format an instant in UTC: ISO 8601 with milliseconds and `Z`."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@lru_cache(maxsize=16)
def _local_second(timestamp: int) -> str:
    """Format a second in local time: a burst of lines has few different ones."""
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(timestamp))


@attrs.frozen(eq=False, repr=False)
class LogLine(ValueObject):
    """One line of the log.

    Attributes:
        time: the time of the record, in UTC.
        level: TRACE, DEBUG, INFO, WARN or ERR.
        source: the logger below `trioserf`: serf, memberlist, agent, agent.ipc ...
        message: the text.
        fields: the values in the text that have a name (see `fields_of`).
    """

    time: datetime
    level: str
    source: str
    message: str
    fields: Mapping[str, Any] = NO_FIELDS

    @property
    def text(self) -> str:
        """The line as Serf writes it, in local time, with milliseconds, without a newline."""
        since_epoch = self.time - _EPOCH
        local = _local_second(since_epoch.days * 86_400 + since_epoch.seconds)
        milliseconds = self.time.microsecond // 1000
        return f"{local}.{milliseconds:03} [{self.level}] {self.source}: {self.message}"

    @property
    def record(self) -> dict[str, Any]:
        """The line as an object of JSON."""
        return {
            "time": utc_text(self.time),
            "level": self.level,
            "source": self.source,
            "message": self.message,
            **self.fields,
        }


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the named values of a record, as JSON has them.

    A call names its values by `%(member)s` in the text and a dict:
    `_log.info("lost '%(member)s'", {"member": name})`. Values without a name are in the text only.
    """
    values = record.args
    if not isinstance(values, Mapping):
        return NO_FIELDS
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in values.items()
        if name not in OWN_FIELDS
    }


class LogFormat:
    """Formats lines for a stream or a file.

    Attributes:
        json: one object of JSON a line, in place of Serf's text.
        priorities: a priority such as `<4>` before each line, for systemd's journal.
    """

    def __init__(self, *, json: bool = False, priorities: bool = False) -> None:
        self.json = json
        self.priorities = priorities

    def __call__(self, line: LogLine) -> str:
        """Return a line with its newline; text may have further lines, which begin with a tab."""
        text = json.dumps(line.record) if self.json else line.text
        if self.priorities:
            prefix = f"<{_PRIORITIES[line.level]}>"
            text = prefix + text.replace("\n", f"\n{prefix}")
        return f"{text}\n"
