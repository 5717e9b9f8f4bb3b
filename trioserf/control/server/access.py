"""Clients of the control port: their identities, and what they may do.

(See control/README.md, § Scopes.)
"""

import hmac
import socket
from typing import Any

import attrs
import trio

from trioserf.address import format_host_port
from trioserf.control.errors import ControlError
from trioserf.control.server.permissions import ALL, NONE, Permissions, Requirement


@attrs.define(eq=False)
class Client:
    """The other end of a connection.

    Attributes:
        address: its address: `host:port`, or `unix` for a Unix socket.
        who: what it is known by: `rpc_auth`, or else its address.
        title: the same in an error.
        authenticated: whether it may send commands.
        permissions: its scopes.
    """

    address: str = ""
    who: str = ""
    title: str = "this client"
    authenticated: bool = False
    permissions: Permissions = NONE

    def admit(self, who: str, title: str, permissions: Permissions) -> None:
        """Authenticate the client; this replaces earlier permissions."""
        self.who, self.title, self.permissions = who, title, permissions
        self.authenticated = True

    def require(self, required: Requirement) -> None:
        """Check the client's scopes.

        Raises:
            ControlError: `forbidden`; a scope is missing.
        """
        if not self.permissions.allow(required):
            raise ControlError(
                "forbidden",
                f"{self.title} lacks the scope {required}; it has: {self.permissions}",
            )


class AccessControl:
    """Admits clients.

    Args:
        auth: the key of all scopes, `rpc_auth`; empty for none.
    """

    def __init__(self, auth: str = "") -> None:
        self.auth = auth

    @property
    def has_keys(self) -> bool:
        """Whether there is a key that clients can authenticate with."""
        return bool(self.auth)

    def identify(self, stream: trio.abc.Stream) -> Client:
        """Return the client at the other end of a new connection; admit it if it needs no key."""
        client = Client(_address(stream))
        client.who = client.address
        if not self.auth:
            client.admit(client.address, client.title, ALL)
        return client

    async def authenticate(self, client: Client, key: str) -> bool:
        """Return whether the key is valid; if so, admit the client."""
        await trio.lowlevel.checkpoint()
        if not self.key_matches(key):
            return False
        client.admit("rpc_auth", client.title, ALL)
        return True

    def key_matches(self, key: str) -> bool:
        """Return whether the key is `rpc_auth`, in constant time."""
        return hmac.compare_digest(_key_bytes(key), _key_bytes(self.auth))


def _key_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _address(stream: trio.abc.Stream) -> str:
    """Return the address of the other end; empty if it has disconnected."""
    if not isinstance(stream, trio.SocketStream):
        return ""
    if stream.socket.family == socket.AF_UNIX:
        return "unix"
    try:
        name: Any = stream.socket.getpeername()
    except OSError:
        return ""
    return format_host_port(name[0], name[1])
