"""What users of the library, the control socket and the command line are told went wrong."""


class TrioserfError(Exception):
    """Base of every error that is the user's to read; its text is one clear sentence."""


class ConfigError(TrioserfError):
    """A configuration that cannot work; the text names file, key and expectation of each fault."""


class AddressError(TrioserfError):
    """An address that cannot be bound, found or advertised."""


class JoinFailed(TrioserfError):
    """Not one address could be joined; `causes` holds (address, reason) for each."""

    def __init__(self, causes: list[tuple[str, str]]) -> None:
        self.causes = causes
        super().__init__("; ".join(f"Failed to join {address}: {why}" for address, why in causes))


class TooLarge(TrioserfError):
    """A payload, a query or a set of tags over its limit."""


class InvalidFilter(TrioserfError):
    """An event filter or regular expression that cannot be understood."""


class InvalidQuery(TrioserfError):
    """A query that nobody may ask, such as one with an internal name."""


class NoSuchMember(TrioserfError):
    """No member of that name is known."""


class NoSuchQuery(TrioserfError):
    """No query of that number waits for an answer."""


class Leaving(TrioserfError):
    """The node is leaving or has left, and takes no such request any more."""


class NameConflict(TrioserfError):
    """Another member holds our name, and the majority sides with it."""
