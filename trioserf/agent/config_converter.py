"""From JSON to values of a class: strict, and with every fault told by its key.

Plain cattrs takes "false" for True and 3.9 for 3; here a value has the type that it should have,
or it is a fault. The types beyond those of JSON have hooks of their own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NewType, TypeVar, get_args

import attrs
import cattrs
from cattrs.errors import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.v import format_exception

from trioserf.agent.durations import parse_duration
from trioserf.errors import ConfigError

T = TypeVar("T")

Seconds = NewType("Seconds", float)
"""A duration: text with units in a file, seconds here."""
Addresses = NewType("Addresses", tuple[str, ...])
"""One address, or a list of them."""
Tags = dict[str, str]
Texts = list[str]

_LISTED: Final = 8
"""So many keys are worth naming to somebody who has named another one."""
_KINDS: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def kind_name(value: object) -> str:
    """Name what JSON gave, for whoever reads an error."""
    return _KINDS.get(type(value), type(value).__name__)


def _strict(kind: type) -> Any:
    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise ValueError(f"expected {_KINDS[kind]}, not {kind_name(value)}")
        return value

    return structure


def _seconds(value: object, _: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f'expected a duration such as "30s", not {kind_name(value)}')  # noqa: TRY004
    try:
        seconds = parse_duration(value)
    except ValueError:
        raise ValueError(f'expected a duration such as "30s", not {value!r}') from None
    if seconds < 0:
        raise ValueError(f"expected a duration of 0s or more, not {value!r}")
    return seconds


def _addresses(value: object, _: object) -> tuple[str, ...]:
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one for one in several):
        raise ValueError("expected an address such as 127.0.0.1:7373, or a list of them")
    return tuple(several)


def _list_of_texts(value: object, _: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"expected a list of texts, not {kind_name(value)}")
    return value


def _object_of_texts(value: object, _: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - a fault of a file
            f"expected an object of texts, not {kind_name(value)}"
        )
    for name, text in value.items():
        if not isinstance(text, str):
            raise ValueError(  # noqa: TRY004
                f"expected text for {name!r}, not {kind_name(text)}"
            )
    return value


def _optional(hook: Any) -> Any:
    return lambda value, kind: None if value is None else hook(value, kind)


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook_func(lambda t: t is Seconds, _seconds)
    converter.register_structure_hook_func(
        lambda t: Seconds in get_args(t) and type(None) in get_args(t), _optional(_seconds)
    )
    converter.register_structure_hook_func(lambda t: t is Addresses, _addresses)
    converter.register_structure_hook_func(lambda t: t == Texts, _list_of_texts)
    converter.register_structure_hook_func(lambda t: t == Tags, _object_of_texts)
    return converter


def structurer(kind: type[T]) -> Callable[[Mapping[str, Any]], T]:
    """Give a function that makes values of a class of JSON objects.

    It is dear to make, so it is to be kept for as long as there are objects, and then let go.

    Args:
        kind: the class, one of attrs.

    Returns:
        The function. It raises ConfigError with a line for every fault, each with its key.
    """
    converter = _converter()

    def structured(values: Mapping[str, Any]) -> T:
        try:
            return converter.structure(values, kind)
        except ClassValidationError as error:
            raise ConfigError("\n".join(_faults(error))) from None

    return structured


def _faults(error: BaseException, path: str = "") -> Iterable[str]:
    """Tell every fault of a nest of validation errors as `key: what was expected`."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        with_notes, others = error.group_exceptions()
        for inner, note in with_notes:
            key = note.index if isinstance(note, IterableValidationNote) else note.name
            yield from _faults(inner, f"{path}.{key}" if path else str(key))
        for inner in others:
            yield from _faults(inner, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        names = [field.name for field in attrs.fields(error.cl)]
        for key in sorted(error.extra_fields):
            above = f"{path}." if path else ""
            yield f"{above}{key}: unknown key; {_instead(key, names)}"
    else:
        text = str(error) if type(error) is ValueError else format_exception(error, None)
        yield f"{path}: {text}"


def _instead(key: str, names: Sequence[str]) -> str:
    """Say what was perhaps meant, or what there is."""
    import difflib

    close = difflib.get_close_matches(key, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    if len(names) <= _LISTED:
        return f"expected {', '.join(names)}"
    return "no key is spelled like it"
