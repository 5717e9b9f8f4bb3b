"""From JSON to settings: strict types, and every error with its key.

Plain cattrs accepts "false" for True and 3.9 for 3; here another type than the declared one is an
error, except for what Serf accepts: keys in any case, null for nothing, 5.0 for 5. Types that
JSON does not have, such as durations, have hooks. Each value is converted by itself, because a
file holds only some of the keys of a configuration class.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NewType

import attrs
import cattrs

from trioserf.agent.durations import parse_duration
from trioserf.errors import ConfigError
from trioserf.settings import key_of, setting_of, settings_of

Addresses = NewType("Addresses", tuple[str, ...])
"""One address, or a list of them."""
Tags = dict[str, str]
Texts = list[str]

_LISTED: Final = 8
"""An object with at most this many keys: an error about an unknown one lists them all."""
_SHOWN: Final = 80
"""Characters of a value in an error."""
_KINDS: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class InvalidValue(NamedTuple):
    """An error of a value.

    Attributes:
        key: the key, with a dot into an object.
        message: what was expected, with the value unless that is secret.
        value: the value; None if it is secret, or must not be shown for another reason.
    """

    key: str
    message: str
    value: Any = None


class _MismatchError(ValueError):
    """A value of another kind; the text is what was expected, without the value."""


def kind_name(value: object) -> str:
    """Return the name of a JSON type for an error."""
    return _KINDS.get(type(value), type(value).__name__)


def shown(value: object) -> str:
    """Return a value as JSON has it, for an error; a long one is cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _strict(kind: type) -> Any:
    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise _MismatchError(f"expected {_KINDS[kind]}")
        return value

    return structure


def _whole(value: object, _: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise _MismatchError(f"expected {_KINDS[int]}")
    return value


def _seconds(value: object, _: object) -> float:
    expected = 'expected a duration such as "30s"'
    if not isinstance(value, str):
        raise _MismatchError(expected)
    try:
        seconds = parse_duration(value)
    except ValueError:
        raise _MismatchError(expected) from None
    if seconds < 0:
        raise _MismatchError("expected a duration of 0s or more")
    return seconds


def _addresses(value: object, _: object) -> tuple[str, ...]:
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one for one in several):
        raise _MismatchError("expected an address such as 127.0.0.1:7373, or a list of them")
    return tuple(several)


def _list_of_texts(value: object, _: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str | None) for one in value):
        raise _MismatchError("expected a list of texts")
    return [one or "" for one in value]


def _object_of_texts(value: object, _: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _MismatchError("expected an object of texts")
    wrong = [name for name, text in value.items() if not isinstance(text, str | None)]
    if wrong:
        raise _MismatchError(f"expected text for {', '.join(map(repr, wrong))}")
    return {name: text or "" for name, text in value.items()}


def _no_object(_: object, __: object) -> object:
    raise _MismatchError("expected an object")  # `Structurer` takes objects apart


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()
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
    converter.register_structure_hook_func(attrs.has, _no_object)
    return converter


class Structurer:
    """Makes values of Python from JSON objects of settings.

    Args:
        kind: the configuration class that declares the settings, by itself or in a class that it
            contains.
    """

    def __init__(self, kind: type) -> None:
        self._converter = _converter()
        self._fields = settings_of(kind)

    def __call__(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[InvalidValue]]:
        """Check an object of settings.

        As in Serf, the case of keys does not matter, and null counts as absent.

        Returns:
            The valid values by key, without those that mean "not set", those of an object as a
            dict; and all errors.
        """
        problems: list[InvalidValue] = []
        return self._object(values, self._fields, "", problems), problems

    def _object(
        self,
        values: Mapping[str, Any],
        fields: Mapping[str, "attrs.Attribute[Any]"],
        path: str,
        problems: list[InvalidValue],
    ) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for key, value in _declared(values, fields, path, problems).items():
            field = fields.get(key)
            if field is None:
                text = f"unknown key; {_alternative(key, list(fields))}"
                problems.append(InvalidValue(path + key, text))
            elif field.type is not None and attrs.has(field.type) and isinstance(value, dict):
                inner = attrs.fields_dict(field.type)
                settings[key] = self._object(value, inner, f"{path}{key}.", problems)
            else:
                found, errors = self._value(field, value)
                settings |= found
                problems += (InvalidValue(path + error.key, *error[1:]) for error in errors)
        return settings

    def _value(
        self, field: "attrs.Attribute[Any]", value: Any
    ) -> tuple[dict[str, Any], list[InvalidValue]]:
        """Return a checked value by its key, or nothing if it means "not set"; and its errors.

        Of Serf's keys, Go's zero values are not set; false counts if the default is true.
        """
        key, kind, declared = key_of(field), field.type or object, setting_of(field)
        is_secret = declared is not None and declared.secret
        try:
            structured = self._converter.structure(value, kind)
            if _is_unset(field, structured):
                return {}, []
            if field.validator is not None:
                field.validator(None, field, structured)
        except _MismatchError as error:
            text = f"{error}, not {kind_name(value) if is_secret else shown(value)}"
            return {}, [InvalidValue(key, text, None if is_secret else value)]
        except (ValueError, ConfigError) as error:
            lines = [line.removeprefix(f"{key}: ") for line in str(error).splitlines()]
            return {}, [InvalidValue(key, line, None if is_secret else value) for line in lines]
        return {key: structured}, []


def _is_unset(field: "attrs.Attribute[Any]", value: object) -> bool:
    declared = setting_of(field)
    is_serf = declared is not None and declared.serf
    return is_serf and field.default is not True and value in ("", 0, False)


def _declared(
    values: Mapping[str, Any],
    fields: Mapping[str, "attrs.Attribute[Any]"],
    path: str,
    problems: list[InvalidValue],
) -> dict[str, Any]:
    """Return values under the keys as they are declared, without nulls; unknown keys stay."""
    declared = {key.lower(): key for key in fields}
    found: dict[str, Any] = {}
    for given, value in values.items():
        key = declared.get(given.lower(), given)
        if key in found:
            text = f"this key is there twice; expected only {key}"
            problems.append(InvalidValue(path + given, text))
        found[key] = value
    return {key: value for key, value in found.items() if value is not None}


def _alternative(key: str, names: Sequence[str]) -> str:
    """Return the key that was perhaps meant, or all keys if they are few."""
    import difflib

    close = difflib.get_close_matches(key, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    if len(names) <= _LISTED:
        return f"expected {', '.join(names)}"
    return "no key has a similar name"
