"""The public names of `trioserf`, its types, and the examples of the READMEs."""

import ast
import pydoc
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import ClassVar, get_args, get_origin, get_type_hints

import pytest

import trioserf

ROOT = Path(__file__).parent.parent
READMES = sorted([*ROOT.glob("*.md"), *ROOT.glob("trioserf/**/*.md"), *ROOT.glob("tests/*.md")])
GUIDE = (ROOT / "trioserf/node/README.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n|^\n)+", re.MULTILINE)


def examples() -> Iterator[tuple[Path, str]]:
    """Yield the Python examples of all READMEs that import trioserf."""
    for path in READMES:
        text = path.read_text()
        fenced = BLOCK.findall(text)
        indented = map(textwrap.dedent, INDENTED.findall(BLOCK.sub("", text)))
        programs = [block for block in indented if block.lstrip().startswith("import ")]
        for code in [*fenced, *programs]:
            if re.search(r"^(import|from) trioserf", code, re.MULTILINE):
                yield path, code.strip() + "\n"


def type_checked_imports() -> set[str]:
    """Return the names that `trioserf` imports for type checkers."""
    tree = ast.parse(Path(trioserf.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    for node in imports:
        assert node.module is not None
        names = tuple(alias.name for alias in node.names)
        assert trioserf._MODULES[node.module] == names
    return {alias.name for node in imports for alias in node.names}


def test_all_names_are_declared_alike_for_programs_and_type_checkers() -> None:
    loaded = {name for names in trioserf._MODULES.values() for name in names}
    assert set(trioserf.__all__) - {"__version__"} == loaded == type_checked_imports()
    assert len(trioserf.__all__) == len(set(trioserf.__all__))


def test_each_name_is_the_object_of_its_module() -> None:
    for module, names in trioserf._MODULES.items():
        for name in names:
            assert getattr(trioserf, name) is getattr(import_module(module), name)
    with pytest.raises(AttributeError, match="'trioserf' has no attribute 'nonsense'"):
        trioserf.nonsense  # noqa: B018


def test_errors_are_all_public() -> None:
    errors = import_module("trioserf.errors")
    declared = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert declared <= set(trioserf.__all__)


def test_dir_and_help_show_all_names_before_their_first_use() -> None:
    code = "import trioserf, pydoc; print(*dir(trioserf)); print(pydoc.render_doc(trioserf))"
    listed, text = run(code).split("\n", 1)
    assert set(trioserf.__all__) <= set(listed.split())
    plain = pydoc.plain(text)
    for shown in ("class Node(", "class NodeConfig(", "class AgentClient(", " open_node("):
        assert shown in plain


def test_import_of_the_package_loads_nothing_else() -> None:
    code = (
        "import typing, sys; a = set(sys.modules); import trioserf; print(*set(sys.modules) - a)"
    )
    assert set(run(code).split()) == {"trioserf", "trioserf._version"}


@pytest.mark.parametrize(
    ("name", "unwanted"),
    [
        ("connect_any", {"trio", "attr", "asyncio", "ssl", "msgpack"}),
        ("EventFilter", {"trio", "attr"}),
        ("open_node", {"cattrs", "cryptography", "re2", "ifaddr", "json", "asyncio"}),
    ],
)
def test_a_name_loads_only_what_it_needs(name: str, unwanted: set[str]) -> None:
    modules = run(f"import sys, trioserf; trioserf.{name}; print(*sys.modules)").split()
    assert not unwanted & set(modules)


def run(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert not done.stderr, done.stderr.decode()
    return done.stdout.decode()


# --- the guide ---


def rows(header: str) -> list[list[str]]:
    """Return the cells of the table of the guide that has this header."""
    table = GUIDE.split(f"\n{header}", 1)[1].split("\n\n", 1)[0]
    return [row.strip("|").split("|") for row in table.splitlines()[2:]]


def quoted(cell: str) -> set[str]:
    return set(re.findall(r"`([\w.-]+)`", cell))


def test_guide_lists_every_public_name_once() -> None:
    names = [name for cells in rows("| names |") for name in re.findall(r"`(\w+)`", cells[0])]
    assert sorted([*names, "__version__"]) == sorted(trioserf.__all__)


def test_guide_lists_the_kinds_and_fields_of_every_event() -> None:
    of_nodes: list[type] = [
        trioserf.MemberEvent, trioserf.UserEventReceived, trioserf.QueryReceived,
        trioserf.Dropped, trioserf.QueryAck, trioserf.QueryAnswer, trioserf.QueryDone,
    ]  # fmt: skip
    of_clients: list[type] = [
        trioserf.MemberEventRecord, trioserf.UserEventRecord, trioserf.QueryEventRecord,
        *of_nodes[3:],
    ]  # fmt: skip
    table = [list(map(quoted, cells)) for cells in rows("| `kind` | fields |")]
    for (kinds, common, ours, theirs), of_node, of_client in zip(
        table, of_nodes, of_clients, strict=True
    ):
        assert common | ours == fields(of_node)
        assert common | theirs == fields(of_client)
        for one in (of_node, of_client):
            declared = get_type_hints(one)["kind"]
            if get_origin(declared) is ClassVar:
                [declared] = get_args(declared)
            assert kinds == set(get_args(declared))


def fields(kind: type) -> set[str]:
    """Return the fields of an event without its `kind`."""
    names: tuple[str, ...] = kind.__match_args__  # type: ignore[attr-defined]
    return set(names) - {"kind"}


def test_guide_lists_every_logger() -> None:
    sources = [path.read_text() for path in (ROOT / "trioserf").glob("**/*.py")]
    used = {name for text in sources for name in re.findall(r'getLogger\("(\w+\.[\w.]+)"\)', text)}
    assert {name for cells in rows("| logger |") for name in quoted(cells[0])} == used


@pytest.mark.interop
@pytest.mark.parametrize(
    ("heading", "printed"),
    [
        ("## The library", "deploy v1\n"),
        ("### In an asyncio program", "from Trio\n"),
        ("### In a program without an event loop", "sent at 1\n"),
    ],
)
def test_program_of_the_guide_runs(heading: str, printed: str) -> None:
    section = GUIDE.split(f"\n{heading}\n", 1)[1]
    code = BLOCK.search(section)
    assert code is not None
    assert run(code[1]) == printed


# --- types ---


@pytest.mark.slow
def test_examples_of_all_readmes_pass_the_type_checker(tmp_path: Path) -> None:
    found = list(examples())
    rooms = {path.parent.relative_to(ROOT).as_posix() for path, _ in found}
    assert rooms >= {".", "trioserf/node", "trioserf/control", "trioserf/sim"}
    files = [ROOT / "tests/typed_programs.py"]
    for number, (path, code) in enumerate(found):
        files.append(tmp_path / f"example_{number}_of_{path.parent.name or 'root'}.py")
        files[-1].write_text(code)
    options = ["--strict", "--config-file=pyproject.toml"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
