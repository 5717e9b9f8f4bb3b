"""Values that a shell completes: fixed ones, and names that the agent knows.

Does not import typer, which passes its context as the argument `ctx`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.errors import ControlError
from trioserf.control.tls import Tls
from trioserf.operating_system.processes import alarm

TIMEOUT = 1.0
"""Seconds that an agent may take; after that, nothing is completed."""
EVENT_FILTERS = (
    *("member-join", "member-leave", "member-failed", "member-update", "member-reap"),
    *("user", "query"),
)
_BASH_WORD_BREAKS = ("=", ":")
_PLAIN = re.compile(r"[\w@%+=:,./][\w@%+=:,./-]*")
"""Words that no shell interprets; a dash in front would make an option."""


def complete_from(*values: str) -> Callable[[], list[str]]:
    """Return a completion of fixed values."""
    return lambda: list(values)


LOG_LEVELS = complete_from("trace", "debug", "info", "warn", "err")


def member_names(ctx: Any) -> list[str]:
    """Return the names of all members."""
    return _ask(ctx, lambda session: (member.name for member in session.members()))


def member_tags(ctx: Any) -> list[str]:
    """Return `KEY=` for each tag of any member."""

    def keys(session: Any) -> Iterable[str]:
        return sorted({f"{key}=" for member in session.members() for key in member.tags})

    return _ask(ctx, keys)


def own_tags(ctx: Any) -> list[str]:
    """Return the keys of the agent's own tags."""
    return _ask(ctx, lambda session: session.info()["tags"])


def interface_names() -> list[str]:
    """Return the names of this host's network interfaces."""
    import socket

    return [name for _, name in socket.if_nameindex()]


def _ask(ctx: Any, request: Callable[[Any], Iterable[str]]) -> list[str]:
    """Ask the agent that the command line names; return nothing if it does not respond.

    Words that a shell would interpret are left out: other members choose them.
    """
    from trioserf.control.client.rpc_session import RpcSession

    address = ctx.params.get("rpc_addr") or DEFAULT_ADDRESS
    auth = ctx.params.get("rpc_auth") or None
    tls = Tls(*(ctx.params.get(f"tls_{field}") or "" for field in Tls._fields))
    with (
        suppress(ControlError, TimeoutError, LookupError),
        _time_limit(TIMEOUT),
        RpcSession.connect(address, auth, timeout=TIMEOUT, tls=tls) as session,
    ):
        return [word for word in request(session) if _PLAIN.fullmatch(word)]
    return []


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Limit a block in the main thread; the socket's timeouts limit each step only.

    Raises:
        TimeoutError: the block took longer.
    """

    def expire(*_: object) -> None:
        raise TimeoutError

    with alarm(seconds, expire):
        yield


def join_bash_words(env: MutableMapping[str, str]) -> None:
    """Undo bash's splitting of words at `=` and `:`, in the variables that typer reads.

    With `-rpc-addr=host:7373 --format=js`, typer then sees two words, and completes the value of
    the second one as bash expects it: without the option's name.
    """
    words = re.split(r"\n" if "\n" in env["COMP_WORDS"] else " ", env["COMP_WORDS"])
    current = int(env["COMP_CWORD"])
    joined: list[str] = []
    index = 0
    glue = False
    for number, word in enumerate(words):
        is_break = word in _BASH_WORD_BREAKS and number > 1
        if joined and (is_break or glue):
            joined[-1] += word
        else:
            joined.append(word)
        glue = is_break
        if number <= current:
            index = len(joined) - 1
    if current >= len(words):
        index = len(joined)
    env["COMP_WORDS"] = "\n".join(joined)
    env["COMP_CWORD"] = str(index)
