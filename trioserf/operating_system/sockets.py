"""Sockets: what the systems do differently."""

import errno
import os
import socket
import struct
import sys
from typing import Any, Final, NamedTuple, Protocol

OUT_OF_FILES: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, getattr(errno, "WSAEMFILE", 0)} - {0}
)
"""Errors of `accept` without a free descriptor or memory; sockets of Windows have one more."""

KEEPALIVE: Final = tuple(
    (level, number, value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        # The same time before the first probe; macOS has another name for it.
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
        (socket.IPPROTO_TCP, "TCP_KEEPALIVE", 60),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    )
    if (number := getattr(socket, name, None)) is not None
)
"""Options of `setsockopt`: the end of a silent peer's connection is noticed in two minutes."""

# The types of Python know these names on some systems only; some builds lack them, too.
_AF_UNIX: Final[int | None] = getattr(socket, "AF_UNIX", None)
_LARGEST_DATAGRAM: Final = 65_535

# Linux, <linux/in.h>, <linux/in6.h>, <linux/socket.h> and <linux/errqueue.h>; Python lacks them.
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_MSG_ERRQUEUE: Final = 0x2000
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")
_ICMP_ORIGINS: Final = frozenset({2, 3})
_ERROR_SPACE: Final = 256
"""Room for an extended error and the address of the host that sent it."""

# Linux, <asm/socket.h>, since 4.13; where it is missing, so are further groups.
_SO_PEERGROUPS: Final = 59
_MAX_GROUP_BYTES: Final = 1024
"""The most that Python's getsockopt returns; of a process in over 256 groups only one is known."""
_CREDENTIALS: Final = struct.Struct("=iII")
# macOS and FreeBSD, <sys/un.h> and <sys/ucred.h>.
_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_XUCRED: Final = struct.Struct("=IIh2x")
_XUCRED_BYTES: Final = _XUCRED.size + 16 * 4


def claim_port(one: socket.socket) -> None:
    """Before a bind: make the port this process's own, and free at once after its end.

    Linux and macOS need SO_REUSEADDR for the second part, and for TCP only. On Windows that
    option would let another process take the port; SO_EXCLUSIVEADDRUSE prevents it.
    """
    if sys.platform == "win32":
        one.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    elif one.type == socket.SOCK_STREAM:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def share_port(one: socket.socket) -> None:
    """Before a bind: share a port of multicast with other programs.

    SO_REUSEADDR is enough on Linux and Windows; macOS and the BSDs need SO_REUSEPORT, too.
    """
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sys.platform != "linux" and sys.platform != "win32":
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def are_files() -> bool:
    """Return whether `os.read` and `os.write` accept sockets; not on Windows."""
    return sys.platform != "win32"


def binds_to_group() -> bool:
    """Return whether a socket can be bound to a multicast group; not on Windows."""
    return sys.platform != "win32"


def multicast_interface(host: str, index: int, *, joins: bool) -> bytes:
    """Return the option value that names an IPv4 group and an interface by its index.

    Linux and macOS take a `struct ip_mreqn`. Windows takes addresses; one of the network 0.0.0.0/8
    is an index there.

    Args:
        host: the group's address, or `0.0.0.0`.
        index: number of the interface, 0 for the system's choice.
        joins: the value is for IP_ADD_MEMBERSHIP, not for IP_MULTICAST_IF.
    """
    if sys.platform == "win32":
        interface = struct.pack("!I", index)
        return socket.inet_aton(host) + interface if joins else interface
    else:
        return socket.inet_aton(host) + bytes(4) + struct.pack("@i", index)


def allow_large_datagrams(one: socket.socket) -> None:
    """Make a UDP socket send datagrams of any size; macOS begins with at most 9,216 bytes."""
    if one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < _LARGEST_DATAGRAM:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST_DATAGRAM)


def share_source_ports(one: Any) -> None:
    """Before a bind to port 0: let connect() choose the port, which several streams may share.

    Only Linux can do that, and not every Python names the option.
    """
    option: int | None = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", None)
    if option is not None:
        one.setsockopt(socket.IPPROTO_IP, option, 1)


def request_refusals(udp: socket.socket) -> bool:
    """Request the address of each packet that was refused; return whether the system does that.

    Only Linux does. Others report that some packet was refused (Windows: WSAECONNRESET), or
    nothing.

    Raises:
        OSError: the request failed.
    """
    if sys.platform == "linux":
        if udp.family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        udp.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        return True
    else:
        return False


def read_refusal(udp: socket.socket) -> Any:
    """Read an ICMP error; return the destination if it is a refusal: no process listens there.

    Raises:
        BlockingIOError: there is none.
        OSError: it cannot be read, or `request_refusals` returned False.
    """
    if sys.platform == "linux":
        _, ancillary, _, source = udp.recvmsg(0, _ERROR_SPACE, _MSG_ERRQUEUE)
        return source if any(_is_refusal(data) for _, _, data in ancillary) else None
    else:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _is_refusal(data: bytes) -> bool:
    """Return whether an extended error is ICMP's port unreachable."""
    if len(data) < _EXTENDED_ERROR.size:
        return False
    number, origin, *_ = _EXTENDED_ERROR.unpack_from(data)
    return number == errno.ECONNREFUSED and origin in _ICMP_ORIGINS


def is_unix(family: int) -> bool:
    """Return whether an address family is that of Unix sockets."""
    return family == _AF_UNIX


def require_unix() -> int:
    """Return the address family of Unix sockets.

    Raises:
        OSError: this system, or its Python, has none.
    """
    if _AF_UNIX is None:
        text = "this system has no Unix sockets; expected an address such as 127.0.0.1:7373"
        raise OSError(errno.EAFNOSUPPORT, text)
    return _AF_UNIX


def unix_socket(kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a new Unix socket (raises OSError where there is none)."""
    return socket.socket(require_unix(), kind)


class Peer(NamedTuple):
    """The user and the groups of a process."""

    uid: int
    gids: frozenset[int]


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
    if sys.platform == "linux":
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, gid = _CREDENTIALS.unpack(data)
        try:
            groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUP_BYTES)
        except OSError:
            groups = b""
        return Peer(uid, frozenset((gid, *struct.unpack(f"={len(groups) // 4}I", groups))))
    else:
        return from_xucred(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES))


def knows_peers(platform: str = sys.platform) -> bool:
    """Return whether the system reports the users of Unix sockets."""
    return platform.startswith(("linux", "darwin", "freebsd"))


def from_xucred(data: bytes) -> Peer:
    """Decode the credentials of BSD and macOS (`struct xucred`).

    Raises:
        OSError: another version of the structure.
    """
    version, uid, count = _XUCRED.unpack_from(data)
    if version != 0 or not 0 <= count <= (len(data) - _XUCRED.size) // 4:
        raise OSError(f"unknown credentials of version {version}")
    return Peer(uid, frozenset(struct.unpack_from(f"={count}I", data, _XUCRED.size)))
