"""Users at the other end of Unix sockets, and the rules that admit them.

The system reports the user and the groups of the process that connected, so no key is needed.
(See control/README.md, § Users of a Unix socket.)
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from trioserf.control.address import unix_path
from trioserf.control.server.permissions import ALL, Permissions
from trioserf.control.tls import split_tls
from trioserf.errors import ConfigError
from trioserf.operating_system.sockets import Peer, knows_peers
from trioserf.operating_system.users import HAS_USERS, find_group, find_user, group_ids, user_id

_MAX_ID: Final = 2**32 - 2
_EXPECTED: Final = "expected uid:NUMBER, user:NAME, gid:NUMBER or group:NAME, and perhaps =SCOPE,…"
PRIVATE: Final = 0o600
"""The mode of a Unix socket, unless rules or the configuration admit other users."""
_WITH_GROUP: Final = 0o660
_OWNER: Final = 0o600
"""What the owner must be able to do: connect."""
_MODE: Final = re.compile(r"0?[0-7]{3}")


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
            raise ConfigError(
                "rpc_allow: this system does not report the users of Unix sockets;"
                " expected no value"
            )
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
            return PRIVATE, None
        groups = {rule.number for rule in others if rule.is_group}
        if len(groups) == 1 and all(rule.is_group for rule in others):
            return 0o660, groups.pop()
        return 0o666, None

    def __str__(self) -> str:
        return ", ".join(rule.text for rule in self._rules)


class SocketRights(NamedTuple):
    """Mode and group of Unix sockets, as configured.

    Attributes:
        mode: `rpc_socket_mode`: octal digits; empty for what `rpc_allow` or the group needs.
        group: `rpc_socket_group`: name or number; empty for the agent's.
    """

    mode: str = ""
    group: str = ""

    def find_mode(self) -> int | None:
        """Return the mode; None if there is none.

        Raises:
            ValueError: it is not valid.
        """
        if not self.mode:
            return None
        mode = int(self.mode, 8) if _MODE.fullmatch(self.mode) else 0
        if mode & _OWNER != _OWNER:
            raise ValueError(
                f"{self.mode!r}: expected an octal mode from 0600 to 0777, such as 0660"
            )
        return mode

    def find_group(self) -> int | None:
        """Return the number of the group; None if there is none.

        Raises:
            ValueError: it is unknown, or this process may not give files to it; or the system has
                no groups.
        """
        if not self.group:
            return None
        if not HAS_USERS:
            raise ValueError(f"{self.group!r}: this system has no groups; expected no value")
        is_number = self.group.isascii() and self.group.isdecimal()
        try:
            number = _number(self.group) if is_number else _group(self.group)
        except ValueError as error:
            text = f"{self.group!r}: {error}; expected a group of this host, name or number"
            raise ValueError(text) from None
        if user_id() != 0 and number not in group_ids():
            raise ValueError(
                f"{self.group!r}: expected an agent that is root or a member of this group"
            )
        return number

    def apply(self, rules: PeerRules | None) -> tuple[int, int | None]:
        """Return mode and group of a new socket, which rules complete (raises ValueError)."""
        own_mode, own_group = self.find_mode(), self.find_group()
        if rules is not None:
            mode, group = rules.socket_mode(user_id())
        else:
            mode, group = (PRIVATE if own_group is None else _WITH_GROUP), None
        return (
            mode if own_mode is None else own_mode,
            group if own_group is None else own_group,
        )


def check_rules_apply(addresses: Sequence[str], *, has_keys: bool, has_certificates: bool) -> None:
    """Check that `rpc_allow` decides something, and that no other address is open to all users.

    Raises:
        ConfigError: it does not, or one is.
    """
    ports = [address for address in addresses if unix_path(address) is None]
    if len(ports) == len(addresses):
        raise ConfigError(
            "rpc_allow: is about Unix sockets, but rpc_addr has none; expected an address such as"
            " unix:/run/trioserf.sock"
        )
    ports = [port for port in ports if not (has_certificates and split_tls(port)[0])]
    if ports and not has_keys:
        raise ConfigError(
            f"rpc_allow: restricts Unix sockets only, and every user can connect to {ports[0]};"
            " remove this address from rpc_addr, or set rpc_auth or rpc_tokens"
        )


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
