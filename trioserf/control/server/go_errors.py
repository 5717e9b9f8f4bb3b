"""Faults in the words of Go's library, which reach Serf's users through its RPC."""

import string

_BASE64 = frozenset(string.ascii_letters + string.digits + "+/")
_DIAL_FAULTS = frozenset(
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
_PORT = 7946


def go_join_error(where: str, why: str) -> str:
    """Say why an address could not be joined.

    Args:
        where: what was tried: `ip:port`, or as it was typed if that gave no address.
        why: the reason, which may end in the operating system's.
    """
    if why.startswith("unknown host"):
        host = where.rpartition("/")[2]
        host = host.rpartition(":")[0] or host
        return f"Failed to resolve {where}: lookup {host}: no such host"
    if why.startswith("join address"):
        return f"Failed to resolve {where}: {why.removeprefix(f'join address {where!r}: ')}"
    reason = why.rpartition(": ")[2].lower()
    host, colon, port = where.rpartition(":")
    if not colon or not port.isdecimal():
        host, where = where, f"{where}:{_PORT}"
    if reason in _DIAL_FAULTS:
        return f"Failed to join {host.strip('[]')}: dial tcp {where}: connect: {reason}"
    return f"Failed to join {host.strip('[]')}: {why}"


def go_base64_error(text: str) -> str | None:
    """Say at which byte a text stops being base64 with padding; None if it never does."""
    place = count = 0
    size = len(text.encode("utf-8", "surrogateescape"))
    for place, char in enumerate(text):
        if char in "\r\n":
            continue
        if char in _BASE64:
            count += 1
        elif char == "=" and count % 4 >= 2:
            return _padding_fault(text, place, count % 4)
        else:
            return _illegal(place)
    return _illegal(size - count % 4) if count % 4 else None


def _padding_fault(text: str, place: int, digits: int) -> str | None:
    """Look at what comes from the first `=` on, behind two or three digits of the last four."""
    rest = [at for at, char in enumerate(text) if at > place and char not in "\r\n"]
    if digits == 2:
        if not rest:
            return _illegal(len(text))
        if text[rest[0]] != "=":
            return _illegal(place)
        del rest[0]
    return _illegal(rest[0]) if rest else None


def _illegal(place: int) -> str:
    return f"illegal base64 data at input byte {place}"
