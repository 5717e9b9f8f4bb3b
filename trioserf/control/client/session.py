"""Connections of blocking clients, with errors that say what happened."""

import socket
from collections import deque
from types import TracebackType
from typing import Any, Self

from trioserf.control.address import split_address, unix_path
from trioserf.control.errors import ControlError
from trioserf.errors import AddressError

_CHUNK = 262_144
_BUFFER = 16_384
"""Records kept of each open stream while the caller waits for something else."""


class SyncSocket:
    """A connected socket whose faults are ControlErrors.

    Args:
        address: `host:port`, `[v6]:port`, a bare host (port 7373) or `unix:PATH`.
        timeout: seconds to connect, and to wait until `wait` says otherwise.

    Raises:
        ControlError: `unreachable`.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self._timeout: float | None = timeout
        try:
            self._socket = _connected(address, timeout)
        except AddressError as error:
            raise ControlError("unreachable", str(error)) from None
        except TimeoutError:
            raise ControlError("unreachable", f"no agent answers at {address}") from None
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise ControlError("unreachable", f"no agent at {address}: {why}") from None

    def wait(self, timeout: float | None) -> None:
        """Set how long a read or a write may wait, in seconds (None: for ever)."""
        self._timeout = timeout

    def send(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            ControlError: `timeout`, `disconnected`.
        """
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except TimeoutError:
            raise ControlError("timeout", f"the agent at {self.address} takes no input") from None
        except OSError as error:
            raise self._gone(error) from None

    def receive(self) -> bytes:
        """Read something.

        Raises:
            ControlError: `timeout`; `disconnected` at the end.
        """
        try:
            self._socket.settimeout(self._timeout)
            data = self._socket.recv(_CHUNK)
        except TimeoutError:
            raise ControlError("timeout", f"no answer from the agent at {self.address}") from None
        except OSError as error:
            raise self._gone(error) from None
        if not data:
            raise self._gone(None)
        return data

    def _gone(self, error: OSError | None) -> ControlError:
        why = f": {(error.strerror or str(error)).lower()}" if error else ""
        return ControlError("disconnected", f"the agent closed the connection{why}")

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


class Session:
    """What the clients of both protocols share: the line, and the records of open streams."""

    def __init__(self, line: SyncSocket) -> None:
        self._line = line
        self._seq = 0
        self._streams: dict[int, deque[dict[str, Any]]] = {}
        self._lost: dict[int, int] = {}

    def close(self) -> None:
        """End the connection."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _put(self, seq: object, record: dict[str, Any]) -> None:
        """Put a record with its stream; what belongs to no open one is of no interest."""
        kept = self._streams.get(seq) if isinstance(seq, int) else None
        if kept is None or not isinstance(seq, int):
            return
        if len(kept) < _BUFFER:
            kept.append(record)
        else:
            self._lost[seq] = self._lost.get(seq, 0) + 1

    def _take(self, *seqs: int) -> dict[str, Any] | None:
        """Take a record that is there already, or the news that some were lost."""
        for seq in seqs:
            if self._streams[seq]:
                return self._streams[seq].popleft()
            if seq in self._lost:
                return {"event": "dropped", "count": self._lost.pop(seq)}
        return None

    def _drop(self, seq: int) -> None:
        """Forget a stream."""
        del self._streams[seq]
        self._lost.pop(seq, None)


def _connected(address: str, timeout: float) -> socket.socket:
    path = unix_path(address)
    if path is None:
        host, port = split_address(address)
        # As bytes, for text would have Python import its tables of international names.
        name: Any = host or "127.0.0.1"
        if host.isascii():
            name = name.encode("ascii")
        made = socket.create_connection((name, port), timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout)
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made
