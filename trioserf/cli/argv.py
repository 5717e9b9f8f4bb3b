"""Command lines as Serf reads them.

Serf is written in Go, whose rules differ from those of Python's programs: one dash or two mean
the same, a value follows after `=` or as the next word (even if that begins with a dash), a truth
value only after `=`, and the first word that is no option ends the options, as `--` does.

Options of our own may also stand among the words, spelled with two dashes: no script for Serf
knows them. Where the command itself is ours, all of its options may. Put `--` before the words and
everything behind it is a word.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trioserf.cli.flags import Flag
from trioserf.cli.golang import quote

_HELP = frozenset(("-h", "-help", "--help"))
_VERSION = frozenset(("-v", "--version"))


class FlagError(Exception):
    """A command line that cannot be read; `unknown` names an option that does not exist."""

    def __init__(self, message: str, unknown: str = "") -> None:
        self.unknown = unknown
        super().__init__(message)


class Invocation(NamedTuple):
    """What a command line asks for: a command with its words, help, or the version.

    `stray` holds options that stand before the command, where none belong.
    """

    command: str = ""
    words: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()
    help: bool = False
    version: bool = False


def split(argv: Sequence[str]) -> Invocation:
    """Find the command in a command line (without the program's name).

    Asking for help or for the version counts anywhere before `--`, as with Serf.
    """
    command = ""
    words: tuple[str, ...] = ()
    stray: list[str] = []
    wants_help = wants_version = False
    for place, word in enumerate(argv):
        if word == "--":
            break
        if word in _HELP:
            wants_help = True
        elif word in _VERSION:
            wants_version = True
        elif command:
            continue
        elif word.startswith("-"):
            stray.append(word)
        elif word:
            command = word
            words = tuple(argv[place + 1 :])
    return Invocation(command, words, tuple(stray), wants_help, wants_version)


class Parsed(NamedTuple):
    """The options by parameter, and the words that are none."""

    values: dict[str, Any]
    words: list[str]


def parse(
    flags: Mapping[str, Flag],
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
    ours: str = "",
) -> Parsed:
    """Read the words after a command.

    Args:
        flags: the command's options, by name.
        words: what follows the command.
        env: environment variables, for options that one may set.
        ours: the first word that makes the whole command ours; `*` for any.

    Raises:
        FlagError: an unknown option, a missing or a wrong value.
    """
    values = _defaults(flags, env or {})
    left = list(words)
    rest: list[str] = []
    mixed = ours == "*"
    while left:
        word = left.pop(0)
        if word == "--":
            rest += left
            break
        if len(word) > 1 and word[0] == "-":
            _take(flags, word, left, values)
            continue
        rest.append(word)
        mixed = mixed or word == ours != ""
        if not mixed:
            rest += _take_ours(flags, left, values)
            break
    return Parsed(values, rest)


def _defaults(flags: Mapping[str, Flag], env: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for flag in flags.values():
        value = flag.default
        if flag.option.env and env.get(flag.option.env):
            value = flag.value_of(env[flag.option.env])
        values[flag.parameter] = list(value) if flag.repeatable else value
    return values


def _take(flags: Mapping[str, Flag], word: str, left: list[str], values: dict[str, Any]) -> None:
    """Take one option, and the next word where that is its value."""
    name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
    if not name or name.startswith("-"):
        raise FlagError(f"bad flag syntax: {word}")
    flag = flags.get(name)
    if flag is None and name in ("h", "help"):
        raise FlagError("")
    if flag is None:
        raise FlagError(f"flag provided but not defined: -{name}", name)
    if not equals:
        if flag.boolean:
            text = "true"
        elif left:
            text = left.pop(0)
        else:
            raise FlagError(f"flag needs an argument: -{name}")
    try:
        value = flag.value_of(text)
    except ValueError as error:
        what = "boolean value" if flag.boolean else "value"
        of = f"for -{name}" if flag.boolean else f"for flag -{name}"
        raise FlagError(f"invalid {what} {quote(text)} {of}: {error}") from None
    if flag.repeatable:
        values[flag.parameter].append(value)
    else:
        values[flag.parameter] = value


def _take_ours(flags: Mapping[str, Flag], left: list[str], values: dict[str, Any]) -> list[str]:
    """Take options of our own from among the words; give the others."""
    ours = {name: flag for name, flag in flags.items() if flag.option.ours}
    rest: list[str] = []
    while left:
        word = left.pop(0)
        if word == "--":
            return [*rest, word, *left]
        name = word[2:].partition("=")[0] if word.startswith("--") else ""
        if name in ours:
            _take(ours, word, left, values)
        else:
            rest.append(word)
    return rest
