"""Error texts of Go's standard library, as Serf's RPC sends them."""

import string

from trioserf.address import format_host_port, parse_host_port
from trioserf.node.config import DEFAULT_PORT

_BASE64 = frozenset(string.ascii_letters + string.digits + "+/")
_DIAL_ERRORS = frozenset(
    (
        "connection refused",
        "connection reset by peer",
        "connection timed out",
        "host is down",
        "network is unreachable",
        "no route to host",
        "permission denied",
    )
)


def go_join_error(address: str, reason: str) -> str:
    """Return the error of an address that could not be joined.

    Args:
        address: `ip:port`, or the address as given if it could not be resolved.
        reason: the reason; it may end in the operating system's text.
    """
    if reason.startswith("join address"):
        return f"failed to resolve {address}: {reason.removeprefix(f'join address {address!r}: ')}"
    try:
        host, port = parse_host_port(address.rpartition("/")[2])
    except ValueError:  # SRV records may name any host
        host, port = address, None
    if reason.startswith("unknown host"):
        return f"failed to resolve {address}: lookup {host}: no such host"
    target = format_host_port(host, DEFAULT_PORT if port is None else port)
    system_error = reason.rpartition(": ")[2].lower()
    if system_error in _DIAL_ERRORS:
        return f"failed to join {target}: dial tcp {target}: connect: {system_error}"
    return f"failed to join {target}: {reason}"


def go_base64_error(text: str) -> str | None:
    """Return the error, with its byte, of text that is not padded base64; otherwise None."""
    position = count = 0
    size = len(text.encode("utf-8", "surrogateescape"))
    for position, char in enumerate(text):
        if char in "\r\n":
            continue
        if char in _BASE64:
            count += 1
        elif char == "=" and count % 4 >= 2:
            return _padding_error(text, position, count % 4)
        else:
            return _illegal(position)
    return _illegal(size - count % 4) if count % 4 else None


def _padding_error(text: str, position: int, digits: int) -> str | None:
    """Check the text from the first `=` on, after two or three digits of the last four."""
    rest = [at for at, char in enumerate(text) if at > position and char not in "\r\n"]
    if digits == 2:
        if not rest:
            return _illegal(len(text))
        if text[rest[0]] != "=":
            return _illegal(position)
        del rest[0]
    return _illegal(rest[0]) if rest else None


def _illegal(position: int) -> str:
    return f"illegal base64 data at input byte {position}"
