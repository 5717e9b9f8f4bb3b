"""Messages to a service manager, in systemd's protocol (see README.md, § Running as a service).

A message is one datagram of lines `NAME=value` to the socket that `NOTIFY_SOCKET` names. Without
one, nothing is sent. A message that cannot be sent is counted, the first one is logged, and the
agent goes on.
"""

import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from trioserf.agent.agent import Agent
from trioserf.errors import Leaving
from trioserf.node.timers import AutoResetEvent
from trioserf.operating_system.service_manager import ServiceEnvironment
from trioserf.operating_system.sockets import unix_socket
from trioserf.serf.events import Event

_log = logging.getLogger("trioserf.agent")

SEND_TIMEOUT: Final = 2.0
"""Seconds that a message waits for room; the manager reads at once unless it is stuck."""
STATUS_INTERVAL: Final = 1.0
"""Least time between two texts about the members."""


class ServiceManager:
    """The service manager of this process, or none.

    Attributes:
        failed: messages that could not be sent.
    """

    def __init__(self, environment: ServiceEnvironment) -> None:
        self.failed = 0
        self._environment = environment
        self._is_ready = False
        self._is_stopping = False
        self._changed = AutoResetEvent()
        self._status = ""

    async def run(self, agent: Agent) -> None:
        """Report that an agent is ready, its members and signs of life, until cancelled."""
        for problem in self._environment.problems:
            _log.warning("service manager: %s", problem)
        if not self._environment.notify:
            return
        with agent.node.watch(self._note):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report_ready, agent)
                nursery.start_soon(self._report_members, agent)
                if self._environment.watchdog:
                    nursery.start_soon(self._report_life, agent, self._environment.watchdog / 2)

    async def stopping(self) -> None:
        """Report that the agent ends; again, nothing."""
        if not self._is_stopping:
            self._is_stopping = True
            await self._send("STOPPING=1", "STATUS=Leaving, or ending")

    @asynccontextmanager
    async def reloading(self) -> AsyncIterator[None]:
        """Report that the block reloads the configuration, and that the agent is ready again."""
        if self._is_ready and not self._is_stopping:
            # Python's monotonic clock is CLOCK_MONOTONIC on Linux, which systemd expects.
            await self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        yield
        if self._is_ready and not self._is_stopping:
            await self._send("READY=1")

    def _note(self, event: Event) -> None:
        del event
        self._changed()

    async def _report_ready(self, agent: Agent) -> None:
        if agent.config.ready_when_joined and not agent.health.joined.is_set():
            await self._send("STATUS=Waiting for the first join")
            await agent.health.joined.wait()
        self._is_ready = True
        self._status = status_of(agent)
        if not self._is_stopping:
            await self._send("READY=1", f"STATUS={self._status}")

    async def _report_members(self, agent: Agent) -> None:
        while True:
            await self._changed.wait()
            status = status_of(agent)
            if self._is_ready and not self._is_stopping and status != self._status:
                self._status = status
                await self._send(f"STATUS={status}")
            await trio.sleep(STATUS_INTERVAL)

    async def _report_life(self, agent: Agent, interval: float) -> None:
        """Send signs of life, each after the owner of the node's state has answered."""
        while True:
            with trio.move_on_after(interval) as waiting:
                try:
                    await agent.node.wait_for_inbox()
                except Leaving:
                    return
            if waiting.cancelled_caught:
                _log.error("the node has not answered for %g s; no sign of life is sent", interval)
                continue
            await self._send("WATCHDOG=1")
            await trio.sleep(interval)

    async def _send(self, *lines: str) -> None:
        if not self._environment.notify:
            return
        try:
            with trio.fail_after(SEND_TIMEOUT):
                await _send_datagram(self._environment.notify, "\n".join(lines).encode())
        except (OSError, trio.TooSlowError) as error:
            self.failed += 1
            if self.failed == 1:
                reason = error.strerror if isinstance(error, OSError) else "it does not read"
                _log.warning("NOTIFY_SOCKET: cannot be written: %s", reason)


async def _send_datagram(address: str, data: bytes) -> None:
    """Send a datagram to a Unix socket, which may be another one than before (raises OSError)."""
    with unix_socket(socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(address)
        await trio.socket.from_stdlib_socket(sock).send(data)


def status_of(agent: Agent) -> str:
    """Return a line about the members of an agent's cluster."""
    states = agent.node.states()
    counts = f"{states['alive'] + states['suspect']} members alive"
    if states["suspect"]:
        counts += f" ({states['suspect']} suspect)"
    return f"{counts}, {states['dead']} failed, {states['left']} left"
