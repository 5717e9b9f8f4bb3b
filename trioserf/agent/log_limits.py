"""Limits for log lines that other hosts can cause (see agent/README.md, § Limits of log lines).

Lines are counted by their template, the text before values are filled in, and by source: the first
address among the values, in INFO lines the first value, which is the name of a member, in lines
about runs of a handler its script.
"""

import logging
import re
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from trioserf.address import Address
from trioserf.rate_limit import TokenBucket

INTERVAL: Final = 10.0
"""Seconds between two reports of lines that were left out."""
UNLIMITED: Final = "trioserf.agent"
"""The logger of what the operator causes: start, configuration, joins."""
LIMITED_BY: Final = "limited_by"
"""The attribute of a record of this logger that is limited, as those about runs of a handler are.

Its value is the source; set it with `extra`.
"""
_BURST: Final = 10
"""Lines of one template and source at once; then one a second."""
_BURST_OF_ALL: Final = 20
"""Lines of one template at once; then two a second."""
_MAX_TEMPLATES: Final = 256
"""Templates with a limit of their own, more than there are in the program."""
_MAX_SOURCES: Final = 1024
"""Sources with a limit of their own; a sender can forge more, which `_BURST_OF_ALL` limits."""
_MORE: Final = "%d more lines like: %s"
_VALUE_NAME: Final = re.compile(r"%\(\w+\)")


@attrs.define(eq=False, repr=False)
class _Template:
    logger: str
    level: int
    bucket: TokenBucket = attrs.field(factory=lambda: TokenBucket(2.0, _BURST_OF_ALL))
    left_out: int = 0


class LogLimits(logging.Filter):
    """A filter for the handler of the log: leaves out lines over the limits, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self._templates: dict[str, _Template] = {}
        self._sources: dict[tuple[str, str], TokenBucket] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        is_limited = record.name != UNLIMITED or hasattr(record, LIMITED_BY)
        if not is_limited or record.msg is _MORE:
            return True
        text = str(record.msg)
        template = self._templates.get(text)
        if template is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                text = "(other lines)"
            template = self._templates.setdefault(text, _Template(record.name, record.levelno))
        bucket = self._bucket(text, _source(record))
        now = record.created
        if bucket.has(1, now) and (record.levelno == logging.INFO or template.bucket.take(1, now)):
            return bucket.take(1, now)
        template.left_out += 1
        return False

    def report(self) -> None:
        """Log the number of lines left out since the last report, one line for each template."""
        for text, template in self._templates.items():
            count, template.left_out = template.left_out, 0
            if count:
                shown = _VALUE_NAME.sub("%", text)
                logging.getLogger(template.logger).log(template.level, _MORE, count, shown)

    async def run(self) -> None:
        """Report every ten seconds until cancelled."""
        while True:
            await trio.sleep(INTERVAL)
            self.report()

    def _bucket(self, template: str, source: str) -> TokenBucket:
        key = template, source
        bucket = self._sources.get(key)
        if bucket is None:
            if len(self._sources) >= _MAX_SOURCES:
                del self._sources[next(iter(self._sources))]
            bucket = self._sources[key] = TokenBucket(1.0, _BURST)
        return bucket


def _source(record: logging.LogRecord) -> str:
    if hasattr(record, LIMITED_BY):
        return str(getattr(record, LIMITED_BY))
    values = record.args or ()
    if isinstance(values, Mapping):
        values = tuple(values.values())
    if record.levelno == logging.INFO:
        return values[0] if values and isinstance(values[0], str) else ""
    return next((value.host for value in values if isinstance(value, Address)), "")
