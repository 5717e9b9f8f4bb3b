"""Users at the other end of Unix sockets, and the rules that admit them.

The system reports the user and the groups of the process that connected, so no key is needed.
(See control/README.md, § Users of a Unix socket.)
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from trioserf.control.server.permissions import ALL, Permissions
from trioserf.errors import ConfigError
from trioserf.operating_system.sockets import Peer, knows_peers
from trioserf.operating_system.users import find_group, find_user

_MAX_ID: Final = 2**32 - 2
_EXPECTED: Final = "expected uid:NUMBER, user:NAME, gid:NUMBER or group:NAME, and perhaps =SCOPE,…"


class PeerRule(NamedTuple):
    """A user or a group, and its scopes.

    Attributes:
        text: the rule as it was configured.
        is_group: whether `number` is that of a group.
        number: the number of the user or group.
        permissions: the scopes.
    """

    text: str
    is_group: bool
    number: int
    permissions: Permissions

    @classmethod
    def parse(cls, text: str) -> "PeerRule":
        """Parse `KIND:VALUE` or `KIND:VALUE=SCOPE,…`; look up names.

        Raises:
            ValueError: it is not valid, or the user or group is unknown.
        """
        subject, equals, scopes = text.partition("=")
        kind, _, value = subject.partition(":")
        find = _KINDS.get(kind)
        if find is None or not value:
            raise ValueError(_EXPECTED)
        permissions = Permissions.parse(scopes.split(",")) if equals else ALL
        return cls(text, kind in ("gid", "group"), find(value), permissions)

    def matches(self, peer: Peer) -> bool:
        """Return whether the rule is about this process."""
        return self.number in peer.gids if self.is_group else self.number == peer.uid


class PeerRules:
    """The rules of `rpc_allow`."""

    def __init__(self, rules: Sequence[PeerRule]) -> None:
        self._rules = tuple(rules)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "PeerRules":
        """Parse rules.

        Raises:
            ConfigError: a line for each rule that is not valid, or the system does not report
                users.
        """
        if not knows_peers():
            raise ConfigError("rpc_allow: this system does not report the users of Unix sockets")
        rules: list[PeerRule] = []
        errors: list[str] = []
        for text in texts:
            try:
                rules.append(PeerRule.parse(text))
            except ValueError as error:
                errors.append(f"rpc_allow: {text!r}: {error}")
        if errors:
            raise ConfigError("\n".join(errors))
        return cls(rules)

    def permissions_of(self, peer: Peer) -> Permissions | None:
        """Return the scopes of all rules that match; None if none does."""
        found: Permissions | None = None
        for rule in self._rules:
            if rule.matches(peer):
                found = rule.permissions if found is None else found | rule.permissions
        return found

    def socket_mode(self, own_uid: int) -> tuple[int, int | None]:
        """Return the least mode of the socket that all of them can open, and its group or None."""
        others = [rule for rule in self._rules if rule.is_group or rule.number not in (0, own_uid)]
        if not others:
            return 0o600, None
        groups = {rule.number for rule in others if rule.is_group}
        if len(groups) == 1 and all(rule.is_group for rule in others):
            return 0o660, groups.pop()
        return 0o666, None

    def __str__(self) -> str:
        return ", ".join(rule.text for rule in self._rules)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= _MAX_ID):
        raise ValueError(f"expected a number from 0 to {_MAX_ID}, not {text!r}")
    return int(text)


def _user(name: str) -> int:
    try:
        return find_user(name).uid
    except LookupError:
        raise ValueError("unknown user") from None


def _group(name: str) -> int:
    try:
        return find_group(name)
    except LookupError:
        raise ValueError("unknown group") from None


_KINDS: Final = {"uid": _number, "user": _user, "gid": _number, "group": _group}
