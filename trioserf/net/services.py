"""Services, one SRV record each, and the order in which they are tried (RFC 2782)."""

import random
from collections.abc import Sequence
from typing import NamedTuple


class Service(NamedTuple):
    """One SRV record (RFC 2782).

    Attributes:
        host: a name.
        port: 1 to 65535.
        priority: the lowest is tried first, the others if it fails.
        weight: share of the tries within a priority.
        addresses: addresses of the host from the same response; if empty, look the host up.
    """

    host: str
    port: int
    priority: int = 0
    weight: int = 0
    addresses: tuple[str, ...] = ()


def by_priority(services: Sequence[Service], rng: random.Random) -> list[list[Service]]:
    """Group services by priority, each group in random order by weight (RFC 2782, Usage rules).

    Args:
        services: in any order.
        rng: randomness.
    """
    groups: dict[int, list[Service]] = {}
    for service in services:
        groups.setdefault(service.priority, []).append(service)
    return [_shuffled(groups[priority], rng) for priority in sorted(groups)]


def _shuffled(services: list[Service], rng: random.Random) -> list[Service]:
    # Services of weight 0 come first in the sum, so that they have a very small chance.
    remaining = sorted(services, key=lambda service: service.weight > 0)
    ordered = []
    while remaining:
        mark = rng.randint(0, sum(service.weight for service in remaining))
        for service in remaining:
            mark -= service.weight
            if mark <= 0:
                break
        remaining.remove(service)
        ordered.append(service)
    return ordered
