"""Values as Serf's users write and read them: Go's numbers, durations, quoting and JSON.

Scripts compare these texts, so they follow Go 1.19, with which Serf's packages are built.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

PARSE_ERROR = "parse error"
OUT_OF_RANGE = "value out of range"

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_INT64 = 2**63
_JSON_ESCAPE = re.compile(r"\\.|[<>&\u2028\u2029\udc80-\udcff]")
_JSON_SHORT = {"\\b": "\\u0008", "\\f": "\\u000c"}
_QUOTE_SHORT = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    '"': '\\"', "\\": "\\\\",
}  # fmt: skip


def parse_bool(text: str) -> bool:
    """Read a truth value as Go does.

    Raises:
        ValueError: it is none.
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(PARSE_ERROR)


def parse_int(text: str) -> int:
    """Read an integer of 64 bits in any of Go's spellings: 16, 0x10, 0b1_0000, 020.

    Raises:
        ValueError: it is none, or too large.
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
    """Quote as Go's `%q`: printable characters as they are, the others escaped."""
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
    """Write a value that came over msgpack as Go's `%#v`; `inner` where it is part of another.

    Numbers from 128 on came unsigned, which Go writes in hexadecimal.
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
            return f"[]interface {{}}{{{', '.join(go_syntax(one, inner=True) for one in value)}}}"
    return str(value)


def go_json(value: Any, *, indent: int | None = 2) -> str:
    """Write JSON as Go does: two spaces deep, `<`, `>` and `&` escaped, bad bytes as U+FFFD.

    Objects keep their order. `indent=None` gives one line.
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
    """Sort the keys of every object, as Go writes its maps."""
    if isinstance(value, Mapping):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [sorted_keys(one) for one in value]
    return value


def text_of(data: bytes) -> str:
    """Take bytes as text; those that are not UTF-8 travel as surrogate escapes."""
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """Give the bytes of text, those of surrogate escapes too."""
    return text.encode("utf-8", "surrogateescape")
