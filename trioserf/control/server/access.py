"""Clients of the control port: their identities, and what they may do.

(See control/README.md, § Scopes.)
"""

import hashlib
import hmac
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from trioserf.address import format_host_port
from trioserf.control.errors import ControlError
from trioserf.control.server import tokens
from trioserf.control.server.permissions import ALL, NONE, Permissions, Requirement
from trioserf.control.server.tokens import Token

MAX_CHECKS: Final = 1
"""Tokens whose hash is computed at once; it takes a core and 16 MiB. Others wait."""


@attrs.define(eq=False)
class Client:
    """The other end of a connection.

    Attributes:
        address: its address: `host:port`, or `unix` for a Unix socket.
        who: what it is known by: `token:NAME`, `rpc_auth`, or else its address.
        title: the same in an error.
        authenticated: whether it may send commands.
        permissions: its scopes.
        token: the token that it has sent, if any.
        on_revoked: called when this token is removed or changed.
    """

    address: str = ""
    who: str = ""
    title: str = "this client"
    authenticated: bool = False
    permissions: Permissions = NONE
    token: Token | None = None
    on_revoked: Callable[[], None] = lambda: None

    def admit(
        self, who: str, title: str, permissions: Permissions, token: Token | None = None
    ) -> None:
        """Authenticate the client; this replaces earlier permissions."""
        self.who, self.title, self.permissions, self.token = who, title, permissions, token
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
        token_file: the file of tokens; None for none. `reload` reads it.
    """

    def __init__(self, auth: str = "", token_file: Path | None = None) -> None:
        self._auth = auth
        self._token_file = token_file
        self._tokens: dict[str, Token] = {}
        self._clients: set[Client] = set()
        """Clients that have sent a token."""
        self._verified: dict[bytes, Token] = {}
        """Tokens that were checked, by a keyed digest; at most one for each entry of the file."""
        self._digest_key = os.urandom(32)
        self._checks = trio.CapacityLimiter(MAX_CHECKS)

    @property
    def has_keys(self) -> bool:
        """Whether there are keys or tokens that clients can authenticate with."""
        return bool(self._auth) or self._token_file is not None

    async def reload(self) -> None:
        """Read the tokens; disconnect clients whose token was removed or changed.

        Raises:
            ConfigError: the file cannot be used; the tokens stay as they were.
        """
        if self._token_file is None:
            return
        self._tokens = await trio.to_thread.run_sync(tokens.load, self._token_file)
        self._verified = {
            digest: token for digest, token in self._verified.items() if self._is_current(token)
        }
        for client in [one for one in self._clients if one.token is not None]:
            if client.token is not None and not self._is_current(client.token):
                client.permissions = NONE
                client.on_revoked()

    def identify(self, stream: trio.abc.Stream) -> Client:
        """Return the client at the other end of a new connection; admit it if it needs no key."""
        client = Client(_address(stream))
        client.who = client.address
        if not self.has_keys:
            client.admit(client.address, client.title, ALL)
        return client

    async def authenticate(self, client: Client, key: str) -> bool:
        """Return whether a key or token is valid; if so, admit the client."""
        if self.key_matches(key):
            client.admit("rpc_auth", client.title, ALL)
            await trio.lowlevel.checkpoint()
            return True
        token = await self._find_token(key)
        if token is None:
            return False
        client.admit(f"token:{token.name}", "this token", token.permissions, token)
        self._clients.add(client)
        return True

    def forget(self, client: Client) -> None:
        """Forget a client that has disconnected."""
        self._clients.discard(client)

    def key_matches(self, key: str) -> bool:
        """Return whether the key is `rpc_auth` (empty if there are no keys), in constant time."""
        if not self._auth and self.has_keys:
            return False
        return hmac.compare_digest(_key_bytes(key), _key_bytes(self._auth))

    async def _find_token(self, key: str) -> Token | None:
        """Return the entry of a token; None if it is not valid."""
        digest = hashlib.blake2b(_key_bytes(key), key=self._digest_key).digest()
        token = self._verified.get(digest) or self._tokens.get(tokens.name_of(key))
        if token is None or digest in self._verified:
            await trio.lowlevel.checkpoint()
            return token
        matches = await trio.to_thread.run_sync(token.hash.matches, key, limiter=self._checks)
        # The file may have been read again meanwhile.
        if not matches or not self._is_current(token):
            return None
        self._verified[digest] = token
        return token

    def _is_current(self, token: Token) -> bool:
        return self._tokens.get(token.name) == token


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
