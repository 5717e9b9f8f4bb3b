"""The typer application: one group that imports commands when they run, and their class.

typer owns declaration, dispatch, help and completion. Only the parsing of arguments is replaced,
by Go's grammar (`go_flags`). It fills `ctx.params` itself, so typer converts no value and does not
import pydantic (see cli/README.md, § Cost of typer).
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Annotated, Any, BinaryIO, Final, NamedTuple

import typer
import typer.core
import typer.main

from trioserf.cli.go_flags import Flag, FlagError, Invocation, Parsed, parse, split
from trioserf.cli.hints import suggest, value_hint
from trioserf.cli.options import with_tls
from trioserf.cli.output import FAILED, CommandError, Output, UsageError

PROGRAM: Final = "trioserf"
NO_COMMAND: Final = 127
"""Exit code without a command, or with an unknown one."""
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "Agent": ("agent", "leave", "service", "tags", "token", "validate"),
    "Cluster": ("members", "join", "force-leave"),
    "Events and queries": ("event", "query", "stream"),
    "Encryption keys": ("keygen", "keys"),
    "Inspecting": ("health", "info", "monitor", "reachability", "rtt", "version"),
}
"""All commands by the group in which help shows them; `commands/NAME.py` holds each."""
_COMPLETION_OPTIONS: Final = frozenset(("--install-completion", "--show-completion"))
_DASHES: Final = (
    "Options with one dash are Serf's, those with two are extensions;"
    " every option accepts one dash or two."
)


class Console(NamedTuple):
    """The streams and functions of the process, as `ctx.obj` of the group."""

    stdout: BinaryIO
    stderr: BinaryIO
    start_agent: Callable[[Sequence[str], Mapping[str, Any], Sequence[tuple[str, str]]], int]
    """Run an agent with configuration files, overrides and errors of the command line."""


class SerfContext(typer.Context):
    """A context whose options may begin with one dash or two, for completion."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._opt_prefixes = {"-", "--"}


