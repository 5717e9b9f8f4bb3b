"""Environment variables for keys of the configuration: `TRIOSERF_` and the key in capitals."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from trioserf.agent.config_converter import Addresses, Texts

PREFIX: Final = "TRIOSERF_"
_CLOSE: Final = 0.85
"""How similar an unknown variable must be to be reported; others are none of the agent's, such as
those that Kubernetes sets for a service of this name."""

Variable = tuple[str, dict[str, Any]]
"""A variable, and the object of settings that it stands for."""


def variable_of(key: str) -> str:
    """Return the variable of a key; a dot into an object becomes an underscore."""
    return PREFIX + key.upper().replace(".", "_")


def variables(
    environ: Mapping[str, str], fields: Mapping[str, "attrs.Attribute[Any]"]
) -> tuple[list[Variable], list[str]]:
    """Return the variables that are set, and warnings about misspelt ones.

    An empty variable is not set. Texts and durations are taken as they are, a list is JSON or its
    only item, and everything else is JSON.

    Args:
        environ: all environment variables.
        fields: the declarations of the keys, by key.
    """
    declared = {variable_of(key): (key, kind) for key, kind in _kinds(fields)}
    found: list[Variable] = []
    for name, (key, kind) in declared.items():
        if text := environ.get(name):
            value = _parse(text, kind)
            outer, dot, inner = key.partition(".")
            found.append((name, {outer: {inner: value} if dot else value}))
    unknown = [name for name in environ if name.startswith(PREFIX) and name not in declared]
    return found, list(_misspelt(sorted(unknown), list(declared)))


def _kinds(
    fields: Mapping[str, "attrs.Attribute[Any]"], path: str = ""
) -> Iterator[tuple[str, object]]:
    """Yield all keys with their types, those of objects after the objects."""
    for key, field in fields.items():
        yield path + key, field.type
        if field.type is not None and attrs.has(field.type):
            yield from _kinds(attrs.fields_dict(field.type), f"{path}{key}.")


def _parse(text: str, kind: object) -> Any:
    if kind in (str, float):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    is_list = kind in (Addresses, Texts, tuple[str, ...])
    return [text] if is_list and not isinstance(value, list) else value


def _misspelt(unknown: list[str], names: list[str]) -> Iterator[str]:
    if not unknown:
        return
    import difflib

    for name in unknown:
        close = difflib.get_close_matches(name, names, n=1, cutoff=_CLOSE)
        if close:
            yield f"{name}: no key has this variable; did you mean {close[0]}?"
