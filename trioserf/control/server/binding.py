"""Sockets of the control port: they are checked and bound before the agent is started."""

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from trioserf.control.address import split_address, unix_path
from trioserf.control.server.access import AccessControl
from trioserf.control.server.inherited import find_inherited, format_name
from trioserf.control.server.peers import (
    PRIVATE,
    PeerRules,
    SocketRights,
    check_rules_apply,
)
from trioserf.control.tls import TlsFiles, split_tls
from trioserf.defaults import TLS
from trioserf.errors import AddressError, ConfigError
from trioserf.net.threads import run_in_thread
from trioserf.operating_system.sockets import unix_socket
from trioserf.operating_system.users import set_group
from trioserf.value_objects import ValueObject

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

_BACKLOG = 128


@attrs.frozen(eq=False, repr=False)
class ControlSockets(ValueObject):
    """Listening sockets, and what decides on their clients; made by `bind_control`.

    Attributes:
        access: admits clients.
        certificates: for connections over TLS, if there are certificates.
        plain: the listeners without TLS.
        encrypted: the listeners with TLS.
        addresses: where all of them listen, in the order of the configuration.
    """

    access: AccessControl
    certificates: "ssl.SSLContext | None"
    plain: list[trio.SocketListener] = attrs.field(factory=list)
    encrypted: list[trio.SocketListener] = attrs.field(factory=list)
    addresses: list[str] = attrs.field(factory=list)


@asynccontextmanager
async def bind_control(
    addresses: Sequence[str],
    *,
    auth: str = "",
    tokens: str = "",
    allow: Sequence[str] = (),
    rights: SocketRights | None = None,
    tls: TlsFiles | None = None,
    inherited: Sequence[socket.socket] = (),
) -> AsyncIterator[ControlSockets]:
    """Listen on `addresses` while the block runs; clients wait until `serve_control` serves them.

    Args:
        addresses: `host:port`, `[v6]:port`, a bare host (port 7373), the same after `tls://`, or
            `unix:PATH`. Port 0 selects a free port; `ControlSockets.addresses` has the result.
        auth: the key that clients must send first; empty for none.
        tokens: file of tokens, of which clients must send one or the key; empty for none.
        allow: users of Unix sockets that need no key (see control/README.md, § Users of a Unix
            socket); empty for all that can open them.
        rights: mode and group of Unix sockets; None for what `allow` needs.
        tls: the certificate for addresses that begin with `tls://`.
        inherited: listening sockets that are used for their addresses instead of new ones; all of
            them must be in `addresses` (see `check_inherited`).

    Raises:
        AddressError: an address that is not valid, is in use or may not be used.
        ConfigError: a file of `tls` or of tokens, or a rule cannot be used, or an address needs
            `tls`.
    """
    rules = await _in_thread(partial(PeerRules.parse, allow)) if allow else None
    access = AccessControl(auth, Path(tokens) if tokens else None, rules)
    await access.reload()
    if rules is not None:
        with_certificates = tls is not None and bool(tls.client_ca)
        keyed = access.has_keys
        check_rules_apply(addresses, has_keys=keyed, has_certificates=with_certificates)
    sockets = ControlSockets(access, await load_tls(tls))
    async with AsyncExitStack() as stack:
        for address in addresses:
            is_tls, host = split_tls(address)
            if is_tls and sockets.certificates is None:
                raise ConfigError(f"control address {address}: needs rpc_tls_cert")
            if is_tls and unix_path(host) is not None:
                raise AddressError(
                    f"control address {address}: expected {TLS}host:port, or {host}"
                )
            passed = find_inherited(host, inherited)
            if passed is not None:
                opened = [_listener(passed)]
            else:
                opened = await _open(host, rules, rights or SocketRights())
            for listener in opened:
                stack.push_async_callback(trio.aclose_forcefully, listener)
                name = format_name(listener.socket.getsockname())
                sockets.addresses.append(TLS * is_tls + name)
            if passed is None and (path := unix_path(address)) is not None:
                stack.callback(_remove_own(Path(path)))
            listeners = sockets.encrypted if is_tls else sockets.plain
            listeners += opened
        yield sockets


async def load_tls(files: TlsFiles | None) -> "ssl.SSLContext | None":
    """Read the files of certificates; None without them.

    Raises:
        ConfigError: a file cannot be used.
    """
    return None if files is None else await _in_thread(files.load)


async def _in_thread(load: Callable[[], T]) -> T:
    """Read a part of the configuration in a thread (raises ConfigError)."""
    try:
        return await run_in_thread(load)
    except BlockingIOError as error:
        raise ConfigError(f"the control port's files cannot be read: {error.strerror}") from error


async def _open(
    address: str, rules: PeerRules | None, rights: SocketRights
) -> list[trio.SocketListener]:
    if (path := unix_path(address)) is not None:
        mode, group = await _in_thread(partial(_socket_rights, rights, rules))
        return [_open_unix(Path(path), mode, group)]
    host, port = split_address(address)
    try:
        return await trio.open_tcp_listeners(port, host=host or None, backlog=_BACKLOG)
    except OSError as error:
        raise AddressError(f"control address {address}: {_reason(error)}") from error


def _socket_rights(rights: SocketRights, rules: PeerRules | None) -> tuple[int, int | None]:
    """Return mode and group of a new Unix socket; look up names (raises ConfigError)."""
    try:
        return rights.apply(rules)
    except ValueError as error:
        raise ConfigError(f"rpc_socket_mode, rpc_socket_group: {error}") from None


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "already in use; another agent may be running there (--rpc-addr chooses another)"
    return error.strerror or str(error)


def _open_unix(path: Path, mode: int, group: int | None) -> trio.SocketListener:
    """Listen on a path; replace the socket of an agent that has ended."""
    where = f"control address unix:{path}"
    try:
        sock = unix_socket()
    except OSError as error:
        raise AddressError(f"{where}: {_reason(error)}") from error
    # The mode comes from the mask, so that other users cannot connect even for a moment.
    mask = os.umask(0o177)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        if group is not None:
            _set_group(path, group)
        if mode != PRIVATE:
            path.chmod(mode)
        sock.listen(_BACKLOG)
    except (OSError, AddressError) as error:
        sock.close()
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        raise AddressError(f"{where}: {reason}") from error
    finally:
        os.umask(mask)
    return _listener(sock)


def _listener(sock: socket.socket) -> trio.SocketListener:
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _set_group(path: Path, group: int) -> None:
    """Set the group of a new socket; remove it if that fails.

    Raises:
        AddressError: the agent may not do that.
    """
    try:
        set_group(str(path), group)
    except OSError as error:
        path.unlink()
        raise AddressError(
            f"its group cannot be set to gid {group} for rpc_allow or rpc_socket_group:"
            f" {error.strerror}; expected an"
            " agent that is root or a member of this group"
        ) from error


def _remove_stale(path: Path) -> None:
    """Remove a socket without a listener; raise OSError for any other file."""
    with suppress(FileNotFoundError), unix_socket() as probe:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket is there")
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # a busy agent listens there
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove_own(path: Path) -> Callable[[], None]:
    """Return a function that removes the socket at `path`, unless it was replaced."""
    own = path.lstat()

    def remove() -> None:
        with suppress(FileNotFoundError):
            current = path.lstat()
            if (current.st_dev, current.st_ino) == (own.st_dev, own.st_ino):
                path.unlink()

    return remove
