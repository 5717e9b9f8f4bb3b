"""Checks of arguments: a caller's mistake raises in the call, with what was expected.

Each check takes the argument's name and value, and returns the value to use. A wrong type raises a
TypeError, a wrong value a ValueError.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from trioserf.errors import InvalidQuery

MAX_RELAY_FACTOR = 255
_SHOWN = 40
"""Characters of a value in an error."""

T = TypeVar("T")


def wrong_type(name: str, expected: str, value: object, *, secret: bool = False) -> TypeError:
    """Return the error for a value of a wrong type; it does not show a value that is secret."""
    kind, shown = type(value).__name__, repr(value)
    if secret or value is None:
        return TypeError(f"{name}: expected {expected}, not {kind if secret else None}")
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}…"
    return TypeError(f"{name}: expected {expected}, not {shown} ({kind})")


def text(name: str, value: object) -> str:
    """Check a text. Bytes of names that are not UTF-8 may be in it as surrogate escapes.

    Raises:
        TypeError: not a str.
        ValueError: it has a surrogate that does not represent such a byte.
    """
    if not isinstance(value, str):
        raise wrong_type(name, "a str", value)
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ValueError(
                f"{name}: {value[:_SHOWN]!r} has a lone surrogate, which cannot be encoded"
            ) from None
    return value


def texts(name: str, values: object, kind: type = str) -> tuple[str, ...]:
    """Check several texts, in a list or another iterable; a single text is not one.

    Args:
        name: the argument's name.
        values: the argument.
        kind: items of this class are accepted as well, and converted with `str`.
    """
    expected = "a list of str"
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        hint = f"{expected} such as [{values!r}]" if isinstance(values, str) else expected
        raise wrong_type(name, hint, values)
    return tuple(
        text(f"{name}[{index}]", str(value) if isinstance(value, kind) else value)
        for index, value in enumerate(values)
    )


def text_mapping(name: str, values: object) -> dict[str, str]:
    """Check a mapping of texts to texts."""
    if not isinstance(values, Mapping):
        raise wrong_type(name, "a dict of str to str", values)
    return {text(f"{name} key", k): text(f"{name}[{k!r}]", v) for k, v in values.items()}


def payload(name: str, value: object) -> bytes:
    """Check bytes."""
    if not isinstance(value, bytes):
        hint = "bytes, such as b'…' or text.encode()" if isinstance(value, str) else "bytes"
        raise wrong_type(name, hint, value)
    return value


def key(name: str, value: object, kind: type, hint: str = "") -> None:
    """Check the class of an encryption key, which no error shows."""
    if not isinstance(value, kind):
        raise wrong_type(name, kind.__name__ + hint, value, secret=True)


def flag(name: str, value: object) -> bool:
    """Check True or False."""
    if not isinstance(value, bool):
        raise wrong_type(name, "True or False", value)
    return value


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """Check a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an int", value)
    if value < least or (most is not None and value > most):
        end = " or more" if most is None else f" to {most}"
        raise ValueError(f"{name}: expected {least}{end}, not {value}")
    return value


def number(name: str, value: object) -> float:
    """Check a number that is not NaN; whole ones are numbers too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(name, "a number", value)
    try:
        if not math.isnan(value):
            return float(value)
    except OverflowError:
        raise ValueError(f"{name}: the number is too large") from None
    raise ValueError(f"{name}: expected a number, not {value}")


def one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Check that a text is one of several."""
    if text(name, value) not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, not {value!r}")


def instance(name: str, value: object, kind: type[T]) -> T:
    """Check an object of a class."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise wrong_type(name, f"{article} {kind.__name__}", value, secret=True)
    return value


def function(name: str, value: Callable[..., object]) -> None:
    """Check something that can be called."""
    if not callable(value):
        raise wrong_type(name, "a function", value)


def methods(name: str, value: object, *names: str) -> None:
    """Check an object that has these methods."""
    for method in names:
        if not callable(getattr(value, method, None)):
            raise wrong_type(name, f"an object with the methods {', '.join(names)}", value)


def check_query_numbers(timeout: object, relay_factor: object, first: object) -> None:
    """Check the numbers of a query.

    Raises:
        InvalidQuery: a number out of its range, in Serf's words if it has some.
        TypeError: not a number.
    """
    try:
        whole("relay_factor", relay_factor, 0, MAX_RELAY_FACTOR)
    except ValueError:
        raise InvalidQuery(f"Relay factor must be between 0 and {MAX_RELAY_FACTOR}") from None
    try:
        if timeout is not None and number("timeout", timeout) < 0:
            raise InvalidQuery("The timeout of a query cannot be negative")
    except ValueError as error:
        raise InvalidQuery(str(error)) from None
    if first is not None:
        try:
            whole("first", first, 1)
        except ValueError:
            raise InvalidQuery("A query must wait for at least one response") from None
