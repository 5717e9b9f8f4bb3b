"""The stream of the log: errors of writing."""

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


def test_log_continues_after_full_disk() -> None:
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
            assert len(lines._lines) == 3  # all are kept
