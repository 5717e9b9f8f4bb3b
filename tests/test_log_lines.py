"""No line of the log shows a Python object as Python writes it.

`conftest.py` checks the values of every line that a test causes; this checks the source of all.
"""

import ast
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import has_own_text
from trioserf.address import Address

ROOT = Path(__file__).parent.parent / "trioserf"
METHODS = frozenset(("debug", "info", "warning", "error", "exception", "critical", "log"))
_REPR = re.compile(r"%(?:\(\w+\))?[-#0 +.\d]*[ra]")


def log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls of a logger, whose name ends with `log`, or that `log_of` returned."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if node.func.attr in METHODS and re.search(r"log(\(.*\))?$|log_of\(.*\)$", owner):
                yield node


def is_representation(node: ast.AST) -> bool:
    """Return whether an expression asks for the representation of a value."""
    match node:
        case ast.Constant(value=str(text)):
            return bool(_REPR.search(text))
        case ast.FormattedValue(conversion=conversion):
            return conversion in (ord("r"), ord("a"))
        case ast.Name(id=name):
            return name in ("repr", "ascii")
    return False


def python_notation(calls: Iterable[ast.Call]) -> list[str]:
    """Return the log calls that ask for the representation of a value."""
    return [ast.unparse(call) for call in calls if any(map(is_representation, ast.walk(call)))]


def test_log_lines_have_no_representation() -> None:
    sources = [ast.parse(path.read_text("utf-8")) for path in ROOT.rglob("*.py")]
    calls = [call for source in sources for call in log_calls(source)]
    assert len(calls) > 130
    assert python_notation(calls) == []


@pytest.mark.parametrize(
    "line",
    ['_log.info("%r", x)', '_log.info("%(x)r", {"x": x})', '_log.debug("a %.80r", x)',
     '_log.error("%s", f"{x!r}")', 'self._log.warning("%s", repr(x))',
     'log_of(script).info("%r", x)'],
)  # fmt: skip
def test_representation_is_found(line: str) -> None:
    assert len(python_notation(log_calls(ast.parse(line)))) == 1


@pytest.mark.parametrize("value", ["text", 7, 0.5, Address("127.0.0.1", 1), ValueError("x")])
def test_value_with_a_text_of_its_own_is_logged(value: object) -> None:
    assert has_own_text(value)
    logging.getLogger("trioserf.test").info("%s", value)


@pytest.mark.parametrize(
    "value", [None, True, b"", [], {}, (), {1}, object(), int, OSError(2, "x"), KeyError("x")]
)
def test_value_that_python_would_write_is_an_error(value: object) -> None:
    with pytest.raises(AssertionError, match="shows a Python object"):
        logging.getLogger("trioserf.test").error("%s", value)
