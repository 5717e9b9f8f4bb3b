"""Find members by multicast DNS, and answer their questions (see agent/README.md, § mDNS).

Every minute a question asks for the cluster's members. New addresses are joined in one batch
after a short time without further ones. The module needs dnspython:
`pip install '.[mdns]'`.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from trioserf.address import Address
from trioserf.agent import mdns
from trioserf.agent.config import AgentConfig
from trioserf.errors import AddressError, ConfigError, JoinFailed, Leaving, reason_of
from trioserf.net.multicast import MulticastSockets, open_multicast
from trioserf.node.node import Node

_log = logging.getLogger("trioserf.agent.mdns")

ASK_EVERY: Final = 60.0
"""Seconds between two questions."""
QUIET: Final = 0.1
"""Seconds without a new address after which a batch is joined."""
_MAX_BATCH_TIME: Final = 2.0
"""Seconds after which a batch is joined in any case."""
_MAX_BATCH: Final = 32
"""Addresses in one batch, and addresses that wait for the next one."""
_JOINED_FOR: Final = 600.0
"""Seconds during which a joined address is not new, even if it is not a member's address."""
_MAX_JOINED: Final = 1024
"""Addresses remembered as joined; any machine in the network can invent more."""
_RETRY_DELAY: Final = 1.0
"""Seconds to wait after an error of a socket."""

Join = Callable[[Sequence[str]], Awaitable[int]]


class Discovery:
    """Asks for members and answers questions; made by `open_discovery`.

    Args:
        cluster: the name of the cluster.
        node: our own node.
        join: joins addresses; raises like `Node.join`.
        groups: the sockets of each multicast group.
    """

    def __init__(
        self, cluster: str, node: Node, join: Join, groups: Sequence[MulticastSockets]
    ) -> None:
        self._node = node
        self._join = join
        self._groups = groups
        self._service = mdns.service_name(cluster)
        text = f"Serf '{cluster}' cluster"
        self._instance = mdns.Instance(self._service, node.name, node.address, text)
        self._joined: dict[Address, float] = {}
        self._members: frozenset[Address] = frozenset()
        self._members_version = -1
        self._errors: dict[str, str] = {}

    async def run(self) -> None:
        """Ask and answer until cancelled, or until the node leaves."""
        send, receive = trio.open_memory_channel[Address](_MAX_BATCH)
        async with trio.open_nursery() as nursery:
            for sockets in self._groups:
                nursery.start_soon(self._answer, sockets)
                nursery.start_soon(self._listen, sockets, send)
            nursery.start_soon(self._ask)
            await self._join_found(receive)
            nursery.cancel_scope.cancel()

    async def _ask(self) -> None:
        data = mdns.encode_question(self._service)
        due = trio.current_time()
        while True:
            errors = {}
            for sockets in self._groups:
                try:
                    await sockets.ask(data)
                except OSError as error:
                    errors[sockets.group.name] = error.strerror or str(error)
            if len(errors) == len(self._groups) and errors != self._errors:
                reason = "; ".join(f"{name}: {error}" for name, error in errors.items())
                _log.error("Failed to poll for new hosts: %s", reason)
            self._errors = errors
            due += ASK_EVERY
            await trio.sleep_until(due)

    async def _answer(self, sockets: MulticastSockets) -> None:
        """Answer questions."""
        while True:
            try:
                data, source = await sockets.answering.recvfrom(mdns.MAX_MESSAGE)
                answer = self._instance.answer(data, source[1])
                if answer is None:
                    continue
                if answer.to_group:
                    await sockets.send(answer.data)
                else:
                    await sockets.send_to(answer.data, source)
            except mdns.MdnsError as error:
                _log.debug("not a valid question: %s", error)
            except OSError as error:
                _log.debug("a question was lost: %s", reason_of(error))
                await trio.sleep(_RETRY_DELAY)

    async def _listen(
        self, sockets: MulticastSockets, send: trio.MemorySendChannel[Address]
    ) -> None:
        """Send the new addresses in answers to the task that joins them."""
        while True:
            try:
                data, source = await sockets.asking.recvfrom(mdns.MAX_MESSAGE)
                addresses = mdns.parse_answer(self._service, data)
            except mdns.MdnsError as error:
                _log.debug("not a valid answer: %s", error)
                continue
            except OSError as error:
                _log.debug("an answer was lost: %s", reason_of(error))
                await trio.sleep(_RETRY_DELAY)
                continue
            for address in filter(self._is_new, addresses):
                try:
                    send.send_nowait(address)
                except trio.WouldBlock:
                    _log.debug("%s, announced by %s, must wait", address, source[0])

    def _is_new(self, address: Address) -> bool:
        if self._node.members_version != self._members_version:
            self._members_version = self._node.members_version
            self._members = frozenset(member.address for member in self._node.members())
        if address == self._node.address or address in self._members:
            return False
        joined = self._joined.get(address)
        return joined is None or trio.current_time() - joined > _JOINED_FOR

    async def _join_found(self, found: trio.MemoryReceiveChannel[Address]) -> None:
        """Join new addresses in batches; return when the node leaves."""
        while True:
            batch = {await found.receive(): None}
            latest = trio.current_time() + _MAX_BATCH_TIME
            while len(batch) < _MAX_BATCH:
                with trio.move_on_at(min(latest, trio.current_time() + QUIET)) as quiet:
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
        while len(self._joined) > _MAX_JOINED:
            del self._joined[next(iter(self._joined))]


@contextmanager
def open_discovery(config: AgentConfig, node: Node, join: Join) -> Iterator[Discovery]:
    """Open the sockets of discovery, as configured, while the block runs.

    Raises:
        ConfigError: no socket can be opened, or the cluster's name does not fit into a DNS name.
    """
    options = config.mdns
    with ExitStack() as stack:
        opening = open_multicast(
            interface=options.interface or config.interface,
            ipv4=not options.disable_ipv4,
            ipv6=not options.disable_ipv6,
        )
        try:
            groups = stack.enter_context(opening)
        except AddressError as error:
            raise ConfigError(f"Error starting mDNS listener: {error}") from error
        yield Discovery(config.discover, node, join, groups)
