"""What mends a mistake on a command line: expected values, names that exist, valid expressions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from trioserf.control.errors import ControlError

if TYPE_CHECKING:
    from trioserf.control.client.session import AgentSession

STATUSES = ("alive", "leaving", "left", "failed")
# Compiled where they are needed: an agent imports this file, and most commands need none.
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_DAYS = r"(\d+)d"
_PLAIN = r"(?:[\w :/@,-]|\.[*+?]?)*"
"""Expressions that are valid without a look at them: RE2 takes 5 ms to import."""


def suggest(word: str, known: Sequence[str] | Mapping[str, Any], dashes: str = "") -> str:
    """Return a question with the most similar known word, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {dashes}{near[0]}?)" if near else ""


def value_hint(metavar: str, text: str) -> str:
    """Return what an option expects in place of a rejected value, by its placeholder."""
    match metavar:
        case "DURATION" if re.fullmatch(_NUMBER, text, re.ASCII):
            return f"did you mean {text}s?"
        case "DURATION" if days := re.fullmatch(_DAYS, text, re.ASCII):
            return f"did you mean {int(days[1]) * 24}h?"
        case "DURATION":
            return "expected a duration such as 300ms, 15s or 1h30m, below 292 years"
        case "N":
            return "expected a whole number"
        case "" | "true|false":
            return "expected true or false"
    return ""


@lru_cache(maxsize=1)
def _library() -> tuple[Any, Any]:
    import re2

    options = re2.Options()
    options.log_errors = False
    return re2, options


def expression_error(expression: str) -> str:
    """Return why a text is not a valid regular expression in Go's syntax; nothing if it is."""
    if re.fullmatch(_PLAIN, expression, re.ASCII):
        return ""
    re2, options = _library()
    try:
        re2.compile(expression, options)
    except UnicodeError:
        return "not UTF-8"
    except re2.error as error:
        reason = error.args[0]
        return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    return ""


def expression_errors(expressions: Iterable[tuple[str, str]]) -> str:
    """Return what is wrong with the first invalid expression, or nothing.

    Args:
        expressions: option and expression, such as `("-tag role", "w.*")`.
    """
    for option, expression in expressions:
        if reason := expression_error(expression):
            return f"{option}={expression} is not a valid regular expression: {reason}"
    return ""


def status_error(expression: str) -> str:
    """Return that an expression matches no status of a member; nothing if it matches one."""
    re2, options = _library()
    pattern = re2.compile(f"^{expression}$", options)
    if any(pattern.search(status) for status in STATUSES):
        return ""
    return f"-status={expression} matches no status: alive, leaving, left, failed" + suggest(
        expression, STATUSES
    )


def name_errors(session: "AgentSession", names: Iterable[str], *, live: bool = False) -> list[str]:
    """Return a sentence for each name that no member has.

    Args:
        session: connection to the agent; if it does not list its members, nothing is returned.
        names: names of members.
        live: whether the members must be alive, too.
    """
    names = list(names)
    if not names:
        return []
    try:
        statuses = {member.name: member.status for member in session.members()}
    except ControlError:
        return []
    errors = []
    for name in names:
        if name not in statuses:
            errors.append(f"no member has the name '{name}'{suggest(name, statuses)}")
        elif live and statuses[name] != "alive":
            errors.append(f"the member '{name}' is not alive: its status is {statuses[name]}")
    return errors