class SerfCommand(typer.core.TyperCommand):
    """A command whose words are parsed as Serf's.

    An option that is declared with one dash is Serf's, one with two is an extension.
    """

    context_class = SerfContext
    extension_word = ""
    """A first word that makes the whole command an extension; `*` for any."""
    ignores_options = False
    """No option is parsed and none is unknown, as in Serf's `version` and `keygen`."""
    errors_to_stderr = False
    """Errors go to standard error, because the output is for programs."""
    usage_prefix = ""
    words_are = ("a word", "the words")
    """What a word after the first one is taken as, and what the first words are."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.flags: dict[str, Flag] = {}
        signature = inspect.signature(self.callback) if self.callback else inspect.Signature()
        for param in self.params:
            if param.param_type_name == "option":
                annotation = signature.parameters[str(param.name)].annotation
                flag = _flag(param, annotation.__metadata__[0].parser)
                self.flags |= {name.lstrip("-"): flag for name in param.opts}
                param.opts = [name for opt in param.opts for name in _with_two_dashes(opt)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command into `ctx.params` and `ctx.args`.

        Raises:
            typer.Exit: after the error and the usage text.
        """
        if ctx.resilient_parsing:
            values, words, _ = self._parse_for_completion(args)
        else:
            values, words, late = self._parse(ctx, args)
            is_json = values.get("output_format") == "json"
            ctx.obj = Output(ctx.obj.stdout, json=is_json, stderr=ctx.obj.stderr)
            self._explain_late_option(ctx.obj, late)
        for param in self.params:
            if param.param_type_name == "argument":
                values[str(param.name)] = words
        ctx.params.update(values)
        ctx.args = words
        return words

    def check_words(self, words: Sequence[str]) -> str:
        """Return what is wrong with the words that are not options; nothing if they are right.

        Without an argument, a command takes no words. Serf ignores them.
        """
        if not words or any(param.param_type_name == "argument" for param in self.params):
            return ""
        text = f"unexpected word: {words[0]}"
        if words[0] in ("true", "false"):
            return f"{text} (a switch takes its value after =, such as -option={words[0]})"
        return text + self.stray_word_hint(words[0])

    def stray_word_hint(self, word: str) -> str:  # noqa: ARG002 - for commands that know more
        """Return what a word may have been meant for, in parentheses, or nothing."""
        return ""

    def _explain_late_option(self, out: Output, late: Sequence[str]) -> None:
        """Report an option after the first word, which Go takes as a word."""
        if late:
            word, place = self.words_are
            out.explain(
                f"'{late[0]}' is taken as {word}; options go before {place}, or use --", "usage"
            )

    def _parse(self, ctx: Any, args: list[str]) -> Parsed:
        try:
            return self._parse_and_check(args)
        except FlagError as error:
            hint = suggest(error.unknown, self.flags, "-") if error.unknown else ""
            hint = hint or (f" ({error.hint})" if error.hint else "")
            out = Output(ctx.obj.stdout, json=_wants_json(args))
            if (text := f"{error}{hint}") and not out.json:
                Output(ctx.obj.stderr).line(text)
            raise self._usage(ctx, out, text) from None

    def _parse_and_check(self, args: list[str]) -> Parsed:
        """Parse the words (raises FlagError)."""
        if self.ignores_options:
            words = [] if args and args[0].startswith("-") else args
            output_format = "json" if _wants_json(args) else "text"
            parsed = Parsed({"output_format": output_format}, words, [])
        else:
            parsed = parse(self.flags, args, os.environ, self.extension_word)
        if wrong := self.check_words(parsed.words):
            raise FlagError(wrong)
        return parsed

    def _parse_for_completion(self, args: list[str]) -> Parsed:
        """Parse as many words as possible; the last option may still lack its value."""
        for end in range(len(args), 0, -1):
            try:
                return parse(self.flags, args[:end], os.environ, self.extension_word)
            except FlagError:
                continue
        return parse(self.flags, (), os.environ)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: after an error of the command.
        """
        out: Output = ctx.obj
        try:
            return super().invoke(ctx)
        except UsageError as error:
            if str(error):
                out.line(f"{error}\n")
            raise self._usage(ctx, out, str(error)) from error
        except CommandError as error:
            target = out
            if self.errors_to_stderr:
                target = Output(ctx.parent.obj.stderr, json=out.json, stderr=out.stderr)
            target.error(error)
            raise typer.Exit(FAILED) from error

    def _usage(self, ctx: Any, out: Output, message: str) -> typer.Exit:
        """Write the usage text, or the error in JSON; return the exit."""
        out.line(self.usage_prefix + self.get_help(ctx))
        out.record(CommandError(message or "nothing to do", "usage").record)
        return typer.Exit(FAILED)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's interface
        """Return the placeholders of the usage line, words as they were declared."""
        words = [param.metavar for param in self.params if param.param_type_name == "argument"]
        return [str(self.options_metavar), *filter(None, words)]

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's interface
        """Write the options, each group in its section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.params:
            if isinstance(param, typer.core.TyperOption):
                value = f"={param.metavar}" if param.metavar else ""
                shown = [f"{name}{value}" for name in _declared(param.opts)]
                section = sections.setdefault(param.rich_help_panel or "Options", [])
                section.append((", ".join(shown), param.help or ""))
        for name, rows in sections.items():
            with formatter.section(name):
                formatter.write_dl(rows)
        if sections:
            formatter.write_paragraph()
            formatter.write_text(_DASHES)


OWN_JSON: Final = "trioserf.own_json"
"""In `ctx.meta`: whether JSON may differ from Serf's, for `--format`, unlike `-format`."""


class ExtensionCommand(SerfCommand):
    """A command that Serf does not have; options may stand behind its words."""

    extension_word = "*"


class TwoJsonCommand(SerfCommand):
    """A command with two forms of JSON."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, and note in `ctx.meta` which form of JSON they request."""
        words = super().parse_args(ctx, args)
        if ctx.resilient_parsing:  # a completion
            return words
        ctx.meta[OWN_JSON] = ctx.obj.json and any(one.startswith("--format") for one in args)
        return words


def _flag(param: Any, parser: Callable[[str], Any] | None) -> Flag:
    return Flag(
        param.name,
        default=[] if param.multiple else param.default,
        boolean=param.is_flag,
        repeatable=param.multiple,
        extension=param.opts[0].startswith("--"),
        env=param.envvar or "",
        parse=parser or str,
        hint=partial(value_hint, param.metavar or ""),
    )


def _with_two_dashes(name: str) -> tuple[str, ...]:
    return (name,) if name.startswith("--") else (name, f"-{name}")


