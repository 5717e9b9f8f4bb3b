"""Go's text formats: numbers, booleans, quoting, JSON, and Serf's text in columns.

Scripts compare these texts, so they follow Go 1.19, with which Serf's packages are built.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trioserf.printable import printable

PARSE_ERROR = "parse error"
OUT_OF_RANGE = "value out of range"

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_INT64 = 2**63
_JSON_ESCAPE = re.compile(r"\\.|[<>&\x7f-\x9f\u2028-\u202e\u2066-\u2069\udc80-\udcff]")
_JSON_SHORT = {"\\b": "\\u0008", "\\f": "\\u000c"}
_QUOTE_SHORT = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    '"': '\\"', "\\": "\\\\",
}  # fmt: skip


def parse_bool(text: str) -> bool:
    """Parse a boolean as Go does.

    Raises:
        ValueError: not a boolean.
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(PARSE_ERROR)


def parse_int(text: str) -> int:
    """Parse a 64-bit integer in any of Go's notations: 16, 0x10, 0b1_0000, 020.

    Raises:
        ValueError: not an integer, or out of range.
    """
    digits = text.lstrip("+-")
    if not digits or len(text) - len(digits) > 1 or not digits.isascii() or " " in digits:
        raise ValueError(PARSE_ERROR)
    old_octal = len(digits) > 1 and digits[0] == "0" and (digits[1].isdigit() or digits[1] == "_")
    try:
        value = int("0o" + digits[1:] if old_octal else digits, 0)
    except ValueError:
        raise ValueError(PARSE_ERROR) from None
    value = -value if text.startswith("-") else value
    if not -_INT64 <= value < _INT64:
        raise ValueError(OUT_OF_RANGE)
    return value


def quote(text: str) -> str:
    """Quote text as Go's `%q`: printable characters unchanged, all others escaped."""
    return '"' + "".join(map(_quote_one, text)) + '"'


def _quote_one(char: str) -> str:
    if char in _QUOTE_SHORT:
        return _QUOTE_SHORT[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if char.isprintable():
        return char
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def go_syntax(value: Any, *, inner: bool = False) -> str:
    """Format a value received over msgpack as Go's `%#v`; `inner` if it is part of another one.

    Numbers from 128 on arrive unsigned, and Go formats those in hexadecimal.
    """
    match value:
        case None:
            return "interface {}(nil)" if inner else "<nil>"
        case bool():
            return str(value).lower()
        case int():
            return hex(value) if value >= 128 else str(value)
        case str():
            return quote(value)
        case bytes():
            kind = "uint8" if inner else "byte"
            return f"[]{kind}{{{', '.join(map(hex, value))}}}"
        case Mapping():
            pairs = (f"{quote(key)}:{go_syntax(value[key], inner=True)}" for key in sorted(value))
            return f"map[interface {{}}]interface {{}}{{{', '.join(pairs)}}}"
        case list():
            items = ", ".join(go_syntax(item, inner=True) for item in value)
            return f"[]interface {{}}{{{items}}}"
    return str(value)


def go_json(value: Any, *, indent: int | None = 2) -> str:
    """Encode JSON as Go does: `<`, `>` and `&` escaped, invalid UTF-8 as U+FFFD.

    Unlike Go, escape all characters that `printable` escapes.

    Objects keep their order. `indent=None` puts everything on one line.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, indent=indent, ensure_ascii=False, separators=separators)
    return _JSON_ESCAPE.sub(_json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    text = found[0]
    if text[0] == "\\":
        return _JSON_SHORT.get(text, text)
    return "\\ufffd" if "\udc80" <= text <= "\udcff" else f"\\u{ord(text):04x}"


def sorted_keys(value: Any) -> Any:
    """Sort the keys of every object, as Go does when it encodes a map."""
    if isinstance(value, Mapping):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [sorted_keys(item) for item in value]
    return value


def to_text(data: bytes) -> str:
    """Decode UTF-8; invalid bytes become surrogate escapes."""
    return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Encode UTF-8; surrogate escapes become the original bytes."""
    return text.encode("utf-8", "surrogateescape")


def columns(rows: Iterable[Sequence[str]], gap: str = "  ") -> str:
    """Align rows of printable cells in columns, each as wide as its widest cell, as Serf does.

    The last cell of a row is not padded, and white space around the whole text is removed.
    """
    table = [[printable(cell) for cell in row] for row in rows]
    widths: list[int] = []
    for row in table:
        for column, cell in enumerate(row):
            if column == len(widths):
                widths.append(0)
            widths[column] = max(widths[column], len(cell))
    lines = [
        gap.join([*(c.ljust(w) for c, w in zip(row[:-1], widths, strict=False)), *row[-1:]])
        for row in table
    ]
    return "\n".join(lines).strip()
