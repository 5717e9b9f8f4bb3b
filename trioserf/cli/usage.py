"""Usage texts, laid out as Serf's are."""

import textwrap
from collections.abc import Iterable

from trioserf.cli.commands import COMMANDS, PROGRAM, Command
from trioserf.cli.flags import Flag, flags_of

_WIDTH = 80
_COLUMN = 28


def program_usage() -> str:
    """Show the commands of the program."""
    widest = max(map(len, COMMANDS))
    lines = [f"Usage: {PROGRAM} [--version] [--help] <command> [<args>]", ""]
    lines.append("Available commands are:")
    lines += [f"    {one.name:<{widest}}    {one.summary}" for one in COMMANDS.values()]
    return "\n".join(lines)


def command_usage(command: Command) -> str:
    """Show what a command does and which options it takes."""
    run = command.load()
    lines = [f"Usage: {PROGRAM} {command.name} {command.words}", ""]
    lines += paragraphs(run.__doc__ or command.summary)
    shown = flags_of(run).values()
    if shown:
        lines += ["Options:", ""]
        lines += option_lines(shown)
    return "\n".join(lines)


def paragraphs(text: str) -> list[str]:
    """Indent paragraphs by two spaces and wrap them, a blank line after each."""
    lines: list[str] = []
    for paragraph in textwrap.dedent("    " + text.strip()).split("\n\n"):
        words = " ".join(paragraph.split())
        wrapped = textwrap.wrap(words, _WIDTH, initial_indent="  ", subsequent_indent="  ")
        lines += [*wrapped, ""]
    return lines


def option_lines(flags: Iterable[Flag]) -> list[str]:
    """Show options in two columns; those that Serf does not know take two dashes."""
    lines: list[str] = []
    for flag in flags:
        option = flag.option
        left = f"  {'--' if option.ours else '-'}{option.flag}"
        left += f"={option.metavar}" if option.metavar else ""
        right = textwrap.wrap(option.help, _WIDTH - _COLUMN)
        if len(left) > _COLUMN - 2:
            lines.append(left)
            left = ""
        first, *more = right
        lines.append(f"{left:<{_COLUMN}}{first}")
        lines += [" " * _COLUMN + line for line in more]
    return lines
