"""Recognises HTTP requests, to answer them with an error that their clients show."""

import re
from typing import Final

_REQUEST: Final = re.compile(rb"\s*[A-Za-z]+ +\S+ +HTTP/\d[.\d]*\s*")
_TEXT: Final = (
    b"This is the control port of a trioserf agent: expected JSON lines or Serf's RPC, not HTTP.\n"
)
HTTP_ERROR: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_TEXT), _TEXT)
)
"""The response to any request."""


def is_http(line: bytes) -> bool:
    """Return whether a line is the first one of an HTTP request."""
    return _REQUEST.fullmatch(line) is not None
