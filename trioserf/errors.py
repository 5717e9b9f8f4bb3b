"""Errors for users of the library, the control socket and the command line."""


def reason_of(error: BaseException) -> str:
    """Return the text of an error as the system has it, without `[Errno 32]` before it.

    A broken connection of Trio has the text of its cause.
    """
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(error) or type(error).__name__


class TrioserfError(Exception):
    """Base of all errors for users; the text is one sentence."""


class ConfigError(TrioserfError):
    """An invalid configuration; the text names file, key and expectation of each error."""


class AddressError(TrioserfError):
    """An address that cannot be parsed, resolved, bound or advertised."""


class JoinFailed(TrioserfError):
    """No address could be joined; `causes` has (address, reason) for each."""

    def __init__(self, causes: list[tuple[str, str]]) -> None:
        self.causes = causes
        super().__init__(
            "; ".join(f"failed to join {address}: {reason}" for address, reason in causes)
        )


class NameInUse(JoinFailed):
    """A living member has our name at another address; we have announced nothing to it."""


class TooLarge(TrioserfError):
    """A payload, a query or a set of tags over its limit."""


class InvalidFilter(TrioserfError):
    """An invalid event filter or regular expression."""


class InvalidQuery(TrioserfError):
    """A query that is not allowed, such as one with an internal name."""


class NoSuchMember(TrioserfError):
    """No member with that name is known."""


class NoSuchQuery(TrioserfError):
    """No query with that number waits for a response."""


class AlreadyAnswered(NoSuchQuery):
    """A query to which a response was sent already."""


class Leaving(TrioserfError):
    """The node is leaving or has left, and rejects the request."""


class NameConflict(TrioserfError):
    """Another member has our name, and the vote of the members did not give it to us."""
