"""TLS on accepted connections: the handshake, and clients that do not speak TLS."""

import socket
import ssl
from contextlib import suppress
from typing import Any, cast

import msgpack
import trio

from trioserf.control.errors import ControlError
from trioserf.control.server.connection import CHUNK
from trioserf.control.server.http import HTTP_ERROR, is_http
from trioserf.control.server.json_lines import decode, encode
from trioserf.control.server.msgpack_fields import header

HANDSHAKE = b"\x16"
"""The first byte of a TLS handshake; no request begins with it."""
NO_TLS = "this address speaks TLS; put tls:// before it"


class HandshakeError(Exception):
    """A handshake that failed; the text is the reason."""


class _Context:
    """A context that remembers what a failed handshake has still to send.

    Trio drops the alert that has OpenSSL's reason for the client.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.unsent = ssl.MemoryBIO()

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any
    ) -> ssl.SSLObject:
        self.unsent = outgoing
        return self._context.wrap_bio(incoming, outgoing, **options)


async def start_tls(
    transport: trio.abc.Stream, context: ssl.SSLContext
) -> trio.SSLStream[trio.abc.Stream]:
    """Do the server's side of a handshake; the caller sets the deadline.

    Raises:
        HandshakeError: the handshake failed, and the client is notified of the reason.
        trio.BrokenResourceError: the client has disconnected.
    """
    if isinstance(transport, trio.SocketStream):
        try:
            first = await transport.socket.recv(1, socket.MSG_PEEK)
        except OSError as error:
            raise trio.BrokenResourceError from error
        if not first:
            raise trio.BrokenResourceError("the client has disconnected")
        if first != HANDSHAKE:
            await transport.send_all(plaintext_error(bytes(await transport.receive_some(CHUNK))))
            raise HandshakeError("it does not speak TLS")
    wrapper = _Context(context)
    stream = trio.SSLStream(
        transport, cast("ssl.SSLContext", wrapper), server_side=True, https_compatible=True
    )
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if not isinstance(cause, ssl.SSLError):
            raise
        if alert := wrapper.unsent.read():
            await transport.send_all(alert)
        reason = getattr(cause, "verify_message", "") or cause.reason or str(cause)
        raise HandshakeError(reason.lower().replace("_", " ")) from None
    return stream


def plaintext_error(data: bytes) -> bytes:
    """Return an error for a client that does not speak TLS, in its framing."""
    if data[:1] == b"{":
        record: dict[str, Any] = {}
        with suppress(ControlError):
            request = decode(data.partition(b"\n")[0])
            record |= {name: request[name] for name in ("seq",) if name in request}
        record |= {"ok": False, "error": {"code": "bad_request", "message": NO_TLS}}
        return encode(record) + b"\n"
    if is_http(data.lstrip().partition(b"\n")[0]):
        return HTTP_ERROR
    with suppress(msgpack.UnpackException, ValueError, TypeError, KeyError):
        unpacker = msgpack.Unpacker()
        unpacker.feed(data)
        return header(int(unpacker.unpack()["Seq"]), NO_TLS)
    return b""
