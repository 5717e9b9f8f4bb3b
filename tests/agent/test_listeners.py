"""A lack of descriptors is logged once and outlasted; other errors are raised."""

import errno
import logging
import os

import pytest
import trio
import trio.testing

from trioserf.agent.listeners import PatientListener

LOG = logging.getLogger("trioserf.agent.ipc")


class BrokenListener(trio.abc.Listener[trio.SocketStream]):
    """A listener whose attempts to accept fail with these errors, and succeed after them."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.accepted = 0
        self.is_closed = False

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        self.accepted += 1
        return trio.SocketStream(trio.socket.socket())

    async def aclose(self) -> None:
        self.is_closed = True
        await trio.lowlevel.checkpoint()


async def test_lack_of_descriptors_is_logged_once_and_outlasted(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    broken = BrokenListener(*[errno.EMFILE] * 50)
    async with PatientListener(broken, LOG) as listener:
        with trio.fail_after(60), caplog.at_level(logging.DEBUG):
            await (await listener.accept()).aclose()
    assert broken.accepted == 1
    assert broken.is_closed
    (record,) = caplog.records
    assert record.name == LOG.name
    assert record.exc_info is None
    assert record.getMessage() == "Failed to accept client: Too many open files"


async def test_lack_of_descriptors_is_logged_at_most_every_ten_seconds(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    broken = BrokenListener()
    async with PatientListener(broken, LOG) as listener:
        with trio.fail_after(60), caplog.at_level(logging.DEBUG):
            for _ in range(100):
                broken.errors += [errno.EMFILE] * 2  # 0.2 s each
                await (await listener.accept()).aclose()
    assert 2 <= len(caplog.records) <= 3


async def test_connection_makes_room_when_no_descriptor_is_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broken = BrokenListener(errno.EMFILE, errno.EMFILE)
    rooms = iter([True, False])
    async with PatientListener(broken, LOG, lambda: next(rooms)) as listener:
        began = trio.current_time()
        await (await listener.accept()).aclose()
        # The first wait is short, for the connection that ends; nothing made room at the second.
        assert trio.current_time() - began == pytest.approx(0.11)
    assert next(rooms, None) is None


async def test_other_errors_are_raised() -> None:
    async with PatientListener(BrokenListener(errno.EBADF), LOG) as listener:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await listener.accept()
