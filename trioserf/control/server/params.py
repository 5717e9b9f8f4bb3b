"""Parameters of commands: types, defaults and errors."""

import binascii
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from trioserf.control.errors import ControlError
from trioserf.serf.keyring import KEY_SIZES
from trioserf.value_objects import ValueObject

Check = Callable[[object, str], Any]
"""Takes a value and its path; returns the value to use or raises `bad_request`."""


def bad_request(message: str) -> ControlError:
    """Return an error of a request."""
    return ControlError("bad_request", message)


def _expected(path: str, expected: str, value: object) -> ControlError:
    return bad_request(f"{path}: expected {expected}, got {_json_type(value)}")


def _json_type(value: object) -> str:
    """Return the name of a value's type in JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return _digits(value)
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _digits(value: float) -> str:
    """Format a number; a long one is cut off."""
    digits = repr(value)
    return digits if len(digits) <= 40 else f"{digits[:40]}... ({len(digits)} characters)"


def text(value: object, path: str) -> str:
    """Accept a string; lone surrogates only where they represent bytes that are not UTF-8."""
    if not isinstance(value, str):
        raise _expected(path, "a string", value)
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise bad_request(f"{path}: holds a lone surrogate") from None
    return value


def texts(value: object, path: str) -> list[str]:
    """Accept an array of strings."""
    if not isinstance(value, list):
        raise _expected(path, "an array of strings", value)
    return [text(item, f"{path}[{index}]") for index, item in enumerate(value)]


def nonempty_texts(value: object, path: str) -> list[str]:
    """Accept an array of at least one string."""
    found = texts(value, path)
    if not found:
        raise bad_request(f"{path}: expected at least one string")
    return found


def mapping(value: object, path: str) -> dict[str, str]:
    """Accept an object whose values are strings."""
    if not isinstance(value, dict):
        raise _expected(path, "an object of strings", value)
    return {text(k, f"{path} key"): text(v, f"{path}.{k}") for k, v in value.items()}


def flag(value: object, path: str) -> bool:
    """Accept true and false only."""
    if not isinstance(value, bool):
        raise _expected(path, "true or false", value)
    return value


def seconds(value: object, path: str) -> float:
    """Accept a number of seconds above zero, up to a year."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _expected(path, "a number of seconds", value)
    if not 0 < value <= 31_536_000:  # neither NaN nor infinity
        raise _expected(path, "seconds above 0 and up to 31536000", value)
    return float(value)


def integer(low: int, high: int) -> Check:
    """Return a check for whole numbers from `low` to `high`."""

    def check(value: object, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _expected(path, f"a whole number from {low} to {high}", value)
        if not low <= value <= high:
            raise bad_request(f"{path}: expected {low} to {high}, got {_digits(value)}")
        return value

    return check


def one_of(*choices: str) -> Check:
    """Return a check for one of these strings."""

    def check(value: object, path: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise bad_request(f"{path}: expected one of {', '.join(choices)}")
        return value

    return check


def sequence(value: object, path: str) -> int | float | str:
    """Accept a seq: a number or a string."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _expected(path, "a number or a string", value)
    return value


def key(value: object, path: str) -> bytes:
    """Accept an encryption key in base64: 16, 24 or 32 bytes."""
    decoded = base64_bytes(value, path)
    if len(decoded) not in KEY_SIZES:
        raise bad_request(f"{path}: expected a key of 16, 24 or 32 bytes, got {len(decoded)}")
    return decoded


def payload_text(value: object, path: str) -> bytes:
    """Accept a payload given as text."""
    if not isinstance(value, str):
        raise _expected(path, "a string", value)
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise bad_request(
            f"{path}: holds a lone surrogate; bytes that are not UTF-8 go into {path}_base64"
        ) from None


def base64_bytes(value: object, path: str) -> bytes:
    """Accept bytes in padded base64, without line breaks."""
    if not isinstance(value, str):
        raise _expected(path, "a string in base64", value)
    try:
        return binascii.a2b_base64(value, strict_mode=True) if value else b""
    except ValueError as error:
        raise bad_request(f"{path}: not base64: {error}") from None


REQUIRED: Any = object()
"""The default of a parameter that has none."""


@attrs.frozen(eq=False, repr=False)
class Param(ValueObject):
    """One parameter of a command; `target` is the handler's argument if the names differ."""

    name: str
    check: Check
    default: Any = REQUIRED
    target: str = ""


PAYLOAD = (
    Param("payload", payload_text, b""),
    Param("payload_base64", base64_bytes, b"", target="payload"),
)
"""A payload as text, or in base64; either, never both."""


class Params:
    """The parameters of one command."""

    def __init__(self, *params: Param) -> None:
        self._checks = {param.name: (param.target or param.name, param.check) for param in params}
        self._required = tuple(param.name for param in params if param.default is REQUIRED)
        self._defaults = {
            param.target or param.name: param.default
            for param in params
            if param.default is not REQUIRED
        }

    @property
    def required_names(self) -> tuple[str, ...]:
        """The names of the parameters without a default."""
        return self._required

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in the order of declaration."""
        return tuple(self._checks)

    def read(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Return the parameters of a request, without `command` and `seq`.

        Raises:
            ControlError: `bad_request`, with the path of the wrong parameter.
        """
        values = self._defaults.copy()
        targets: set[str] = set()
        for name, value in request.items():
            if name in ("command", "seq"):
                continue
            known = self._checks.get(name)
            if known is None:
                raise bad_request(f"{name}: unknown parameter{self._hint()}")
            target, check = known
            if target in targets:
                raise bad_request(f"{name}: give {target} or {target}_base64, not both")
            targets.add(target)
            values[target] = check(value, name)
        for name in self._required:
            if name not in targets:
                raise bad_request(f"{name}: required, but missing")
        return values

    def _hint(self) -> str:
        return f" (known: {', '.join(self._checks)})" if self._checks else " (there are none)"
