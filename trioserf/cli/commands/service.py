"""`service`: print the files with which a service manager runs an agent."""

import html
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from trioserf.cli.app import ExtensionCommand, more, new_app
from trioserf.cli.completion import complete_from
from trioserf.cli.options import OwnFormat
from trioserf.cli.output import CommandError, Output, UsageError, check_format

FILES: Final = Path(__file__).parents[2] / "agent" / "service"
"""The directory of the files; their program is `_PROGRAM`."""
UNIT: Final = "trioserf.service"
_PROGRAM: Final = "/usr/bin/trioserf"
_PLAIN: Final = re.compile(r"[\w./+@-]+", re.ASCII)

app = new_app()


@app.command(
    cls=ExtensionCommand,
    epilog=more(
        "service print >/etc/systemd/system/trioserf.service",
        "service print --config >/etc/trioserf/agent.json",
        page="trioserf/agent/README.md, § Running as a service",
    ),
)
def service(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="print", autocompletion=complete_from("print")),
    ] = None,
    config: Annotated[
        bool, typer.Option("--config", help="An example of a configuration instead.")
    ] = False,
    socket: Annotated[
        bool, typer.Option("--socket", help="A unit for the control socket instead.")
    ] = False,
    launchd: Annotated[
        bool, typer.Option("--launchd", help="A property list for launchd of macOS instead.")
    ] = False,
    output_format: OwnFormat = "text",
) -> None:
    """Print a unit of systemd for the agent.

    It runs this program as a user of its own, with a control socket in /run/trioserf, and leaves
    the cluster when it is stopped. Nothing is installed; redirect the output.
    """
    out: Output = ctx.obj
    if words != ["print"]:
        raise UsageError(f"Unknown words: {' '.join(words)}" if words else "")
    check_format(output_format)
    choices = {
        "trioserf.json": config,
        "trioserf.socket": socket,
        "org.trioserf.agent.plist": launchd,
    }
    chosen = [name for name, is_chosen in choices.items() if is_chosen]
    if len(chosen) > 1:
        raise CommandError("Error: expected one of --config, --socket, --launchd", "bad_request")
    name = chosen[0] if chosen else UNIT
    text = with_program((FILES / name).read_text("utf-8"), program())
    out.line(text.removesuffix("\n"))
    out.record({"name": name, "text": text})


def program() -> list[str]:
    """Return the words that start this program."""
    path = Path(sys.argv[0])
    if path.stem == "trioserf" and path.is_file():
        return [str(path.absolute())]
    return [sys.executable, "-m", "trioserf"]


def with_program(text: str, words: list[str]) -> str:
    """Return the text of a file with another program, quoted as the file needs it."""
    if text.startswith("<?xml"):
        strings = (f"<string>{html.escape(word)}</string>" for word in words)
        return text.replace(f"<string>{_PROGRAM}</string>", "\n    ".join(strings))
    return text.replace(_PROGRAM, " ".join(map(_unit_word, words)))


def _unit_word(word: str) -> str:
    """Quote a word of a command line for systemd, which expands `%` and `$`."""
    word = word.replace("%", "%%").replace("$", "$$")
    return word if _PLAIN.fullmatch(word) else json.dumps(word, ensure_ascii=False)
