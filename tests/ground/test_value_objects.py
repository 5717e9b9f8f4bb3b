"""Value objects: comparison, hash and text; and that the agent's classes generate none."""

import subprocess
import sys

import attrs

from trioserf.value_objects import ValueObject

GENERATED = """
import attr, sys
import trioserf.cli.commands.agent_process
kinds = {
    kind
    for module in list(sys.modules.values()) if module.__name__.startswith("trioserf")
    for kind in vars(module).values() if isinstance(kind, type) and attr.has(kind)
}
assert len(kinds) > 50, kinds
print(*sorted(kind.__name__ for kind in kinds if {"__eq__", "__repr__"} & vars(kind).keys()))
"""


@attrs.frozen(eq=False, repr=False)
class _Point(ValueObject):
    x: int
    y: list[int]
    size: int = attrs.field(default=0, eq=False)
    secret: str = attrs.field(default="", repr=False)


@attrs.frozen(eq=False, repr=False)
class _Other(ValueObject):
    x: int


@attrs.frozen(eq=False, repr=False)
class _Empty(ValueObject):
    pass


def test_equality_is_that_of_class_and_compared_fields() -> None:
    assert _Point(1, [2], size=3) == _Point(1, [2], size=4)
    assert _Point(1, [2]) != _Point(1, [3])
    assert _Point(1, [2]) != _Point(1, [2], secret="x")
    assert _Other(1) == _Other(1)
    assert _Other(1) != 1
    assert _Empty() == _Empty()
    assert _Empty() != _Other(1)


def test_hash_is_that_of_class_and_compared_fields() -> None:
    assert {_Other(1), _Other(1), _Other(2), _Empty(), _Empty()} == {
        *(_Other(1), _Other(2), _Empty())
    }


def test_text_has_the_shown_fields() -> None:
    assert repr(_Point(1, [2], secret="x")) == "_Point(x=1, y=[2], size=0)"
    assert repr(_Empty()) == "_Empty()"


def test_only_mutable_results_of_an_agent_have_generated_methods() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GENERATED], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["KeyQueryResult"]
