"""From JSON to settings: strict types, and every error with its key.

Plain cattrs accepts "false" for True and 3.9 for 3; here another type than the declared one is an
error, except for what Serf accepts: keys in any case, null for nothing, 5.0 for 5. Types that
JSON does not have, such as durations, have hooks. Each value is converted by itself, because a
file holds only some of the keys of a configuration class.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NewType

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
from trioserf.settings import setting_of, settings_of

Structure = Callable[[Mapping[str, Any]], dict[str, Any]]
Addresses = NewType("Addresses", tuple[str, ...])
"""One address, or a list of them."""
Tags = dict[str, str]
Texts = list[str]

_LISTED: Final = 8
"""An object with at most this many keys: an error about an unknown one lists them all."""
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
    """Return the name of a JSON type for an error."""
    return _KINDS.get(type(value), type(value).__name__)


def _strict(kind: type) -> Any:
    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise ValueError(f"expected {_KINDS[kind]}, not {kind_name(value)}")
        return value

    return structure


def _whole(value: object, _: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise ValueError(f"expected {_KINDS[int]}, not {kind_name(value)}")
    return value


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
    if not isinstance(value, list) or not all(isinstance(one, str | None) for one in value):
        raise ValueError(f"expected a list of texts, not {kind_name(value)}")
    return [one or "" for one in value]


def _object_of_texts(value: object, _: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - an error of a file
            f"expected an object of texts, not {kind_name(value)}"
        )
    for name, text in value.items():
        if not isinstance(text, str | None):
            raise ValueError(  # noqa: TRY004
                f"expected text for {name!r}, not {kind_name(text)}"
            )
    return {name: text or "" for name, text in value.items()}


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (bool, str):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook(int, _whole)
    converter.register_structure_hook(float, _seconds)
    converter.register_structure_hook_func(lambda t: t is Addresses, _addresses)
    converter.register_structure_hook_func(lambda t: t == Texts, _list_of_texts)
    converter.register_structure_hook_func(
        lambda t: t == tuple[str, ...], lambda value, kind: tuple(_list_of_texts(value, kind))
    )
    converter.register_structure_hook_func(lambda t: t == Tags, _object_of_texts)
    return converter


def canonical(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return values under the keys as they are declared, without nulls.

    As in Serf, the case of keys does not matter, and null counts as absent.

    Args:
        values: values by key; unknown keys stay as they are.
        kind: the configuration class (see `structurer`), or the class of an object of settings.

    Raises:
        ConfigError: a line for each key that is there twice, in different case.
    """
    fields = settings_of(kind) or {field.name: field for field in attrs.fields(kind)}
    declared = {key.lower(): key for key in fields}
    found: dict[str, Any] = {}
    errors: list[str] = []
    for given, value in values.items():
        key = declared.get(given.lower(), given)
        if key in found:
            errors.append(f"{given}: this key is there twice; expected only {key}")
        found[key] = value
    for key, value in found.items():
        inner = fields[key].type if key in fields else None
        if inner is not None and attrs.has(inner) and isinstance(value, dict):
            try:
                found[key] = canonical(value, inner)
            except ConfigError as error:
                errors += [f"{key}.{line}" for line in str(error).splitlines()]
    if errors:
        raise ConfigError("\n".join(errors))
    return {key: value for key, value in found.items() if value is not None}


def structurer(kind: type) -> Structure:
    """Return a function that makes values of Python from a JSON object of settings.

    Args:
        kind: the configuration class that declares the settings, by itself or in a class that it
            contains.

    Returns:
        The function. It takes values as `canonical` returns them, and returns checked values by
        key, without those that mean "not set". It raises ConfigError with a line for each error,
        with its key.
    """
    converter = _converter()
    fields = settings_of(kind)

    def structure(values: Mapping[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        errors: list[str] = []
        for key, value in values.items():
            field = fields.get(key)
            if field is None:
                errors.append(f"{key}: unknown key; {_alternative(key, list(fields))}")
                continue
            try:
                settings |= _structured(converter, field, key, value)
            except ClassValidationError as error:
                errors += _errors(error, key)
            except ConfigError as error:
                errors.append(str(error))
        if errors:
            raise ConfigError("\n".join(errors))
        return settings

    return structure


def _structured(
    converter: cattrs.Converter, field: "attrs.Attribute[Any]", key: str, value: Any
) -> dict[str, Any]:
    """Return a checked value by its key, or nothing if it means "not set".

    Of Serf's keys, Go's zero values are not set; false counts if the default is true.

    Raises:
        ClassValidationError: errors in an object.
        ConfigError: another error.
    """
    kind = field.type or object
    if attrs.has(kind) and not isinstance(value, dict):
        raise ConfigError(f"{key}: expected an object, not {kind_name(value)}")
    try:
        structured = converter.structure(value, kind)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    declared = setting_of(field)
    if declared and declared.serf and field.default is not True and structured in ("", 0, False):
        return {}
    if field.validator is not None:
        try:
            field.validator(None, field, structured)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return {key: structured}


def _errors(error: BaseException, path: str) -> Iterable[str]:
    """List the errors of a nest of validation errors as `key: what was expected`."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        with_notes, others = error.group_exceptions()
        for inner, note in with_notes:
            key = note.index if isinstance(note, IterableValidationNote) else note.name
            yield from _errors(inner, f"{path}.{key}")
        for inner in others:
            yield from _errors(inner, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        names = [field.name for field in attrs.fields(error.cl)]
        for key in sorted(error.extra_fields):
            yield f"{path}.{key}: unknown key; {_alternative(key, names)}"
    else:
        text = str(error) if type(error) is ValueError else format_exception(error, None)
        yield f"{path}: {text}"


def _alternative(key: str, names: Sequence[str]) -> str:
    """Return the key that was perhaps meant, or all keys if they are few."""
    import difflib

    close = difflib.get_close_matches(key, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    if len(names) <= _LISTED:
        return f"expected {', '.join(names)}"
    return "no key has a similar name"
