"""The commands of the program: names, words, and where the functions live."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from trioserf.cli.flags import Flag, flags_of

PROGRAM = "trioserf"

Run = Callable[..., int]
"""Takes `out`, the list of words and the options by keyword; gives the exit code."""


class Command(NamedTuple):
    """A command; its module is imported when it is needed, since each costs its time."""

    name: str
    summary: str
    module: str
    function: str
    words: str = "[options]"
    ours: str = ""
    """A first word that only we know; `*` for commands that Serf lacks altogether."""
    raw: bool = False
    """It looks at no option at all, as Serf's `version` and `keygen`."""
    aside: bool = False
    """Its failures are told on standard error, as its output is for programs."""

    def load(self) -> Run:
        """Import the function."""
        run: Run = getattr(import_module(f"trioserf.cli.{self.module}"), self.function)
        return run


def flags(command: Command) -> dict[str, Flag]:
    """Give the options of a command, by name."""
    return flags_of(command.load())


_ALL = (
    Command("agent", "Run an agent", "agent", "agent"),
    Command(
        "event", "Send a user event to the cluster", "asking", "event", "[options] name payload"
    ),
    Command(
        "force-leave",
        "Declare that a failed member has left",
        "cluster",
        "force_leave",
        "[options] name",
    ),
    Command("info", "Show what the agent knows about itself", "looking", "info"),
    Command(
        "join",
        "Make the agent join a cluster",
        "cluster",
        "join",
        "[options] address ...",
    ),
    Command("keygen", "Make an encryption key", "keys", "keygen", raw=True),
    Command(
        "keys",
        "Change or list the cluster's encryption keys",
        "keys",
        "keys",
        "[options] [rotate]",
        ours="rotate",
    ),
    Command("leave", "Make the agent leave the cluster and end", "cluster", "leave"),
    Command("members", "List the members of the cluster", "members", "members"),
    Command("monitor", "Follow the agent's log", "following", "monitor"),
    Command(
        "query",
        "Ask the members and print their answers",
        "asking",
        "query",
        "[options] name payload",
    ),
    Command(
        "reachability", "Test whether the members reach each other", "looking", "reachability"
    ),
    Command(
        "rtt",
        "Estimate the round trip between two members",
        "looking",
        "rtt",
        "[options] node1 [node2]",
    ),
    Command(
        "stream",
        "Write events as JSON, line by line",
        "following",
        "stream",
        "[options] [filter ...]",
        ours="*",
        aside=True,
    ),
    Command("tags", "Change the agent's tags", "cluster", "tags"),
    Command("version", "Print the version", "version", "version", raw=True),
)

COMMANDS = {command.name: command for command in _ALL}


def similar(word: str, known: list[str], dashes: str = "") -> str:
    """Give a question after what was perhaps meant, or nothing."""
    import difflib  # slow, and needed only when something is wrong

    near = difflib.get_close_matches(word, known, 1)
    return f" (did you mean {dashes}{near[0]}?)" if near else ""
