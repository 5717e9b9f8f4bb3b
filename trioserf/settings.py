"""Settings: fields of configuration classes that are keys of configuration files.

The declaration of a field holds everything about its key: type, default, bounds and meaning. The
agent reads files by these declarations, and the reference in agent/README.md is generated from
them (`tests/agent/test_reference.py`).
"""

import math
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, Final, NamedTuple, TypeVar, get_args, get_origin

import attrs

from trioserf.arguments import wrong_type

T = TypeVar("T")
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

_METADATA: Final = "setting"


class Setting(NamedTuple):
    """Properties of a key beside type, default and bounds.

    Attributes:
        help: the meaning, one line of Markdown.
        key: the key, if not the name of the field.
        shown: the default as the reference shows it, if not the value.
        serf: the key is one of Serf's.
        secret: no text shows the value.
        reloads: a reload applies a changed value; others take effect with the next start.
    """

    help: str
    key: str
    shown: str
    serf: bool
    secret: bool
    reloads: bool


def setting(
    default: T,
    help: str,  # noqa: A002 - the word of command lines
    *,
    key: str = "",
    shown: str = "",
    serf: bool = False,
    secret: bool = False,
    reloads: bool = False,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    check: Validator | None = None,
) -> T:
    """Declare a field of an attrs class that is a key of configuration files.

    A field of type float is a duration: text with a unit in a file, seconds in the object.

    Args:
        default: the default, or an `attrs.Factory`.
        help: see `Setting`; as are `key`, `shown`, `serf`, `secret` and `reloads`.
        key: see there.
        shown: see there.
        serf: see there.
        secret: see there; the object's repr omits the value.
        reloads: see there.
        least: least value that is valid.
        most: greatest value that is valid.
        above: the value must be greater than this.
        check: another validator; raises ValueError or ConfigError.
    """
    bounded = (least, most, above) != (None, None, None)
    value: T = attrs.field(
        default=default,
        repr=not secret,
        validator=_in_range(least, most, above) if bounded else check,
        metadata={_METADATA: Setting(help, key, shown, serf, secret, reloads)},
    )
    return value


def _in_range(least: float | None, most: float | None, above: float | None) -> Validator:
    def validate(_: object, field: "attrs.Attribute[Any]", value: Any) -> None:
        if value is None or (
            (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
        ):
            return
        if least is None:
            expected = f"more than {_shown(above, field)}"
        else:
            end = " or more" if most is None else f" to {_shown(most, field)}"
            expected = _shown(least, field) + end
        raise ValueError(f"{key_of(field)}: expected {expected}, not {_shown(value, field)}")

    return validate


def one_of(choices: Sequence[str]) -> Validator:
    """Return a validator of a text that must be one of these."""

    def validate(_: object, field: "attrs.Attribute[Any]", value: str) -> None:
        if value not in choices:
            raise ValueError(f"{key_of(field)}: expected {' or '.join(choices)}, not {value!r}")

    return validate


def zero_or_at_least(least: int) -> Validator:
    """Return a validator of a number of bytes; 0 switches the limit off."""

    def validate(_: object, field: "attrs.Attribute[Any]", value: int) -> None:
        if value and value < least:
            raise ValueError(f"{key_of(field)}: expected 0 or {least} bytes or more, not {value}")

    return validate


def _shown(value: float | None, field: "attrs.Attribute[Any]") -> str:
    return f"{value:g} s" if field.type is float else str(value)


_TYPES: Final[dict[object, tuple[tuple[type, ...], str]]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "an int"),
    float: ((int, float), "a number"),
    str: ((str,), "a str"),
}
"""For each simple type the classes that are accepted, and their name in errors."""


def checked_types(_: type, fields: "list[attrs.Attribute[Any]]") -> "list[attrs.Attribute[Any]]":
    """Make each field of an attrs class check the type of its value (a `field_transformer`).

    A wrong type is a TypeError that names key, expectation and value. The items of containers
    need a check of their own.
    """
    return [field.evolve(validator=_of_type(field)) for field in fields]


def _of_type(field: "attrs.Attribute[Any]") -> Validator:
    kinds = [kind for kind in get_args(field.type) if kind is not type(None)]
    is_union = isinstance(field.type, UnionType)
    kind: Any = kinds[0] if is_union else field.type
    accepted, expected = _TYPES.get(kind) or _class_of(kind)
    if is_union:
        accepted, expected = (*accepted, type(None)), f"{expected} or None"
    then = field.validator

    def validate(instance: object, _: "attrs.Attribute[Any]", value: Any) -> None:
        # A bool is an int for Python; a user who writes one means something else.
        if not isinstance(value, accepted) or (isinstance(value, bool) and int in accepted):
            raise wrong_type(key_of(field), expected, value, secret=kind not in _TYPES)
        if kind is float and isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key_of(field)}: expected a finite number, not {value}")
        if then is not None:
            then(instance, field, value)

    return validate


def _class_of(kind: Any) -> tuple[tuple[type, ...], str]:
    """Return the class of another type, and its name in errors."""
    found = get_origin(kind) or kind
    if found is tuple:
        return (tuple, list), "a list"
    return (found,), f"a {found.__name__}" if found.__name__ != "Callable" else "a function"


def setting_of(field: "attrs.Attribute[Any]") -> Setting | None:
    """Return what was declared with `setting`; None for another field."""
    return field.metadata.get(_METADATA)


def key_of(field: "attrs.Attribute[Any]") -> str:
    """Return the key of a field in configuration files; its name if it has none."""
    declared = setting_of(field)
    return (declared.key if declared else "") or field.name


def settings_of(kind: type) -> dict[str, "attrs.Attribute[Any]"]:
    """Return all fields that are keys, by key, those of contained classes included."""
    found: dict[str, attrs.Attribute[Any]] = {}
    for field in attrs.fields(kind):
        if setting_of(field):
            found[key_of(field)] = field
        elif field.type is not None and attrs.has(field.type):
            found |= settings_of(field.type)
    return found


def build(kind: type[T], values: dict[str, Any]) -> T:
    """Build an object and the objects it contains from values by key; missing ones are default.

    The value of a key that is an object may be a dict of its fields.

    Raises:
        ConfigError, ValueError: a value that is not valid.
    """
    own: dict[str, Any] = {}
    for field in attrs.fields(kind):  # type: ignore[arg-type]
        if setting_of(field):
            if key_of(field) in values:
                value = values[key_of(field)]
                is_nested = field.type is not None and attrs.has(field.type)
                own[field.name] = (
                    field.type(**value) if is_nested and isinstance(value, dict) else value
                )
        elif field.type is not None and attrs.has(field.type):
            own[field.name] = build(field.type, values)
    return kind(**own)


def values_of(config: Any) -> dict[str, Any]:
    """Return the values of an object and of the objects it contains, by key."""
    found: dict[str, Any] = {}
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        if setting_of(field):
            found[key_of(field)] = value
        elif field.type is not None and attrs.has(field.type):
            found |= values_of(value)
    return found
