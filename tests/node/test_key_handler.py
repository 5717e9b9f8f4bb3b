"""Key changes with a slow or full disk."""

import errno
import json

import trio
from trio.testing import MockClock

from tests.node.helpers import open_nodes
from trioserf.node.node import Node
from trioserf.serf.keyring import Keyring, format_key

A, B = bytes(32), b"b" * 32
SLOW = 1.5
"""Seconds of a write, in virtual time: three times as long as a probe waits for its ack."""


class Disk:
    """A slow file that may be full."""

    def __init__(self, seconds: float = SLOW) -> None:
        self.seconds = seconds
        self.full = False
        self.written: list[list[str]] = []

    async def __call__(self, content: bytes) -> None:
        await trio.sleep(self.seconds)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written.append(json.loads(content))


def suspicions(node: Node) -> list[str]:
    seen: list[str] = []
    node._hub.watchers.append(lambda event: seen.append(event.kind))
    return seen


async def test_slow_disk_delays_the_response_but_no_probe(autojump_clock: MockClock) -> None:
    disks = {"a": Disk(), "b": Disk()}
    keyrings = {name: {"keyring": Keyring([A])} for name in disks}
    async with open_nodes(*disks, save_keyring=disks, options=keyrings) as nodes:
        seen = suspicions(nodes["a"])
        began = trio.current_time()
        result = await nodes["a"].keys("install", B)
        assert (result.responses, result.errors, result.failure) == (2, 0, None)
        assert SLOW <= trio.current_time() - began < SLOW + 0.5
        assert nodes["b"].keyring is not None
        assert nodes["b"].keyring.keys == (A, B)
        await nodes["a"].keys("use", B)
        for disk in disks.values():
            assert disk.written == [[format_key(A), format_key(B)], [format_key(B), format_key(A)]]
        assert seen == []


async def test_full_disk_is_reported_to_the_requester(autojump_clock: MockClock) -> None:
    disks = {"a": Disk(), "b": Disk()}
    disks["b"].full = True
    keyrings = {name: {"keyring": Keyring([A])} for name in disks}
    async with open_nodes(*disks, save_keyring=disks, options=keyrings) as nodes:
        result = await nodes["a"].keys("install", B)
        assert (result.responses, result.errors) == (2, 1)
        assert "No space left on device" in result.messages["b"]
        assert result.failure == "1/2 nodes reported failure"


async def test_disk_slower_than_the_query_sends_no_response(
    autojump_clock: MockClock,
) -> None:
    disks = {"a": Disk(), "b": Disk(60.0)}
    keyrings = {name: {"keyring": Keyring([A])} for name in disks}
    async with open_nodes(*disks, save_keyring=disks, options=keyrings) as nodes:
        result = await nodes["a"].keys("install", B)
        assert (result.responses, result.errors) == (1, 0)
        assert result.failure == "1/2 nodes reported success"
        await trio.sleep(60)
        assert len(disks["b"].written) == 1


async def test_key_changes_that_wait_for_the_disk_are_bounded(autojump_clock: MockClock) -> None:
    disk = Disk(1000.0)
    keyring = Keyring([A])
    async with open_nodes("a", save_keyring={"a": disk}, options={"a": {"keyring": keyring}}) as n:
        failed: list[str] = []

        async def install(key: bytes) -> None:
            result = await n["a"].keys("install", key)
            failed.extend(result.messages.values())

        async with trio.open_nursery() as nursery:
            for number in range(66):
                nursery.start_soon(install, number.to_bytes(16, "big"))
        assert failed == ["64 changes of the keyring wait for the disk already"]
        assert len(keyring.keys) == 66
