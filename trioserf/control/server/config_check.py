"""Checks of the configuration of the control port, and the check of a whole configuration."""

import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from trioserf.agent.config import AgentConfig
from trioserf.agent.config_check import (
    AGENT_CHECKS,
    errors_of,
    may_be_host,
    may_write_in,
    private,
    writable,
)
from trioserf.agent.config_problems import Check, Checked, Finding
from trioserf.agent.config_sources import Sources
from trioserf.control.address import split_address, unix_path
from trioserf.control.server import tokens
from trioserf.control.server.audit import STDERR
from trioserf.control.server.http_api.binding import check_http
from trioserf.control.server.inherited import check_inherited, socket_name
from trioserf.control.server.peers import PeerRules, SocketRights, check_rules_apply
from trioserf.control.tls import TlsFiles, split_tls
from trioserf.defaults import TLS
from trioserf.errors import AddressError
from trioserf.operating_system.sockets import require_unix

_OPEN: Final = re.compile("[2367]$")
"""The end of a mode that allows all users to connect: to write."""
_FILE: Final = "a file that can be read"
_MAX_PATH: Final = 107
"""Bytes of the path of a Unix socket on Linux; elsewhere a few less."""


def check_configuration(sources: Sources, inherited: Sequence[socket.socket] = ()) -> Checked:
    """Read and check a whole configuration; return all errors of all sources.

    Blocks while files are read. Opens no socket and writes nothing.

    Args:
        sources: the sources.
        inherited: sockets that a service manager has passed to this process.
    """
    addresses = partial(_addresses, inherited=inherited)
    return sources.check((*AGENT_CHECKS, addresses, *_CONTROL_CHECKS))


def socket_rights(config: AgentConfig) -> SocketRights:
    """Return mode and group of Unix sockets, as configured."""
    return SocketRights(config.rpc_socket_mode, config.rpc_socket_group)


def tls_files(config: AgentConfig) -> TlsFiles | None:
    """Return the files of TLS of a configuration; None if it has none."""
    files = TlsFiles(config.rpc_tls_cert, config.rpc_tls_key, config.rpc_tls_client_ca)
    return files if files.cert else None


def _addresses(
    config: AgentConfig, *, inherited: Sequence[socket.socket] = ()
) -> Iterator[Finding]:
    names = {socket_name(one) for one in inherited}
    for item, address in enumerate(config.rpc_addr):
        if address not in names:
            yield from errors_of("rpc_addr", partial(_check_address, address), item)
    yield from errors_of("rpc_addr", partial(check_inherited, config.rpc_addr, inherited))


def _check_address(address: str) -> None:
    """Check one address of the control port (raises AddressError)."""
    is_tls, host = split_tls(address)
    path = unix_path(host)
    if path is None:
        name, _ = split_address(host)
        if not may_be_host(name):
            text = f"{address}: expected host:port, [v6]:port, tls://host:port or unix:PATH"
            raise AddressError(text)
        return
    try:
        require_unix()
    except OSError as error:
        raise AddressError(f"{address}: {error.strerror}") from error
    if is_tls:
        raise AddressError(f"{address}: expected {TLS}host:port, or {host}")
    size = len(os.fsencode(path))
    if not 1 <= size <= _MAX_PATH or "\0" in path:
        raise AddressError(f"{address}: a path of {size} bytes, expected 1 to {_MAX_PATH}")
    directory = Path(path).parent
    if not directory.is_dir():
        raise AddressError(
            f"{address}: {directory}: No such file or directory; expected a directory that exists"
        )
    if not may_write_in(directory):
        raise AddressError(
            f"{address}: {directory}: Permission denied; expected a directory for the socket"
        )


def _certificates(config: AgentConfig) -> Iterator[Finding]:
    files = tls_files(config)
    if files is None:
        return
    for found in errors_of("rpc_tls_cert", files.load, expected=_FILE):
        key, colon, text = found.message.partition(": ")
        is_key = bool(colon) and key in ("rpc_tls_key", "rpc_tls_client_ca")
        yield found._replace(key=key, message=text) if is_key else found
    key = "rpc_tls_key" if files.key else "rpc_tls_cert"
    yield from private(key, files.key or files.cert)


def _tokens(config: AgentConfig) -> Iterator[Finding]:
    if config.rpc_tokens:
        yield from errors_of(
            "rpc_tokens", partial(tokens.load, Path(config.rpc_tokens)), expected=_FILE
        )


def _users(config: AgentConfig) -> Iterator[Finding]:
    for item, text in enumerate(config.rpc_allow):
        yield from errors_of(
            "rpc_allow",
            partial(PeerRules.parse, [text]),
            item,
            expected="a user or group of this host",
        )
    if config.rpc_allow:
        has_keys = bool(config.rpc_auth or config.rpc_tokens)
        has_certificates = bool(config.rpc_tls_cert and config.rpc_tls_client_ca)
        check = partial(
            check_rules_apply,
            config.rpc_addr,
            has_keys=has_keys,
            has_certificates=has_certificates,
        )
        for found in errors_of("rpc_allow", check):
            yield found._replace(lacks=("rpc_addr", "rpc_auth", "rpc_tokens"))


def _socket(config: AgentConfig) -> Iterator[Finding]:
    rights = socket_rights(config)
    has_socket = any(unix_path(address) is not None for address in config.rpc_addr)
    for key, text, find in (
        ("rpc_socket_mode", rights.mode, rights.find_mode),
        ("rpc_socket_group", rights.group, rights.find_group),
    ):
        if not text:
            continue
        yield from errors_of(key, find)
        if not has_socket:
            message = "rpc_addr has no Unix socket; expected an address such as unix:PATH"
            yield Finding(key, f"{text}: {message}", lacks=("rpc_addr",))
    is_open = _OPEN.search(rights.mode) and not (
        config.rpc_auth or config.rpc_tokens or config.rpc_allow
    )
    if has_socket and is_open:
        text = f"{rights.mode}: every user can control the agent; expected rpc_allow or rpc_auth"
        yield Finding("rpc_socket_mode", text, is_warning=True)


def _audit(config: AgentConfig) -> Iterator[Finding]:
    if config.audit_log not in ("", STDERR):
        yield from writable("audit_log", config.audit_log)


_CONTROL_CHECKS: Final[Iterable[Check]] = (
    _certificates,
    _tokens,
    _users,
    _socket,
    _audit,
    check_http,
)
