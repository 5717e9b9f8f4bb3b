"""Wrong values of arguments by kind, for the tables of the node's and the clients' calls."""

import inspect
import math
from collections.abc import Iterator
from typing import Any, Final

UNENCODABLE: Final = "\ud800"

_TEXT: Final = (5, b"x", ["x"], UNENCODABLE)
_TEXTS: Final = ("x", b"x", 5, None, [5], [b"x"], {"a": "b"}, [UNENCODABLE], [["x"]])
_MAPPING: Final = ("x", [("a", "b")], {1: "x"}, {"x": 1}, {"x": b"y"}, {UNENCODABLE: "x"})
_NUMBER: Final = (-1, math.nan, "5", True, b"5", [5], 10**400)

WRONG: Final[dict[str, tuple[object, ...]]] = {
    "text": (*_TEXT, None),
    "text or None": _TEXT,
    "filter": (*_TEXT, None, "nonsense", "member-join:x", "user,", " user", {"user"}),
    "texts": _TEXTS,
    "mapping": (*_MAPPING, None),
    "mapping or None": _MAPPING,
    "payload": ("x", None, 5, bytearray(b"x"), [b"x"]),
    "flag": (None, 1, 0, "no", b"", [True]),
    "flag or None": (1, 0, "no", b"", [True]),
    "flag or Responder": (None, 1, "no", object()),
    "responder or None": (True, "client", 5),
    "id": (-1, 1.5, "1", None, True, b"1", [1]),
    "count from 1": (0, -1, 1.5, "1", None, True),
    "count from 1 or None": (0, -1, 1.5, "1", True),
    "relay factor": (-1, 256, 1.5, "1", None, True),
    "seconds or None": _NUMBER,
    "finite seconds or None": (*_NUMBER, math.inf),
    "seconds above 0": (*_NUMBER, 0, None),
    "function": (5, None, "f", b"f"),
    "key": ("x", 5, [b"x"], bytearray(16), None),
    "base64 key": (b"x", 5, ["x"]),
    "action": ("nonsense", "", 5, None, b"list", ["list"]),
    "keyring or None": (b"x" * 16, "x", [b"x" * 16], 5),
}
"""A kind is the name of what a parameter takes."""


def wrong_calls(
    kinds: dict[str, str], valid: dict[str, object]
) -> Iterator[tuple[str, tuple[object, ...], dict[str, Any]]]:
    """Yield calls with one wrong argument each: a description, and the arguments.

    Args:
        kinds: the kind of each parameter; a name that begins with `*` takes several arguments.
        valid: arguments that are valid, for parameters without a default.
    """
    for parameter, kind in kinds.items():
        for value in WRONG[kind]:
            name = f"{parameter}={value!r}"[:80]
            if parameter.startswith("*"):
                yield name, (value,), dict(valid)
            else:
                yield name, (), {**valid, parameter: value}


def parameters_of(call: object) -> set[str]:
    """Return the names of the parameters of a method; those of several arguments with a `*`."""
    assert callable(call)
    found = inspect.signature(call).parameters.values()
    return {
        f"*{one.name}" if one.kind is one.VAR_POSITIONAL else one.name
        for one in found
        if one.name != "self"
    }


def public_calls(kind: type) -> dict[str, set[str]]:
    """Return the public methods of a class that take arguments, with their parameters."""
    methods = {
        name: parameters_of(member)
        for name, member in inspect.getmembers(kind, inspect.isroutine)
        if not name.startswith("_")
    }
    return {name: found for name, found in methods.items() if found}
