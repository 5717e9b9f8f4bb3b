"""Users at the other end of Unix sockets, and the rules that admit them.

The system reports the user and the groups of the process that connected, so no key is needed.
(See control/README.md, § Users of a Unix socket.)
"""

import os
import re
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from trioserf.control.address import unix_path
from trioserf.control.server.permissions import ALL, Permissions
from trioserf.control.tls import split_tls
from trioserf.errors import ConfigError

_SO_PEERGROUPS: Final = 59
"""Of Linux 4.13 and later; Python does not name it. Where it is missing, so are further groups."""
_MAX_GROUP_BYTES: Final = 1024
"""The most that Python's getsockopt returns; of a process in over 256 groups only one is known."""
_CREDENTIALS: Final = struct.Struct("=iII")
_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_XUCRED: Final = struct.Struct("=IIh2x")
_XUCRED_BYTES: Final = _XUCRED.size + 16 * 4
_MAX_ID: Final = 2**32 - 2
_EXPECTED: Final = "expected uid:NUMBER, user:NAME, gid:NUMBER or group:NAME, and perhaps =SCOPE,…"
_PLATFORM: Final = sys.platform
PRIVATE: Final = 0o600
"""The mode of a Unix socket, unless rules or the configuration admit other users."""
_WITH_GROUP: Final = 0o660
_OWNER: Final = 0o600
"""What the owner must be able to do: connect."""
_MODE: Final = re.compile(r"0?[0-7]{3}")


class Peer(NamedTuple):
    """The user and the groups of a process."""

    uid: int
    gids: frozenset[int]


def is_supported(platform: str = _PLATFORM) -> bool:
    """Return whether the system reports the users of Unix sockets."""
    return platform.startswith(("linux", "darwin", "freebsd"))


class PeerSocket(Protocol):
    """A connected Unix socket, of Python or of Trio."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """Return an option of the socket."""
        ...


def peer_of(sock: PeerSocket) -> Peer:
    """Return the process that connected to a Unix socket, as it was then.

    Raises:
        OSError: the system does not report it.
    """
    if not _PLATFORM.startswith("linux"):
        return from_xucred(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES))
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, gid = _CREDENTIALS.unpack(data)
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUP_BYTES)
    except OSError:
        groups = b""
    return Peer(uid, frozenset((gid, *struct.unpack(f"={len(groups) // 4}I", groups))))


def from_xucred(data: bytes) -> Peer:
    """Decode the credentials of BSD and macOS (`struct xucred`).

    Raises:
        OSError: another version of the structure.
    """
    version, uid, count = _XUCRED.unpack_from(data)
    if version != 0 or not 0 <= count <= (len(data) - _XUCRED.size) // 4:
        raise OSError(f"unknown credentials of version {version}")
    return Peer(uid, frozenset(struct.unpack_from(f"={count}I", data, _XUCRED.size)))


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
        if not is_supported():
            raise ConfigError(f"rpc_allow: {_PLATFORM} does not report the users of Unix sockets")
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
            ValueError: it is unknown, or this process may not give files to it.
        """
        if not self.group:
            return None
        is_number = self.group.isascii() and self.group.isdecimal()
        try:
            number = _number(self.group) if is_number else _group(self.group)
        except ValueError as error:
            text = f"{self.group!r}: {error}; expected a group of this host, name or number"
            raise ValueError(text) from None
        if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
            raise ValueError(
                f"{self.group!r}: expected an agent that is root or a member of this group"
            )
        return number

    def apply(self, rules: PeerRules | None) -> tuple[int, int | None]:
        """Return mode and group of a new socket, which rules complete (raises ValueError)."""
        own_mode, own_group = self.find_mode(), self.find_group()
        if rules is not None:
            mode, group = rules.socket_mode(os.geteuid())
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
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ValueError("unknown user") from None


def _group(name: str) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError("unknown group") from None


_KINDS: Final = {"uid": _number, "user": _user, "gid": _number, "group": _group}
