"""Seeds: addresses that a node joins again when their members are not in its table."""

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from trioserf.address import Address
from trioserf.errors import JoinFailed
from trioserf.node.state import ClusterState
from trioserf.node.state_owner import StateOwner

_log = logging.getLogger("trioserf.memberlist")

MAX_SEEDS: Final = 1024
"""Seeds that are kept; later ones are not."""


class Seeds:
    """The addresses of all joins, with what they last resolved to.

    Attributes:
        resolved: IP addresses by the text that the user typed; empty before the first look-up.
        aliases: joined addresses that no member has, such as that of a load balancer.
    """

    def __init__(self) -> None:
        self.resolved: dict[str, frozenset[Address]] = {}
        self.aliases: set[Address] = set()

    def __len__(self) -> int:
        return len(self.resolved)

    def add(self, addresses: Iterable[str]) -> None:
        """Keep addresses, up to 1,024 in total."""
        for text in addresses:
            if len(self.resolved) < MAX_SEEDS:
                self.resolved.setdefault(text, frozenset())

    def update(self, resolved: Mapping[str, frozenset[Address]]) -> None:
        """Record what addresses resolved to; those that are not seeds are ignored."""
        self.resolved |= {text: found for text, found in resolved.items() if text in self.resolved}

    def find_lost(self, state: ClusterState) -> tuple[tuple[str, ...], bool]:
        """Return the seeds with an address of no present member, and whether a seed is present.

        Without any seed but our own address and aliases, any other live member counts as present.
        """
        known = frozenset[Address]().union(*self.resolved.values())
        present = {
            record.address
            for record in state.membership.records.values()
            if record.address in known and not record.is_dead_or_left
        }
        lost = tuple(text for text, found in self.resolved.items() if not found or found - present)
        self.aliases &= known
        expected = known - self.aliases - {state.address}
        if not expected:
            return lost, state.membership.alive_count > 1
        return lost, bool(expected & present)


async def rejoin_seeds(
    owner: StateOwner,
    seeds: Seeds,
    rejoin: Callable[[Sequence[str]], Awaitable[int]],
    rng: random.Random,
) -> None:
    """Join lost seeds again, with fresh DNS look-ups, until cancelled.

    This heals a partition that lasted longer than failed members are remembered. A node without
    any present seed tries with growing pauses. With some, a lost seed may be on the other side of
    a partition or just dead: then the members take turns, so that about one member tries in each
    `seed_interval_max`, at every cluster size.

    Args:
        owner: the owner of the state.
        seeds: the addresses.
        rejoin: joins addresses; raises JoinFailed.
        rng: randomness.
    """
    config = owner.state.config
    probability = config.seed_interval / config.seed_interval_max
    pause = config.seed_interval
    while True:
        await trio.sleep(pause)
        lost, is_seed_present = seeds.find_lost(owner.state)
        is_our_turn = (
            not is_seed_present or rng.random() * owner.state.membership.alive_count < probability
        )
        if not (lost and is_our_turn):
            pause = config.seed_interval
            continue
        try:
            await rejoin(lost)
        except JoinFailed as error:
            _log.debug("no seed can be reached: %s", error)
            pause = min(pause * 2, config.seed_interval_max)
        else:
            pause = config.seed_interval_max
