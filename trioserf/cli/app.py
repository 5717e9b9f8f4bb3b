"""The same commands as a typer application: for completion in shells, and for programs on top.

`trioserf.cli.program` answers without it, since importing typer takes longer than a client command
may, and more memory than the agent has to spare. The functions, their options and the rules of
the command line are the same here: typer knows the commands and their options, and hands the
words to `program.run`, which reads them as Serf does.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from trioserf.cli.commands import COMMANDS, PROGRAM, Command, flags
from trioserf.cli.flags import Flag
from trioserf.cli.program import run


class SerfCommand(TyperCommand):
    """A command that reads its words as Serf does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words as they are; for completion, read them in typer's way."""
        if ctx.resilient_parsing:
            left: list[str] = super().parse_args(ctx, args)
            return left
        ctx.args = list(args)
        return list(args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: always, with its exit code.
        """
        words = [str(self.name), *ctx.args]
        raise typer.Exit(run(words, sys.stdout.buffer, sys.stderr.buffer))


def build() -> typer.Typer:
    """Make the application."""
    application = typer.Typer(name=PROGRAM, rich_markup_mode=None, pretty_exceptions_enable=False)
    for command in COMMANDS.values():
        declare = application.command(
            command.name,
            cls=SerfCommand,
            help=command.load().__doc__,
            short_help=command.summary,
            add_help_option=False,
        )
        declare(_declared(command))
    return application


def _declared(command: Command) -> Callable[..., None]:
    """Make a function whose signature tells typer what a command takes."""

    def declared(**values: Any) -> None:
        """Never called: `SerfCommand` runs the command."""

    keyword = inspect.Parameter.KEYWORD_ONLY
    words = Annotated[list[str] | None, typer.Argument()]
    parameters = [inspect.Parameter("words", keyword, default=None, annotation=words)]
    parameters += [
        inspect.Parameter(
            flag.option.flag.replace("-", "_"),
            keyword,
            default=False if flag.boolean else None,
            annotation=_annotation(flag),
        )
        for flag in flags(command).values()
    ]
    declared.__dict__["__signature__"] = inspect.Signature(parameters)
    return declared


def _annotation(flag: Flag) -> Any:
    option = flag.option
    kind: Any = bool if flag.boolean else list[str] | None if flag.repeatable else str | None
    declared = typer.Option(
        f"--{option.flag}",
        help=option.help,
        metavar=option.metavar or None,
        envvar=option.env or None,
    )
    return Annotated[kind, declared]


app = build()
