"""Threads that cannot be started, and name lookups without an answer."""

import errno
import socket
import threading
from typing import Any

import pytest
import trio
import trio.testing

from trioserf.errors import AddressError
from trioserf.net.resolver import SystemResolver
from trioserf.net.threads import limited_lookups, run_in_thread, thread_errors

CALLS = 50
"""More than the threads that Trio shares."""


async def test_result_and_errors_of_a_function_are_passed_on() -> None:
    assert await run_in_thread(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 // 0)


async def test_missing_thread_is_an_error_of_the_system(no_threads: None) -> None:
    with pytest.raises(BlockingIOError, match="no thread can be started") as caught:
        await run_in_thread(lambda: 3)
    assert caught.value.errno == errno.EAGAIN


def test_other_errors_are_unchanged() -> None:
    with pytest.raises(RuntimeError, match="bug"), thread_errors():
        raise RuntimeError("bug")


async def test_lookup_without_a_thread_fails(no_threads: None) -> None:
    with limited_lookups(), pytest.raises(AddressError, match="no thread can be started"):
        await SystemResolver().addresses("localhost")


async def test_names_of_addresses_are_looked_up() -> None:
    with limited_lookups():
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        found = await trio.socket.getnameinfo(("127.0.0.1", 7946), flags)
    assert found == ("127.0.0.1", "7946")


async def test_lookups_without_an_answer_leave_threads_for_other_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookup, answer = socket.getaddrinfo, threading.Event()

    def blocked(*args: Any) -> Any:
        if not args[-1] & socket.AI_NUMERICHOST:
            answer.wait()
        return lookup(*args)

    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    try:
        with limited_lookups():
            async with trio.open_nursery() as nursery:
                for _ in range(CALLS):
                    nursery.start_soon(SystemResolver().addresses, "localhost")
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(SystemResolver().addresses, "localhost")
                await trio.testing.wait_all_tasks_blocked()
                assert await SystemResolver().addresses("127.0.0.1") == ["127.0.0.1"]
                with trio.fail_after(20):
                    assert await run_in_thread(lambda: 3) == 3
                answer.set()
    finally:
        answer.set()
