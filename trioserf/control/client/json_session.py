"""A blocking client of the JSON lines; it needs the standard library only."""

from collections import deque
from collections.abc import Generator
from contextlib import ExitStack
from typing import Literal, Self

from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client import requests
from trioserf.control.client.requests import (
    LineReader,
    Object,
    encode_line,
    error_from,
    result_of,
)
from trioserf.control.client.session import (
    PROMPT_TIMEOUT,
    REMOTE_TIMEOUT,
    AgentSession,
    SyncSocket,
)
from trioserf.control.errors import ControlError
from trioserf.control.tls import Tls


class JsonSession(AgentSession):
    """An `AgentSession` over JSON lines."""

    protocol: Literal["json"] = "json"

    def __init__(self, sock: SyncSocket) -> None:
        super().__init__(sock)
        self._reader = LineReader()
        self._received: deque[Object] = deque()

    @classmethod
    def connect(
        cls,
        address: str = DEFAULT_ADDRESS,
        auth: str | None = None,
        *,
        timeout: float = 10.0,
        tls: Tls | None = None,
    ) -> Self:
        """Connect and authenticate; arguments and errors as `connect_any`.

        Raises:
            ControlError: also `disconnected` or `protocol` when the other side speaks no JSON.
        """
        with ExitStack() as unfinished:
            session = cls(SyncSocket(address, timeout, tls))
            unfinished.callback(session.close)
            if auth:
                session._call(requests.auth(auth), timeout)
            session._call(requests.handshake(), timeout)
            unfinished.pop_all()
        return session

    def _ask(self, command: str, parameters: Object, timeout: float) -> Object:
        self._seq += 1
        self._socket.set_timeout(timeout)
        self._socket.send(encode_line(command, self._seq, parameters))
        while (reply := self._next()).get("seq") != self._seq or "ok" not in reply:
            self._route(reply)
        return result_of(reply)

    def _open(
        self, command: str, parameters: Object, limit: float | None
    ) -> Generator[Object, None, None]:
        seq = self._seq + 1
        self._open_queue(seq)
        try:
            self._ask(command, parameters, PROMPT_TIMEOUT)
        except ControlError:
            del self._streams[seq]
            raise
        return self._read_stream(seq, None if limit is None else limit + REMOTE_TIMEOUT)

    def _read_stream(self, seq: int, timeout: float | None) -> Generator[Object, None, None]:
        """Yield the records of a stream; `timeout`: seconds without a byte."""
        done = False
        try:
            while not done:
                record = self._take(seq)
                if record is None:
                    self._socket.set_timeout(timeout)
                    self._route(self._next())
                    continue
                done = record.get("type") == "done" or record.get("ok") is False
                if record.get("ok") is False:
                    raise error_from(record)
                yield record
        finally:
            del self._streams[seq]
            if not done:
                self._send_stop(seq)

    def _send_stop(self, seq: int) -> None:
        """Stop a stream; a lost connection has stopped it."""
        self._seq += 1
        try:
            self._socket.send(encode_line("stop", self._seq, {"stop": seq}))
        except ControlError:
            return

    def _route(self, record: Object) -> None:
        self._put(record.pop("seq", None), record)

    def _next(self) -> Object:
        while not self._received:
            self._received.extend(self._reader.feed(self._socket.receive()))
        return self._received.popleft()
