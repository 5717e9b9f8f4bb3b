"""Clients of the control port: their identities, and what they may do.

(See control/README.md, § Scopes.)
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from trioserf.address import format_host_port
from trioserf.control.errors import ControlError
from trioserf.control.server import tokens
from trioserf.control.server.peers import PeerRules
from trioserf.control.server.permissions import ALL, NONE, Permissions, Requirement
from trioserf.control.server.tokens import Token
from trioserf.errors import ConfigError
from trioserf.net.threads import run_in_thread
from trioserf.operating_system.sockets import Peer, PeerSocket, is_unix, knows_peers, peer_of

MAX_CHECKS: Final = 1
"""Tokens whose hash is computed at once; it takes a core and 16 MiB. Others wait."""


def _do_nothing() -> None:
    """Stand for a callback where there is none."""


@attrs.define(eq=False, repr=False)
class Client:
    """The other end of a connection.

    Attributes:
        address: its address: `host:port`, or `unix`.
        source: its host or user; equal refusals are counted by it.
        who: what it is known by: `token:NAME`, `rpc_auth`, `uid:NUMBER`, or else its address.
        title: the same in an error.
        authenticated: whether it may send commands.
        permissions: its scopes.
        refusal: why its user is not admitted, for errors; empty if users do not matter.
        tokens: the tokens that it has sent; streams of earlier ones may be open.
        on_revoked: called when one of them is removed or changed.
    """

    address: str = ""
    source: str = ""
    who: str = ""
    title: str = "this client"
    authenticated: bool = False
    permissions: Permissions = NONE
    refusal: str = ""
    tokens: set[Token] = attrs.field(factory=set)
    on_revoked: Callable[[], None] = _do_nothing

    def __str__(self) -> str:
        """Return the address, with the user of a Unix socket."""
        return f"unix {self.who}" if self.who.startswith("uid:") else self.address or "unknown"

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
        token_file: the file of tokens; None for none. `reload` reads it.
        rules: the users of Unix sockets that need no key; None if users do not matter.
        peer_of: returns the process at the other end of a Unix socket; may raise OSError.
    """

    def __init__(
        self,
        auth: str = "",
        token_file: Path | None = None,
        rules: PeerRules | None = None,
        peer_of: Callable[[PeerSocket], Peer] = peer_of,
    ) -> None:
        self._auth = auth
        self._token_file = token_file
        self._rules = rules
        self._peer_of = peer_of
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
        try:
            self._tokens = await run_in_thread(partial(tokens.load, self._token_file))
        except BlockingIOError as error:
            raise ConfigError(f"rpc_tokens: cannot be read: {error.strerror}") from error
        self._verified = {
            digest: token for digest, token in self._verified.items() if self._is_current(token)
        }
        for client in list(self._clients):
            if not all(map(self._is_current, client.tokens)):
                client.permissions = NONE
                client.on_revoked()

    def identify(self, stream: trio.abc.Stream) -> Client:
        """Return the client at the other end of a new connection; admit it if it needs no key."""
        address, source = _address(stream)
        client = Client(address, source, who=address)
        rules = None
        if isinstance(stream, trio.SocketStream) and is_unix(stream.socket.family):
            rules = self._rules
            self._identify_user(client, stream.socket)
        if rules is None and not self.has_keys:
            client.admit(client.who, client.title, ALL)
        return client

    def _identify_user(self, client: Client, sock: PeerSocket) -> None:
        """Find the user of a Unix socket; admit it if a rule does."""
        try:
            peer = self._peer_of(sock) if knows_peers() else None
        except OSError:  # it has disconnected
            peer = None
        user = "an unknown user"
        if peer is not None:
            client.who = client.source = f"uid:{peer.uid}"
            user = f"uid {peer.uid}"
        if self._rules is None:
            return
        permissions = None if peer is None else self._rules.permissions_of(peer)
        if permissions is None:
            client.refusal = f"{user} is not allowed here; rpc_allow has {self._rules}"
        else:
            client.admit(client.who, user, permissions)

    def refusal(self, client: Client) -> ControlError:
        """Return the error of a client that is not authenticated and sends another command."""
        if not self.has_keys:
            return ControlError("forbidden", client.refusal)
        hint = f" ({client.refusal})" if client.refusal else ""
        return ControlError("auth_required", f"the first command must be auth, with the key{hint}")

    async def authenticate(self, client: Client, key: str) -> bool:
        """Return whether a key or token is valid; if so, admit the client.

        Where there are no keys, the empty one is valid, as in Serf; it admits no client.
        """
        if not self.has_keys:
            await trio.lowlevel.checkpoint()
            return client.authenticated and not key
        if self.key_matches(key):
            await trio.lowlevel.checkpoint()
            client.admit("rpc_auth", client.title, ALL)
            return True
        token = await self._find_token(key)
        if token is None:
            return False
        client.admit(f"token:{token.name}", "this token", token.permissions)
        client.tokens.add(token)
        self._clients.add(client)
        return True

    def forget(self, client: Client) -> None:
        """Forget a client that has disconnected."""
        self._clients.discard(client)
        client.on_revoked = _do_nothing  # and the connection is in no reference cycle

    def key_matches(self, key: str) -> bool:
        """Return whether the key is `rpc_auth`, in constant time; no key is if that is empty."""
        matches = hmac.compare_digest(_key_bytes(key), _key_bytes(self._auth))
        return matches and bool(self._auth)

    async def _find_token(self, key: str) -> Token | None:
        """Return the entry of a token; None if it is not valid."""
        digest = hashlib.blake2b(_key_bytes(key), key=self._digest_key).digest()
        token = self._verified.get(digest) or self._tokens.get(tokens.name_of(key))
        if token is None or digest in self._verified:
            await trio.lowlevel.checkpoint()
            return token
        try:
            async with self._checks:
                matches = await run_in_thread(partial(token.hash.matches, key))
        except BlockingIOError as error:
            raise ControlError("timeout", f"{error.strerror}; try again") from error
        # The file may have been read again meanwhile.
        if not matches or not self._is_current(token):
            return None
        self._verified[digest] = token
        return token

    def _is_current(self, token: Token) -> bool:
        return self._tokens.get(token.name) == token


def _key_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _address(stream: trio.abc.Stream) -> tuple[str, str]:
    """Return address and host of the other end; empty if it has disconnected."""
    if not isinstance(stream, trio.SocketStream):
        return "", ""
    if is_unix(stream.socket.family):
        return "unix", "unix"
    try:
        name: Any = stream.socket.getpeername()
    except OSError:
        return "", ""
    return format_host_port(name[0], name[1]), name[0]
