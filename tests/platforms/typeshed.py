"""What Python has on a platform, by the type stubs that mypy brings along (typeshed)."""

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

NATIVE = "linux"


def changes(module: str, platform: str) -> tuple[set[str], set[str]]:
    """Return the names of a module that a platform lacks, and those that only it has."""
    native, there = names(module, NATIVE), names(module, platform)
    return native - there, there - native


def missing_modules(platform: str) -> set[str]:
    """Return the modules of the standard library that a platform lacks."""
    return {
        path.stem
        for path in _stubs().glob("*.pyi")
        if path.stem[0] != "_"
        and "sys.platform" in path.read_text("utf-8")
        and names(path.stem, NATIVE)
        and not names(path.stem, platform)
    }


@cache
def names(module: str, platform: str) -> set[str]:
    """Return the names of a module on a platform, for the Python that runs."""
    stub = _stubs().joinpath(*module.split("."))
    path = stub / "__init__.pyi" if stub.is_dir() else stub.with_suffix(".pyi")
    found = set(_names(ast.parse(path.read_text("utf-8")).body, platform))
    return {name for name in found if name[0] != "_" or name == "_exit"}


def _stubs() -> Path:
    spec = importlib.util.find_spec("mypy")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "typeshed" / "stdlib"


def _names(body: Iterable[ast.stmt], platform: str) -> Iterator[str]:
    for one in body:
        match one:
            case ast.If():
                chosen = one.body if _holds(one.test, platform) else one.orelse
                yield from _names(chosen, platform)
            case ast.ImportFrom():
                yield from (alias.name for alias in one.names if alias.asname == alias.name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                if name != "__all__":
                    yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name


def _holds(test: ast.expr, platform: str) -> bool:
    """Return the value of a condition, in which typeshed uses only these two names of `sys`."""
    text = ast.unparse(test).replace("sys.platform", "platform")
    text = text.replace("sys.version_info", "version_info")
    scope = {"platform": platform, "version_info": sys.version_info, "TYPE_CHECKING": True}
    return bool(eval(text, scope))
