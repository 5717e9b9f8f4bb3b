"""Listening sockets that a service manager has passed to the agent (socket activation).

Each is used for the address in `rpc_addr` that it listens at. The mode and the group of a Unix
socket are then the service manager's (see agent/README.md, § Running as a service).
"""

import os
import socket
from collections.abc import Sequence
from typing import Any

from trioserf.address import format_host_port
from trioserf.control.address import split_address, unix_path
from trioserf.control.tls import split_tls
from trioserf.errors import AddressError


def format_name(name: Any) -> str:
    """Return the name of a socket, from `getsockname`, as an address of the control port."""
    if isinstance(name, tuple):
        return format_host_port(name[0], name[1])
    return f"unix:{os.fsdecode(name)}"


def socket_name(sock: socket.socket) -> str:
    """Return the address of a socket; empty if it has none."""
    try:
        return format_name(sock.getsockname())
    except OSError:
        return ""


def find_inherited(address: str, sockets: Sequence[socket.socket]) -> socket.socket | None:
    """Return the socket that listens at an address without `tls://`, or None."""
    name = address if unix_path(address) is not None else format_host_port(*split_address(address))
    return next((sock for sock in sockets if socket_name(sock) == name), None)


def check_inherited(addresses: Sequence[str], sockets: Sequence[socket.socket]) -> None:
    """Check that every socket listens, and that its address is configured.

    Raises:
        AddressError: one does not.
    """
    if not sockets:
        return
    used = [find_inherited(split_tls(address)[1], sockets) for address in addresses]
    for sock in sockets:
        name = socket_name(sock) or "without an address"
        if not _listens(sock):
            raise AddressError(
                f"the service manager has passed a socket, {name}, that does not accept"
                " connections; expected ListenStream="
            )
        if sock not in used:
            raise AddressError(
                f"the service manager has passed a socket, {name}, that is not in rpc_addr;"
                f" expected one of {', '.join(addresses)}"
            )


def _listens(sock: socket.socket) -> bool:
    if sock.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
