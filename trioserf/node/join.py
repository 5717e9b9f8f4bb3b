"""Joining a cluster: from what users type to exchanges of states (spec: joining)."""

import ipaddress
import logging
import os
import random
from collections.abc import Sequence
from typing import Final

import trio

from trioserf.address import Address
from trioserf.errors import AddressError, JoinFailed
from trioserf.net.resolver import Resolver, in_order
from trioserf.node.join_address import JoinTarget, parse_join_address
from trioserf.node.state_owner import StateOwner
from trioserf.node.streams import Streams

_log = logging.getLogger("trioserf.memberlist")

_DIALS_AT_ONCE: Final = 10
_RESOLVE_TIMEOUT: Final = 10.0
"""Seconds that DNS may take."""
MAX_SEEDS: Final = 1024

Outcome = tuple[str, str | None]
"""What was tried, and why it failed (None: it did not)."""


class Joiner:
    """Joins, and remembers whom to join again.

    Args:
        keeper: has the state.
        streams: makes exchanges.
        resolver: finds the addresses of names.
        port: where none is given: the one that we are bound to, as for Serf.
        rng: randomness.

    Attributes:
        seeds: addresses that were asked for, as they were typed, with what they last meant.
        aliases: addresses that answered though no member bears them, such as a load balancer's.
        has_joined: whether any join has worked.
    """

    def __init__(
        self,
        keeper: StateOwner,
        streams: Streams,
        resolver: Resolver,
        port: int,
        rng: random.Random,
    ) -> None:
        self._keeper = keeper
        self._streams = streams
        self._resolver = resolver
        self._rng = rng
        self._port = port
        self.seeds: dict[str, frozenset[Address]] = {}
        self.aliases: set[Address] = set()
        self.has_joined = False

    def add_seeds(self, addresses: Sequence[str]) -> None:
        """Remember addresses; the first 1,024 of them."""
        for text in addresses:
            if len(self.seeds) < MAX_SEEDS:
                self.seeds.setdefault(text, frozenset())

    async def join(self, addresses: Sequence[str], *, replay: bool) -> int:
        """Exchange states with every address, up to ten at once.

        Args:
            addresses: as users type them; names may stand for several members.
            replay: take in user events from before the join.

        Returns:
            How many could be reached; our own address is passed over.

        Raises:
            JoinFailed: none, and there was one to reach.
        """
        tried: dict[str, list[Outcome]] = {text: [] for text in addresses}
        meant: dict[str, frozenset[Address]] = {}
        slots = trio.Semaphore(_DIALS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for text, found in tried.items():
                nursery.start_soon(self._join_text, text, replay, slots, found, meant)
        outcomes = [outcome for found in tried.values() for outcome in found]
        joined = sum(why is None for _, why in outcomes)
        if joined:
            self.has_joined = True
            await self._keeper.ask(lambda state, now: state.serf.announce_join(now))
            self.add_seeds(addresses)
        self.seeds |= {text: found for text, found in meant.items() if text in self.seeds}
        if outcomes and not joined:
            raise JoinFailed([(what, why) for what, why in outcomes if why is not None])
        return joined

    async def _join_text(
        self,
        text: str,
        replay: bool,
        slots: trio.Semaphore,
        outcomes: list[Outcome],
        meant: dict[str, frozenset[Address]],
    ) -> None:
        """Join what an address stands for: all of it, or of a service the best that works."""
        try:
            target = parse_join_address(text, self._port)
            groups = await self._look_up(target, outcomes)
        except AddressError as error:
            outcomes.append((text, str(error)))
            return
        meant[text] = frozenset()
        for group in groups:
            meant[text] |= frozenset(group)
            found: list[Outcome] = []
            await self._join_group(group, replay, slots, found)
            outcomes += found
            if any(why is None for _, why in found):
                return

    async def _join_group(
        self,
        group: Sequence[Address],
        replay: bool,
        slots: trio.Semaphore,
        outcomes: list[Outcome],
    ) -> None:
        own = self._keeper.state.address

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
        why = await self.try_push_pull(address, ignore_events=not replay)
        if why is not None:
            _log.debug("Failed to join %s: %s", address, why)
        elif any(one.address == address for one in self._keeper.state.membership.records.values()):
            self.aliases.discard(address)
        else:
            self.aliases.add(address)
        return why

    async def try_push_pull(
        self, address: Address, *, join: bool = True, ignore_events: bool = False
    ) -> str | None:
        """Exchange states; gives the reason if that does not work."""
        try:
            await self._streams.push_pull(address, join=join, ignore_events=ignore_events)
        except (OSError, ValueError, trio.BrokenResourceError) as error:
            if isinstance(error, OSError) and error.errno:
                return os.strerror(error.errno).lower()
            return str(error) or type(error).__name__
        return None

    async def _look_up(self, target: JoinTarget, outcomes: list[Outcome]) -> list[list[Address]]:
        """Give what an address stands for, the best first; hosts without any become outcomes."""
        with trio.move_on_after(_RESOLVE_TIMEOUT):
            if target.is_service:
                return await self._find_service(target.host, outcomes)
            return [await self._resolve(target.host, target.port)]
        raise AddressError(f"no answer from DNS for {target.host!r} in time")

    async def _resolve(self, host: str, port: int) -> list[Address]:
        try:
            ip = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return [Address(one, port) for one in await self._resolver.addresses(host)]
        return [Address(str(ip), port)]

    async def _find_service(self, name: str, outcomes: list[Outcome]) -> list[list[Address]]:
        groups: list[list[Address]] = []
        for services in in_order(await self._resolver.services(name), self._rng):
            group: list[Address] = []
            for service in services:
                if service.addresses:
                    group += [Address(one, service.port) for one in service.addresses]
                    continue
                try:
                    group += await self._resolve(service.host, service.port)
                except AddressError as error:
                    outcomes.append((f"{service.host}:{service.port}", str(error)))
            groups.append(group)
        return groups


async def rejoin_seeds(keeper: StateOwner, joining: Joiner, rng: random.Random) -> None:
    """Join seeds that are lost again, for ever and with fresh DNS, until cancelled.

    So a partition heals that lasted longer than failed members are remembered. Whoever has lost
    all seeds, or everybody, tries with growing pauses. While some are in sight, a seed may be on
    the other side of a partition, or just gone: then the members take turns, so that one of them
    tries about every `seed_interval_max`, however many they are.

    Who was in the cluster before takes in the user events of the meantime, as when it reconnects:
    passing them over is for newcomers.
    """
    config = keeper.state.config
    turns = config.seed_interval / config.seed_interval_max
    pause = config.seed_interval
    while True:
        await trio.sleep(pause)
        lost, in_sight = _lost_seeds(keeper, joining)
        ours = not in_sight or rng.random() * keeper.state.membership.alive_count < turns
        if not (lost and ours):
            pause = config.seed_interval
            continue
        try:
            await joining.join(lost, replay=joining.has_joined)
        except JoinFailed as error:
            _log.debug("no seed can be reached: %s", error)
            pause = min(pause * 2, config.seed_interval_max)
        else:
            pause = config.seed_interval_max


def _lost_seeds(keeper: StateOwner, joining: Joiner) -> tuple[tuple[str, ...], bool]:
    """Give the seeds of which an address is not a member's, and whether anybody is in sight."""
    membership = keeper.state.membership
    own = keeper.state.address
    there = {
        record.address for record in membership.records.values() if not record.is_dead_or_left
    }
    lost = tuple(text for text, found in joining.seeds.items() if not found or found - there)
    meant = {address for found in joining.seeds.values() for address in found}
    joining.aliases &= meant
    wanted = meant - joining.aliases - {own}
    in_sight = bool(wanted & there) if wanted else membership.alive_count > 1
    return lost, in_sight
