"""Finding members by multicast DNS, and being found (spec: mDNS).

Every minute we ask for the cluster's members. Whoever is new is joined, together with all others
that answer before there was a pause. Questions of others are answered all the time. It needs
dnspython, which comes with `pip install 'trioserf[mdns]'`.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from trioserf.address import Address
from trioserf.agent import mdns
from trioserf.agent.config import AgentConfig
from trioserf.errors import AddressError, ConfigError, JoinFailed, Leaving
from trioserf.net.multicast import MulticastSockets, open_multicast
from trioserf.node.node import Node

_log = logging.getLogger("trioserf.agent.mdns")

ASK_EVERY: Final = 60.0
"""Seconds between two questions."""
QUIET: Final = 0.1
"""Seconds without anybody new after which those found are joined."""
_LONGEST: Final = 2.0
"""Seconds to wait for that, should somebody be new all the time."""
_AT_ONCE: Final = 32
"""Addresses joined together, and waiting for it."""
_SETTLED: Final = 600.0
"""Seconds for which an address that was joined is not new, whoever turned out to be there."""
_REMEMBERED: Final = 1024
"""Such addresses; anybody in the network can invent more."""
_RETRY_DELAY: Final = 1.0
"""Seconds to wait after a socket has failed."""

Join = Callable[[Sequence[str]], Awaitable[int]]


class Discovery:
    """Asks and answers; made by `open_discovery`.

    Args:
        cluster: the name that its members share.
        node: ours.
        join: joins addresses; raises as `Node.join` does.
        speakers: the sockets.
    """

    def __init__(
        self, cluster: str, node: Node, join: Join, speakers: Sequence[MulticastSockets]
    ) -> None:
        self._node = node
        self._join = join
        self._speakers = speakers
        self._service = mdns.service_name(cluster)
        text = f"Serf '{cluster}' cluster"
        self._instance = mdns.Instance(self._service, node.name, node.address, text)
        self._joined: dict[Address, float] = {}
        self._members: frozenset[Address] = frozenset()
        self._members_version = -1
        self._faults: dict[str, str] = {}

    async def run(self) -> None:
        """Ask and answer until cancelled, or until the node leaves."""
        send, receive = trio.open_memory_channel[Address](_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for speaker in self._speakers:
                nursery.start_soon(self._answer, speaker)
                nursery.start_soon(self._listen, speaker, send)
            nursery.start_soon(self._ask)
            await self._join_found(receive)
            nursery.cancel_scope.cancel()

    async def _ask(self) -> None:
        data = mdns.question(self._service)
        due = trio.current_time()
        while True:
            faults = {}
            for speaker in self._speakers:
                try:
                    await speaker.ask(data)
                except OSError as error:
                    faults[speaker.group.name] = error.strerror or str(error)
            if len(faults) == len(self._speakers) and faults != self._faults:
                why = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
                _log.error("Failed to poll for new hosts: %s", why)
            self._faults = faults
            due += ASK_EVERY
            await trio.sleep_until(due)

    async def _answer(self, speaker: MulticastSockets) -> None:
        """Answer questions."""
        while True:
            try:
                data, source = await speaker.answering.recvfrom(mdns.LARGEST)
                answer = self._instance.answer(data, source[1])
                if answer is None:
                    continue
                if answer.everyone:
                    await speaker.send(answer.data)
                else:
                    await speaker.send_to(answer.data, source)
            except mdns.MdnsError as error:
                _log.debug("no question: %s", error)
            except OSError as error:
                _log.debug("a question was lost: %s", error)
                await trio.sleep(_RETRY_DELAY)

    async def _listen(
        self, speaker: MulticastSockets, send: trio.MemorySendChannel[Address]
    ) -> None:
        """Pass on who is new among those who answer us."""
        while True:
            try:
                data, source = await speaker.asking.recvfrom(mdns.LARGEST)
                addresses = mdns.found(self._service, data)
            except mdns.MdnsError as error:
                _log.debug("no answer: %s", error)
                continue
            except OSError as error:
                _log.debug("an answer was lost: %s", error)
                await trio.sleep(_RETRY_DELAY)
                continue
            for address in filter(self._is_new, addresses):
                try:
                    send.send_nowait(address)
                except trio.WouldBlock:
                    _log.debug("%s, found by %s, has to wait", address, source[0])

    def _is_new(self, address: Address) -> bool:
        if self._node.members_version != self._members_version:
            self._members_version = self._node.members_version
            self._members = frozenset(one.address for one in self._node.members())
        if address == self._node.address or address in self._members:
            return False
        joined = self._joined.get(address)
        return joined is None or trio.current_time() - joined > _SETTLED

    async def _join_found(self, found: trio.MemoryReceiveChannel[Address]) -> None:
        """Join those who are new; returns when the node leaves."""
        while True:
            batch = {await found.receive(): None}
            longest = trio.current_time() + _LONGEST
            while len(batch) < _AT_ONCE:
                with trio.move_on_at(min(longest, trio.current_time() + QUIET)) as quiet:
                    batch[await found.receive()] = None
                if quiet.cancelled_caught:
                    break
            addresses = list(filter(self._is_new, batch))
            if not addresses:
                continue
            try:
                joined = await self._join([str(address) for address in addresses])
            except JoinFailed as error:
                _log.error("Failed to join: %s", error)
            except Leaving:
                return
            else:
                _log.info("Joined %d hosts", joined)
                self._remember(addresses)

    def _remember(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            self._joined.pop(address, None)
            self._joined[address] = trio.current_time()
        while len(self._joined) > _REMEMBERED:
            del self._joined[next(iter(self._joined))]


@contextmanager
def open_discovery(config: AgentConfig, node: Node, join: Join) -> Iterator[Discovery]:
    """Prepare discovery as configured; its sockets are open while the block lasts.

    Raises:
        ConfigError: no socket can be opened, or the cluster's name fits no name of DNS.
    """
    chosen = config.mdns
    with ExitStack() as stack:
        opening = open_multicast(
            interface=chosen.interface or config.interface,
            ipv4=not chosen.disable_ipv4,
            ipv6=not chosen.disable_ipv6,
        )
        try:
            speakers = stack.enter_context(opening)
        except AddressError as error:
            raise ConfigError(f"Error starting mDNS listener: {error}") from error
        yield Discovery(config.discover, node, join, speakers)