def _declared(names: Sequence[str]) -> list[str]:
    """Return the names as they were declared, without those of `_with_two_dashes`."""
    return [name for name in names if name[1:] not in names]


class SerfGroup(typer.core.TyperGroup):
    """The program: imports a command's module when the command is named."""

    context_class = SerfContext

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's interface
        """Return the names of all commands."""
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; return None if it does not exist."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f"trioserf.cli.commands.{cmd_name.replace('-', '_')}")
        return typer.main.get_command(module.app)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Find the command; print help if requested.

        Raises:
            typer.Exit: after a help text, or without a command.
        """
        if args and args[0] in _COMPLETION_OPTIONS:
            return list(super().parse_args(ctx, args))
        invocation = split(args)
        if invocation.version:
            invocation = Invocation("version")
        if invocation.command == "help":
            invocation = Invocation("".join(invocation.words[:1]), help=True)
        if not ctx.resilient_parsing:
            self._exit_with_help(ctx, invocation)
        ctx.args = [invocation.command, *invocation.words] if invocation.command else []
        return list(ctx.args)

    def _exit_with_help(self, ctx: Any, invocation: Invocation) -> None:
        """Print the help text that a command line needs; return if it can run."""
        command = self.get_command(ctx, invocation.command)
        if command is None:
            if invocation.help and not invocation.command:
                Output(ctx.obj.stdout).line(self.get_help(ctx))
                raise typer.Exit(0)
            stderr = Output(ctx.obj.stderr)
            if invocation.command:
                hint = suggest(invocation.command, self.list_commands(ctx))
                stderr.line(f"no such command: {invocation.command}{hint}\n")
            stderr.line(self.get_help(ctx))
            raise typer.Exit(NO_COMMAND)
        if not invocation.help and not invocation.misplaced:
            return
        text = command.get_help(SerfContext(command, parent=ctx, info_name=invocation.command))
        if invocation.misplaced:
            stderr = Output(ctx.obj.stderr)
            stderr.line(f"Invalid flags before the command: {invocation.misplaced[0]}\n")
            stderr.line(text)
            raise typer.Exit(FAILED)
        Output(ctx.obj.stdout).line(text)
        raise typer.Exit(0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; typer's own method would first process the options of the group."""
        name, command, words = self.resolve_command(ctx, ctx.args)
        assert command is not None
        with command.make_context(name, words, parent=ctx) as inner:
            return command.invoke(inner)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, each group in its section."""
        for group, names in COMMANDS.items():
            with formatter.section(group):
                width = max(map(len, self.list_commands(ctx)))
                rows = [
                    (f"{name:<{width}}", self.get_command(ctx, name).get_short_help_str(60))
                    for name in names
                ]
                formatter.write_dl(rows)


def _wants_json(words: Sequence[str]) -> bool:
    """Return whether words that could not be parsed request JSON."""
    text = "\0".join(words).replace("--format", "-format").replace("=", "\0")
    return "-format\0json" in text


class _OneCommand(typer.Typer):
    """An application for one command, which gets the options of TLS if it needs them."""

    def command(self, *args: Any, **settings: Any) -> Callable[[Any], Any]:
        """Register a function as the command; return it."""
        register = super().command(*args, **settings)
        return lambda function: register(with_tls(function))


def new_app() -> typer.Typer:
    """Return an empty application, for one command."""
    return _OneCommand(
        options_metavar="[options]",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def more(*examples: str, page: str) -> str:
    """Return the end of a help text: examples, and the page that explains more.

    Args:
        examples: command lines, without the program's name.
        page: a README of this repository, and its section.
    """
    lines = [f"  {PROGRAM} {example}" for example in examples]
    return "\n".join(["\b", "Examples:", *lines, "", "\b", f"More: {page}"])


app = typer.Typer(
    name=PROGRAM, cls=SerfGroup, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback(
    epilog=more(
        "agent --node=a --bind=127.0.0.1",
        "members -status=alive --format=json",
        page="trioserf/cli/README.md",
    ),
)
def program(
    version: Annotated[bool, typer.Option("--version", "-v", help="Print the version.")] = False,
) -> None:
    """Cluster membership, failure detection, events and queries.

    "trioserf COMMAND --help" explains a command.
    """
    del version
