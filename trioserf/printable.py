r"""Text of other members for logs and terminals, without control characters.

Members choose names, tags and payloads. Raw, these could end a line, control a terminal, or
show text in another order than it has.
"""

import re
from typing import Final

LOGGED_NAME: Final = 64
"""Characters of a name in a log line."""
_LOGGED_BYTES: Final = 96
_CUT: Final = "…"
_CONTROLS: Final = re.compile(
    "[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\udc80-\udc9f]"
)
"""C0, DEL, C1, line and paragraph separators, changes of the direction of text, and bytes that
are not UTF-8 and mean C1 to a terminal without UTF-8."""


def printable(text: str, keep: str = "") -> str:
    r"""Replace control characters by escapes such as `\x1b`, `\n` and `\u2028`.

    All other text is unchanged, backslashes too: the result is to be read, not parsed.

    Args:
        text: the text; bytes that are not UTF-8 are surrogate escapes.
        keep: control characters that remain.
    """
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def short_name(name: str) -> str:
    """Cut a name to 64 characters and 96 bytes, with `…` at its end, for a log line.

    Escapes count as the log shows them. A name that is short enough is unchanged.
    """
    if len(name) <= LOGGED_NAME and name.isascii() and name.isprintable():
        return name
    shown = printable(name)
    data = shown[: LOGGED_NAME + 1].encode("utf-8", "backslashreplace")
    if len(shown) <= LOGGED_NAME and len(data) <= _LOGGED_BYTES:
        return name
    data = shown[: LOGGED_NAME - 1].encode("utf-8", "backslashreplace")
    return data[: _LOGGED_BYTES - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT


def _escape(control: str) -> str:
    if control >= "\udc80":
        return f"\\x{ord(control) - 0xDC00:02x}"
    # The codec `unicode_escape` would be imported here, which fails without free descriptors.
    return repr(control)[1:-1]
