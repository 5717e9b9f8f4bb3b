"""Durations in the format of Go: 300ms, 1.5h, 1h30m."""

import re
from collections.abc import Mapping
from typing import Final

_PARSE_ERROR: Final = "parse error"
_UNITS: Mapping[str, int] = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
}
_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_PART = re.compile(r"(\d*)\.?(\d*)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_INT64 = 2**63


def parse_duration(text: str) -> float:
    """Parse a duration such as 300ms, 1.5h or 1h30m; return seconds.

    Raises:
        ValueError: not a duration: every number but a plain 0 needs a unit.
    """
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError(_PARSE_ERROR)
    total = 0
    for whole, fraction, unit in _PART.findall(text):
        scale = _UNITS[unit]
        total += int(whole or "0") * scale
        total += int(fraction or "0") * scale // 10 ** len(fraction)
    if total >= _INT64:
        raise ValueError(_PARSE_ERROR)
    return (-total if text.startswith("-") else total) / 1e9
