"""The log's own stream: what happens when it cannot be written."""

import errno
import io
import logging

from trioserf.agent.logs import open_logs

_log = logging.getLogger("trioserf.agent")


class Disk(io.StringIO):
    """A file on a disk that may be full."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_the_log_goes_on_when_there_is_room_again() -> None:
    disk = Disk()
    with open_logs("INFO", disk) as logs:
        logs.release()
        _log.info("before")
        disk.full = True
        _log.info("while it is full")
        disk.full = False
        _log.info("after")
        assert [line.rpartition(": ")[2] for line in disk.getvalue().splitlines()] == [
            "before",
            "after",
        ]
        with logs.subscribe("INFO") as lines:
            assert len(lines._lines) == 3  # all are remembered
