"""The sockets, the certificate, the token and the names of HTTP, as configured."""

import errno
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trioserf.address import format_host_port
from trioserf.agent.config import AgentConfig
from trioserf.agent.config_check import errors_of, may_be_host, private
from trioserf.agent.config_problems import Finding
from trioserf.agent.files import read_file
from trioserf.agent.http_options import HTTP_EXTRA, HttpOptions, split_http_address
from trioserf.agent.optional_dependencies import require_extra
from trioserf.control.server.http_api.hosts import HostNames, is_loopback
from trioserf.control.tls import TlsFiles
from trioserf.errors import AddressError, ConfigError
from trioserf.net.threads import run_in_thread
from trioserf.value_objects import ValueObject

if TYPE_CHECKING:
    import ssl

_BACKLOG: Final = 64
_TLS: Final = "http_tls"
"""How the keys of the certificate begin."""
_MAX_TOKEN: Final = 4096
"""Bytes of the file with the token."""
_TOKEN: Final = re.compile(rb"[\x21-\x7e]+")


@attrs.frozen(eq=False, repr=False)
class HttpFiles(ValueObject):
    """What can be replaced while HTTP is served.

    Attributes:
        names: what requests may name.
        token: the token that requests must have; empty for none.
        tls: the certificate; None for plain HTTP.
    """

    names: HostNames
    token: bytes = attrs.field(default=b"", repr=False)
    tls: "ssl.SSLContext | None" = None

    @classmethod
    def load(cls, options: HttpOptions) -> "HttpFiles":
        """Read the files (raises ConfigError, which names the key)."""
        hosts = [split_http_address(text, key)[0] for text, key in options.addresses.items()]
        token = read_token(options.token_file) if options.token_file else b""
        files = tls_files(options)
        return cls(HostNames([*hosts, *options.hosts]), token, files.load(_TLS) if files else None)


@attrs.frozen(eq=False, repr=False)
class HttpSockets(ValueObject):
    """Listening sockets.

    Attributes:
        listeners: the sockets.
        addresses: where they listen, with the port that was chosen for port 0.
        files: what the requests are checked with.
    """

    listeners: list[trio.SocketListener]
    addresses: list[str]
    files: HttpFiles


def tls_files(options: HttpOptions) -> TlsFiles | None:
    """Return the files of TLS; None without a certificate (raises ConfigError)."""
    if options.tls_key and not options.tls_cert:
        raise ConfigError("http_tls_key: has no certificate; expected http_tls_cert")
    if not options.tls_cert:
        return None
    return TlsFiles(options.tls_cert, options.tls_key)


def read_token(path: str) -> bytes:
    """Return the token in a file.

    Raises:
        ConfigError: the file cannot be read, or is not one line of printable ASCII without blanks.
    """
    expected = "expected a file whose only line is a token of printable ASCII without blanks"
    try:
        data = read_file(Path(path), pipe=True)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except (OSError, ValueError) as error:  # a path with NUL is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"http_token_file: {path}: {reason}; {expected}") from error
    token = data.strip()
    if len(data) > _MAX_TOKEN or not _TOKEN.fullmatch(token):
        lines = len(data.splitlines())
        text = f"http_token_file: {path}: {len(data)} bytes in {lines} lines; {expected}"
        raise ConfigError(text)
    return token


async def load_files(options: HttpOptions) -> HttpFiles:
    """Read the files in a thread (raises ConfigError)."""
    try:
        return await run_in_thread(partial(HttpFiles.load, options))
    except BlockingIOError as error:
        raise ConfigError(f"the files of HTTP cannot be read: {error.strerror}") from error


@asynccontextmanager
async def open_sockets(options: HttpOptions) -> AsyncIterator[HttpSockets]:
    """Listen on the addresses while the block runs (raises as `bind_http`)."""
    sockets = HttpSockets([], [], await load_files(options))
    async with AsyncExitStack() as stack:
        for text, key in options.addresses.items():
            host, port = split_http_address(text, key)
            try:
                opened = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
            except OSError as error:
                reason = error.strerror or error
                if error.errno == errno.EADDRINUSE:
                    reason = "already in use"
                raise AddressError(f"{key}: cannot listen on {text}: {reason}") from error
            for listener in opened:
                stack.push_async_callback(trio.aclose_forcefully, listener)
                sockets.addresses.append(format_host_port(*listener.socket.getsockname()[:2]))
            sockets.listeners.extend(opened)
        yield sockets


# --- the check of a configuration, which opens no socket ---


def check_http(config: AgentConfig) -> Iterator[Finding]:
    """Check the addresses and files of HTTP, and that the packages are installed."""
    options = config.http
    for text, key in options.addresses.items():
        yield from errors_of(key, partial(_check_address, text, key))
    if options.addresses:
        yield from errors_of(options.key, partial(_import_packages, options.key))
    if options.token_file:
        yield from errors_of("http_token_file", partial(read_token, options.token_file))
        yield from private("http_token_file", options.token_file)
    yield from _certificate_errors(options)
    for item, name in enumerate(options.hosts):
        if not may_be_host(name):
            wrong = f"{name!r}: expected a name or an IP address, without a port"
            yield Finding("http_hosts", wrong, item)
    for key in ("hosts", "token_file", "tls_cert", "tls_key"):
        if getattr(options, key) and not options.addresses:
            text = "has no effect without an address; expected http_addr"
            yield Finding(f"http_{key}", text, lacks=("http_addr",), is_warning=True)
    if options.addresses and not options.token_file:
        yield from _open_warnings(options)


def _check_address(text: str, key: str) -> None:
    host, _ = split_http_address(text, key)
    if not may_be_host(host):
        raise ConfigError(f"{key}: {text!r}: expected host:port, such as 127.0.0.1:8080")


def _import_packages(key: str) -> None:
    with require_extra(key, HTTP_EXTRA):
        import hypercorn  # noqa: F401
        import starlette  # noqa: F401

        import trioserf.agent.prometheus  # noqa: F401


def _certificate_errors(options: HttpOptions) -> Iterator[Finding]:
    found: list[TlsFiles | None] = []
    yield from errors_of("http_tls_key", lambda: found.append(tls_files(options)))
    files = found[0] if found else None
    if files is None:
        return
    for one in errors_of(
        "http_tls_cert", partial(files.load, _TLS), expected="a file that can be read"
    ):
        message = one.message.removeprefix("http_tls_key: ")
        is_key = message != one.message
        yield one._replace(key="http_tls_key", message=message) if is_key else one
    yield from private("http_tls_key" if files.key else "http_tls_cert", files.key or files.cert)


def _open_warnings(options: HttpOptions) -> Iterator[Finding]:
    for text, key in options.addresses.items():
        try:
            host, _ = split_http_address(text, key)
        except ConfigError:
            continue  # reported above
        if may_be_host(host) and not is_loopback(host):
            message = (
                f"{text}: every host that can connect can read members, tags and payloads of"
                " events; expected http_token_file"
            )
            yield Finding(key, message, is_warning=True)
