"""Join a cluster: look up the addresses of users, exchange states with their members.

See swim/README.md, § Joining.
"""

import ipaddress
import logging
import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs
import trio

from trioserf.address import Address, address_of, format_host_port
from trioserf.errors import AddressError, JoinFailed, NameInUse, reason_of
from trioserf.net.resolver import Resolver
from trioserf.net.services import by_priority
from trioserf.node.join_address import JoinTarget, parse_join_address
from trioserf.node.seeds import Seeds
from trioserf.node.state_owner import StateOwner
from trioserf.node.streams import Streams
from trioserf.printable import short_name
from trioserf.serf.name_conflict import in_use_text
from trioserf.value_objects import ValueObject
from trioserf.wire.swim_messages import ALIVE, SUSPECT, NodeState

_log = logging.getLogger("trioserf.memberlist")

_MAX_DIALS: Final = 10
"""Members that one join dials at once."""
_RESOLVE_TIMEOUT: Final = 10.0
"""Seconds for the DNS look-up of one address."""

_NAME_WAIT: Final = 15.0
"""Seconds for the members to declare our predecessor failed, which had another address."""
_NAME_POLL: Final = 1.0
"""Seconds between two looks whether they have."""


@attrs.frozen(eq=False, repr=False)
class Outcome(ValueObject):
    """An address that was tried, and the error; None for success."""

    where: str
    error: str | None
    name_in_use: bool = False


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
            NameInUse: a living member has our name at another address.
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
        joined = sum(outcome.error is None for outcome in all_outcomes)
        if joined:
            self.has_joined = True
            await self._owner.ask(lambda state, now: state.serf.announce_join(now))
            self.seeds.add(addresses)
        self.seeds.update(resolved)
        if all_outcomes and not joined:
            in_use = any(outcome.name_in_use for outcome in all_outcomes)
            causes = [(one.where, one.error) for one in all_outcomes if one.error is not None]
            raise NameInUse(causes) if in_use else JoinFailed(causes)
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
            outcomes.append(Outcome(text, str(error)))
            return
        resolved[text] = frozenset()
        for group in groups:
            resolved[text] |= frozenset(group)
            group_outcomes: list[Outcome] = []
            await self._join_group(group, replay, slots, group_outcomes)
            outcomes += group_outcomes
            if any(outcome.error is None for outcome in group_outcomes):
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
                outcomes.append(await self._join_address(address, replay))
            finally:
                slots.release()

        async with trio.open_nursery() as nursery:
            for address in dict.fromkeys(group):
                if address != own:
                    await slots.acquire()
                    nursery.start_soon(join, address)

    async def _join_address(self, address: Address, replay: bool) -> Outcome:
        if self._owner.state.membership.alive_count <= 1:
            refused = await self._check_name(address)
            if refused is not None:
                return refused
        error = await self.try_push_pull(address, ignore_events=not replay)
        records = self._owner.state.membership.records.values()
        if error is not None:
            _log.debug("failed to join %s: %s", address, error)
        elif any(record.address == address for record in records):
            self.seeds.aliases.discard(address)
        else:
            self.seeds.aliases.add(address)
        return Outcome(str(address), error)

    async def _check_name(self, address: Address) -> Outcome | None:
        """Return an outcome with an error if our name belongs to another member; else None.

        A row of a predecessor that does not answer, because our process moved to another address,
        is given time to become a failed one (see swim/README.md, § Joining).
        """
        name, ours = self._owner.state.config.name, self._owner.state.address
        give_up: float | None = None
        while True:
            try:
                holder = _holder(await self._streams.read_members(address), name, ours)
            except (OSError, trio.BrokenResourceError) as error:
                return Outcome(str(address), _text(error))
            except ValueError as error:
                _log.debug("%s does not show its members: %s", address, error)
                return None  # the join itself will show what is wrong
            if holder is None:
                return None
            with trio.move_on_after(self._owner.state.config.timing.probe_timeout):
                if await self._streams.ping(name, holder) == "acked":
                    text = in_use_text(name, holder, ours)
                    return Outcome(str(address), text, name_in_use=True)
            if give_up is None:
                give_up = trio.current_time() + _NAME_WAIT
                _log.info(
                    "the name '%(member)s' still belongs to the member at %(address)s, which does"
                    " not answer; waiting up to %(seconds)g s until that member is failed in the"
                    " cluster",
                    {"member": short_name(name), "address": holder, "seconds": _NAME_WAIT},
                )
            elif trio.current_time() >= give_up:
                text = (
                    f"the name {name!r} still belongs to the member at {holder}, which does not"
                    f" answer, and this one is at {ours}; join again when that member is failed in"
                    " the cluster, or choose another name with --node=NAME"
                )
                return Outcome(str(address), text)
            await trio.sleep(_NAME_POLL)

    async def try_push_pull(
        self, address: Address, *, join: bool = True, ignore_events: bool = False
    ) -> str | None:
        """Exchange states; return the error as text, or None."""
        try:
            await self._streams.push_pull(address, join=join, ignore_events=ignore_events)
        except (OSError, ValueError, trio.BrokenResourceError) as error:
            return _text(error)
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
                    where = format_host_port(service.host, service.port)
                    outcomes.append(Outcome(where, str(error)))
            groups.append(group)
        return groups


def _holder(rows: Iterable[NodeState], name: str, ours: Address) -> Address | None:
    """Return the other address at which a table has our name as alive or suspect, or None."""
    for row in rows:
        if row.name == name and row.state in {ALIVE, SUSPECT}:
            address = address_of(row.addr, row.port)
            if address != ours:
                return address
    return None


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return reason_of(error)
