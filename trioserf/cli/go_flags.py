"""The grammar of Go's flag package, which Serf's command lines follow.

One dash or two mean the same; a value follows after `=` or as the next word, even if that begins
with a dash; a boolean takes a value only after `=`; the first word that is not an option ends the
options, and so does `--` (see cli/README.md, § Command lines).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from trioserf.cli.go_format import PARSE_ERROR, parse_bool, quote

_HELP = frozenset(("-h", "-help", "--help"))
_VERSION = frozenset(("-v", "--version"))


class FlagError(Exception):
    """A command line that cannot be parsed.

    Attributes:
        unknown: an option that does not exist.
        hint: what mends it.
    """

    def __init__(self, message: str, unknown: str = "", hint: str = "") -> None:
        self.unknown = unknown
        self.hint = hint
        super().__init__(message)


class Flag(NamedTuple):
    """One option of a command.

    Attributes:
        parameter: the parameter that receives its value.
        default: value without the option; a list if `repeatable`.
        boolean: whether it may stand without a value.
        repeatable: whether each occurrence appends a value.
        extension: whether Serf lacks it.
        env: environment variable that may set it.
        parse: converts its text; raises ValueError with a reason.
        hint: returns what is expected in place of a text that `parse` rejects.
    """

    parameter: str
    default: Any = ""
    boolean: bool = False
    repeatable: bool = False
    extension: bool = False
    env: str = ""
    parse: Callable[[str], Any] = str
    hint: Callable[[str], str] = lambda _: ""

    def convert(self, text: str) -> Any:
        """Convert a value (raises ValueError with a reason)."""
        return parse_bool(text) if self.boolean else self.parse(text)


class Invocation(NamedTuple):
    """A command line, split at the command: a command with its words, help, or the version.

    `misplaced` holds the options before the command, where none are allowed.
    """

    command: str = ""
    words: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    help: bool = False
    version: bool = False


def split(argv: Sequence[str]) -> Invocation:
    """Find the command in a command line (without the program's name).

    As in Serf, options for help and version count anywhere before `--`.
    """
    command = ""
    words: tuple[str, ...] = ()
    misplaced: list[str] = []
    wants_help = wants_version = False
    for index, word in enumerate(argv):
        if word == "--":
            break
        if word in _HELP:
            wants_help = True
        elif word in _VERSION:
            wants_version = True
        elif command:
            continue
        elif word.startswith("-"):
            misplaced.append(word)
        elif word:
            command = word
            words = tuple(argv[index + 1 :])
    return Invocation(command, words, tuple(misplaced), wants_help, wants_version)


class Parsed(NamedTuple):
    """The values by parameter, and the words that are not options.

    `late` has those words that look like options of the command, but stand after the first word.
    """

    values: dict[str, Any]
    words: list[str]
    late: list[str]


def parse(
    flags: Mapping[str, Flag],
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
    extension_word: str = "",
) -> Parsed:
    """Parse the words after a command.

    Options that are extensions may also stand among the words, with two dashes, where no script
    for Serf has them. In a command that is an extension, every option may.

    Args:
        flags: the command's options, by name.
        words: all words after the command.
        env: environment variables.
        extension_word: a first word that makes the whole command an extension; `*` for any.

    Raises:
        FlagError: an unknown option, or a missing or invalid value.
    """
    values = _defaults(flags, env or {})
    left = list(words)
    rest: list[str] = []
    late: list[str] = []
    mixed = extension_word == "*"
    while left:
        word = left.pop(0)
        if word == "--":
            rest += left
            break
        if len(word) > 1 and word[0] == "-":
            _parse_flag(flags, word, left, values)
            continue
        rest.append(word)
        mixed = mixed or word == extension_word != ""
        if not mixed:
            others = _parse_extensions(flags, left, values)
            late = [one for one in _before_dashes(others) if _option_name(one) in flags]
            rest += others
            break
    return Parsed(values, rest, late)


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    """Return the words before `--`."""
    return words[: words.index("--")] if "--" in words else words


def _option_name(word: str) -> str:
    """Return the name in a word that looks like an option, otherwise nothing."""
    if not word.startswith("-"):
        return ""
    return word.removeprefix("-").removeprefix("-").partition("=")[0]


def _defaults(flags: Mapping[str, Flag], env: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for flag in flags.values():
        value = flag.default
        if flag.env and env.get(flag.env):
            value = flag.convert(env[flag.env])
        values[flag.parameter] = list(value) if flag.repeatable else value
    return values


def _parse_flag(
    flags: Mapping[str, Flag], word: str, left: list[str], values: dict[str, Any]
) -> None:
    """Parse one option; remove the next word from `left` if that is its value."""
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
        value = flag.convert(text)
    except ValueError as error:
        kind, name = ("boolean value", f"-{name}") if flag.boolean else ("value", f"flag -{name}")
        message = f"invalid {kind} {quote(text)} for {name}: {error}"
        hint = flag.hint(text) if str(error) == PARSE_ERROR else ""
        raise FlagError(message, hint=hint) from None
    if flag.repeatable:
        values[flag.parameter].append(value)
    else:
        values[flag.parameter] = value


def _parse_extensions(
    flags: Mapping[str, Flag], left: list[str], values: dict[str, Any]
) -> list[str]:
    """Parse the extensions among the words; return all other words."""
    extensions = {name: flag for name, flag in flags.items() if flag.extension}
    rest: list[str] = []
    while left:
        word = left.pop(0)
        if word == "--":
            return [*rest, word, *left]
        name = word[2:].partition("=")[0] if word.startswith("--") else ""
        if name in extensions:
            _parse_flag(extensions, word, left, values)
        else:
            rest.append(word)
    return rest
