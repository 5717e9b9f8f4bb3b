#!/usr/bin/env python3
"""Write a manual page for the program and for each command, from the declarations of their help.

    scripts/man_pages.py FOLDER

The build of a wheel calls this too, and installs the pages in share/man/man1.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent.parent


class ManualPage:
    """What typer calls to format a help text; formats a manual page."""

    def __init__(self, name: str, summary: str, version: str) -> None:
        self._lines = [
            f'.TH {name.upper().replace("-", chr(92) + "-")} 1 "" "trioserf {version}"',
            *(".SH NAME", f"{escape(name)} \\- {escape(summary.rstrip('.'))}"),
        ]

    def write_usage(self, prog: str, args: str = "") -> None:
        self._lines += [".SH SYNOPSIS", rf"\fB{escape(prog)}\fR {escape(args)}", ".SH DESCRIPTION"]

    def write_paragraph(self) -> None:
        self._lines.append(".PP")

    def write_text(self, text: str) -> None:
        """Write paragraphs; one that begins with \\b keeps its lines, and may have a heading."""
        for paragraph in text.split("\n\n"):
            first, *rest = paragraph.splitlines()
            if first.strip() != "\b":
                self._lines += [".PP", escape(paragraph)]
            elif len(rest) > 1:
                self._lines += [f".SH {rest[0].rstrip(':').upper()}", ".nf"]
                self._lines += [*(escape(line.strip()) for line in rest[1:]), ".fi"]
            else:
                self._lines += [".PP", *(escape(line) for line in rest)]

    def write_dl(self, rows: Sequence[tuple[str, str]]) -> None:
        for term, text in rows:
            self._lines += [".TP", rf"\fB{escape(term.rstrip())}\fR", escape(text)]

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._lines.append(f".SH {escape(name).upper()}")
        yield
        self._lines.append(".PP")

    @contextmanager
    def indentation(self) -> Iterator[None]:
        yield

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def escape(text: str) -> str:
    """Return a text that troff prints as it is: hyphens as typed, no line as a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("§", r"\(sc")
    return "\n".join(rf"\&{line}" if line[:1] in ".'" else line for line in text.splitlines())


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name of each page, and its text."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from typer.main import get_command

    from trioserf._version import __version__
    from trioserf.cli.app import PROGRAM, SerfContext, app

    program: Any = get_command(app)
    context = SerfContext(program, info_name=PROGRAM)
    yield PROGRAM, page(program, context, PROGRAM, __version__)
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        inner = SerfContext(command, parent=context, info_name=name)
        yield f"{PROGRAM}-{name}", page(command, inner, f"{PROGRAM}-{name}", __version__)


def page(command: Any, context: Any, name: str, version: str) -> str:
    formatter = ManualPage(name, command.get_short_help_str(200), version)
    command.format_help(context, formatter)
    return formatter.text()


def write(folder: Path) -> list[Path]:
    """Write all pages; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages():
        written.append(folder / f"{name}.1")
        written[-1].write_text(text, encoding="utf-8")
    return written


class ManualPages(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the pages to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        self._folder = tempfile.TemporaryDirectory()
        for path in write(Path(self._folder.name)):
            build_data["shared_data"][str(path)] = f"share/man/man1/{path.name}"

    def finalize(self, *_: Any) -> None:
        self._folder.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for path in write(parser.parse_args().folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
