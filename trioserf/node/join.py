"""Join a cluster: look up the addresses of users, exchange states with their members.

See swim/README.md, § Joining.
"""

import ipaddress
import logging
import os
import random
from collections.abc import Callable, Sequence
from typing import Final

import trio

from trioserf.address import Address, format_host_port
from trioserf.errors import AddressError, JoinFailed
from trioserf.net.resolver import Resolver
from trioserf.net.services import by_priority
from trioserf.node.join_address import JoinTarget, parse_join_address
from trioserf.node.seeds import Seeds
from trioserf.node.state_owner import StateOwner
from trioserf.node.streams import Streams

_log = logging.getLogger("trioserf.memberlist")

_MAX_DIALS: Final = 10
"""Members that one join dials at once."""
_RESOLVE_TIMEOUT: Final = 10.0
"""Seconds for the DNS look-up of one address."""

Outcome = tuple[str, str | None]
"""An address that was tried, and the error; None for success."""


class Joiner:
    """Joins clusters, and keeps the seeds.

    Args:
        owner: the owner of the state.
        streams: makes exchanges.
        resolver: looks up names.
        port: the default port: the one that this node is bound to, as in Serf.
        rng: randomness.

    Attributes:
        seeds: the addresses of all joins.
        has_joined: whether any join has succeeded.
    """

    def __init__(
        self,
        owner: StateOwner,
        streams: Streams,
        resolver: Resolver,
        port: int,
        rng: random.Random,
    ) -> None:
        self._owner = owner
        self._streams = streams
        self._resolver = resolver
        self._rng = rng
        self._port = port
        self.seeds = Seeds()
        self.has_joined = False

    async def rejoin(self, addresses: Sequence[str]) -> int:
        """Join addresses again (as `join`).

        A node that was in the cluster before accepts the user events that it missed, as after a
        reconnect; only a new member ignores them.
        """
        return await self.join(addresses, replay=self.has_joined)

    async def join(
        self,
        addresses: Sequence[str],
        *,
        replay: bool,
        on_joined: Callable[[str], None] = lambda _: None,
    ) -> int:
        """Exchange states with every address, up to ten at once.

        Args:
            addresses: as users type them; a name may resolve to several members.
            replay: accept user events from before the join.
            on_joined: called with each of the addresses as soon as it is joined.

        Returns:
            How many IP addresses were joined; our own address is skipped.

        Raises:
            JoinFailed: every exchange failed, and there was at least one.
        """
        tried: dict[str, list[Outcome]] = {text: [] for text in addresses}
        resolved: dict[str, frozenset[Address]] = {}
        slots = trio.Semaphore(_MAX_DIALS)
        async with trio.open_nursery() as nursery:
            for text, outcomes in tried.items():
                nursery.start_soon(
                    self._join_text, text, replay, slots, outcomes, resolved, on_joined
                )
        all_outcomes = [outcome for outcomes in tried.values() for outcome in outcomes]
        joined = sum(error is None for _, error in all_outcomes)
        if joined:
            self.has_joined = True
            await self._owner.ask(lambda state, now: state.serf.announce_join(now))
            self.seeds.add(addresses)
        self.seeds.update(resolved)
        if all_outcomes and not joined:
            raise JoinFailed(
                [(where, error) for where, error in all_outcomes if error is not None]
            )
        return joined

    async def _join_text(
        self,
        text: str,
        replay: bool,
        slots: trio.Semaphore,
        outcomes: list[Outcome],
        resolved: dict[str, frozenset[Address]],
        on_joined: Callable[[str], None],
    ) -> None:
        """Join all members of an address; of a service, those of the best priority that works."""
        try:
            target = parse_join_address(text, self._port)
            groups = await self._look_up(target, outcomes)
        except AddressError as error:
            outcomes.append((text, str(error)))
            return
        resolved[text] = frozenset()
        for group in groups:
            resolved[text] |= frozenset(group)
            group_outcomes: list[Outcome] = []
            await self._join_group(group, replay, slots, group_outcomes)
            outcomes += group_outcomes
            if any(error is None for _, error in group_outcomes):
                on_joined(text)
                return

    async def _join_group(
        self,
        group: Sequence[Address],
        replay: bool,
        slots: trio.Semaphore,
        outcomes: list[Outcome],
    ) -> None:
        own = self._owner.state.address

        async def join(address: Address) -> None:
            try:
                outcomes.append((str(address), await self._join_address(address, replay)))
            finally:
                slots.release()

        async with trio.open_nursery() as nursery:
            for address in dict.fromkeys(group):
                if address != own:
                    await slots.acquire()
                    nursery.start_soon(join, address)

    async def _join_address(self, address: Address, replay: bool) -> str | None:
        error = await self.try_push_pull(address, ignore_events=not replay)
        records = self._owner.state.membership.records.values()
        if error is not None:
            _log.debug("failed to join %s: %s", address, error)
        elif any(record.address == address for record in records):
            self.seeds.aliases.discard(address)
        else:
            self.seeds.aliases.add(address)
        return error

    async def try_push_pull(
        self, address: Address, *, join: bool = True, ignore_events: bool = False
    ) -> str | None:
        """Exchange states; return the error as text, or None."""
        try:
            await self._streams.push_pull(address, join=join, ignore_events=ignore_events)
        except (OSError, ValueError, trio.BrokenResourceError) as error:
            if isinstance(error, OSError) and error.errno:
                return os.strerror(error.errno).lower()
            return str(error) or type(error).__name__
        return None

    async def _look_up(self, target: JoinTarget, outcomes: list[Outcome]) -> list[list[Address]]:
        """Return the IP addresses by priority; hosts of a service without any become outcomes."""
        with trio.move_on_after(_RESOLVE_TIMEOUT):
            if target.is_service:
                return await self._look_up_service(target.host, outcomes)
            return [await self._resolve(target.host, target.port)]
        raise AddressError(f"no answer from DNS for {target.host!r} in time")

    async def _resolve(self, host: str, port: int) -> list[Address]:
        try:
            ip = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return [Address(one, port) for one in await self._resolver.addresses(host)]
        return [Address(str(ip), port)]

    async def _look_up_service(self, name: str, outcomes: list[Outcome]) -> list[list[Address]]:
        groups: list[list[Address]] = []
        for services in by_priority(await self._resolver.services(name), self._rng):
            group: list[Address] = []
            for service in services:
                if service.addresses:
                    group += [Address(host, service.port) for host in service.addresses]
                    continue
                try:
                    group += await self._resolve(service.host, service.port)
                except AddressError as error:
                    outcomes.append((format_host_port(service.host, service.port), str(error)))
            groups.append(group)
        return groups
