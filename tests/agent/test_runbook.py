"""The runbook has an entry for each warning and error that an agent can log, and no others."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_log_lines import log_calls

ROOT = Path(__file__).parents[2] / "trioserf"
RUNBOOK = ROOT / "agent" / "RUNBOOK.md"
LEVELS = frozenset(("warning", "error", "exception", "critical"))
_VALUE = re.compile(r"%(?:\(\w+\))?[-#0 +.\d]*[a-z]")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def texts_of(node: ast.AST | None, scope: ast.AST) -> Iterator[str]:
    """Yield the texts that an expression can have, values as `…`.

    Args:
        node: the expression.
        scope: the function, or the module, in which its variables are assigned.
    """
    match node:
        case ast.Constant(value=str(text)):
            yield _VALUE.sub("…", text).replace("%%", "%")
        case ast.JoinedStr(values=values):
            yield "".join(
                str(one.value) if isinstance(one, ast.Constant) else "…" for one in values
            )
        case ast.IfExp(body=first, orelse=second):
            yield from texts_of(first, scope)
            yield from texts_of(second, scope)
        case ast.Name(id=name):
            for one in scope.body if isinstance(scope, ast.Module) else ast.walk(scope):
                if isinstance(one, ast.Assign | ast.AnnAssign) and name in _targets(one):
                    yield from texts_of(one.value, scope)


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [one.id for one in targets if isinstance(one, ast.Name)]


def parameters(function: ast.AST) -> set[str]:
    """Return the names of a function's parameters."""
    if not isinstance(function, _Function):
        return set()
    return {one.arg for one in (*function.args.args, *function.args.kwonlyargs)}


def scoped(node: ast.AST, scope: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield each node below one, with the function around it."""
    for child in ast.iter_child_nodes(node):
        yield child, scope
        yield from scoped(child, child if isinstance(child, _Function) else scope)


def line_expression(call: ast.Call, logs: set[int]) -> ast.expr | None:
    """Return the text of a call that logs a warning or an error, or makes one for the log."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    first = call.args[0] if call.args else None
    if id(call) in logs:
        return call.args[1] if name == "log" else first if name in LEVELS else None
    if name in ("line", "_line") and isinstance(first, ast.Constant):
        return call.args[1] if first.value in ("WARN", "ERR") else None
    if ast.unparse(call.func).endswith("warnings.append"):
        return first
    if name == "_warnings" and len(call.args) == 2:
        return ast.JoinedStr([ast.Constant("…; "), call.args[1]])
    if name == "Finding" and any(one.arg == "is_warning" for one in call.keywords):
        return call.args[1]
    return None


def lines_of(source: str) -> Iterator[tuple[str, str]]:
    """Yield the warnings and errors of a module, and where each stands."""
    tree = ast.parse(source)
    logs = {id(call) for call in log_calls(tree)}
    for node, scope in scoped(tree, tree):
        if isinstance(node, _Function) and node.name.endswith("_warning"):
            for one in ast.walk(node):
                if isinstance(one, ast.Return):
                    yield from ((text, node.name) for text in texts_of(one.value, node) if text)
        if not isinstance(node, ast.Call):
            continue
        expression = line_expression(node, logs)
        if expression is None or ast.unparse(expression) in parameters(scope):
            continue  # the callers of a function that passes its text on are found
        where = f"{node.lineno}: {ast.unparse(expression)}"
        found = [*texts_of(expression, scope)] or [*texts_of(expression, tree)]
        if not found and id(node) in logs:
            found = [where]
        # A text alone is a warning of the configuration, or of a function `…_warning`.
        yield from ((text, where) for text in found if text != "…")


def all_lines() -> dict[str, str]:
    """Return the lines of all modules that an agent uses, each with a place in the code."""
    return {
        text: f"{path.relative_to(ROOT)}:{where}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.relative_to(ROOT).parts[0] != "sim"
        for text, where in lines_of(path.read_text("utf-8"))
    }


def entries() -> list[str]:
    """Return the lines in the tables of the runbook."""
    rows = re.findall(r"^\| `(.+?)` \|", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    return [row.replace("\\|", "|") for row in rows]


def test_each_warning_and_error_has_an_entry() -> None:
    found, known = all_lines(), entries()
    assert len(found) > 90
    missing = {text: where for text, where in found.items() if text not in known}
    assert not missing, "\n".join(f"{where}: {text}" for text, where in missing.items())


def test_each_entry_is_a_line_of_the_code() -> None:
    found, known = all_lines(), entries()
    assert sorted(set(known)) == sorted(known)
    assert [text for text in known if text not in found] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('_log.warning("a %(b)s %d", x)', ["a … …"]),
        ('_log.info("a")', []),
        ('def f():\n    text = "a" if x else "b %.1f"\n    self._log.error(text)', ["a", "b …"]),
        ("def f(text):\n    self._log.warning(text)", []),
        ('line("WARN", f"{x} lost")', ["… lost"]),
        ('def low_warning():\n    return f"a {b}"', ["a …"]),
        ("_log.warning(unknown())", ["1: unknown()"]),
    ],
)
def test_line_is_found(source: str, expected: list[str]) -> None:
    assert [text for text, _ in lines_of(source)] == expected


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", RUNBOOK.read_text("utf-8")))
def test_link_leads_to_a_heading(link: str) -> None:
    path, _, anchor = link.partition("#")
    text = ((RUNBOOK.parent / path) if path else RUNBOOK).read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
    assert not anchor or anchor in slugs
