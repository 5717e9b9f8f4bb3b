"""Comparison and text of the frozen classes, without generated code.

attrs compiles the methods of each class at import. Comparison and text are half of that, and a
process that starts would wait for them, so that `ValueObject` has them once for all classes.
"""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

import attrs


class ValueObject:
    """Base of attrs classes that have neither `eq` nor `repr`.

    Value objects are equal if they have the same class and equal fields, and can be hashed if the
    fields can be. Fields with `eq=False` or `repr=False` are left out.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(_compared(self) == _compared(other))

    def __hash__(self) -> int:
        return hash((type(self), _compared(self)))

    def __repr__(self) -> str:
        fields = [field.name for field in attrs.fields(type(self)) if field.repr]  # type: ignore[arg-type]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
        return f"{type(self).__name__}({shown})"


def _compared(record: object) -> Any:
    """Return the values that are compared."""
    kind: Any = type(record)  # which mypy does not take as hashable
    return _getter(kind)(record)


@cache
def _getter(kind: type) -> Callable[[object], Any]:
    names = [field.name for field in attrs.fields(kind) if field.eq]
    return attrgetter(*names) if names else lambda _: ()
