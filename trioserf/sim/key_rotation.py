"""The story of a cluster whose keys are replaced while packets get lost and members crash."""

from contextlib import suppress
from typing import Final

import trio

from trioserf.node.config import NodeConfig
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.key_queries import KeyQueryResult
from trioserf.serf.key_rotation import Step, count_missing, primary_of, rotation
from trioserf.serf.keyring import Keyring, format_key, parse_key
from trioserf.sim.cluster import SimCluster

ENCRYPTED: Final = NodeConfig(name="template", keyring=Keyring([bytes(16)]))
"""What members have in common; each gets a ring of its own."""
_SIZE: Final = 8
_CRASHES: Final = 3
"""Members that crash while keys are changed."""
_ATTEMPTS: Final = 3
_PATIENCE: Final = 60.0
"""Seconds that a query may take, more than its own timeout: its asker may crash."""
_LIMIT: Final = 1800.0
"""Seconds within which a rotation must succeed, however often it has to begin anew."""


class _Stopped(Exception):
    """Some members have not taken a step."""


async def key_rotation(world: SimCluster) -> None:
    """All keys give way to a new one while packets get lost and members crash; and once more."""
    first, *others = await world.grow(_SIZE)
    await world.settle()
    world.members[first].seeds = tuple(others)  # it will come back, too
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_events, world)
        await _rotate_and_crash(world)
        nursery.cancel_scope.cancel()
    await world.settle()
    key = await _rotate_at_last(world)
    for who in world.up:
        keyring = world.node(who.id).keyring
        if keyring is None or keyring.keys != (key,):
            raise AssertionError(f"{who.id} has other keys than the new one")


async def _send_events(world: SimCluster) -> None:
    number = 0
    while True:
        await world.event(world.rng.choice([who.id for who in world.up]), f"event-{number}")
        number += 1
        await trio.sleep(world.rng.expovariate(1))


async def _rotate_and_crash(world: SimCluster) -> None:
    """Rotate for as long as members crash and come back, and until it has succeeded."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_crash_and_return, world)
        while world.trace.counts["crash"] < _CRASHES:
            await _rotate_at_last(world)


async def _crash_and_return(world: SimCluster) -> None:
    for _ in range(_CRASHES):
        await trio.sleep(world.rng.uniform(0.2, 8))
        victim = world.rng.choice([who.id for who in world.up])
        await world.crash(victim)
        await trio.sleep(world.rng.uniform(0.2, 8))
        await _restart(world, victim)


async def _restart(world: SimCluster, member: str) -> None:
    """Start a member with the keys from its file, or those of others if it has missed a change."""
    who = world.members[member]
    other = world.rng.choice([one for one in world.up if one.joined])
    theirs, ours = world.node(other.id).keyring, who.config.keyring
    if theirs is None or ours is None:
        raise TypeError("all members have keys")
    if ours.primary not in theirs.keys or not set(theirs.keys) <= set(ours.keys):
        world.note("keyring", f"from {other.id}", member)
        await world.restart(member, keyring=Keyring(theirs.keys))
    else:
        await world.restart(member)


async def _rotate_at_last(world: SimCluster) -> bytes:
    """Rotate the keys, beginning anew with another key whenever it stops; give the new one."""
    with trio.fail_after(_LIMIT):
        while True:
            key = world.rng.randbytes(world.rng.choice((16, 24, 32)))
            asker = world.rng.choice([who.id for who in world.up if who.joined])
            try:
                await _rotate(world, asker, format_key(key))
            except _Stopped as why:
                world.note("rotation", f"stopped: {why}", asker)
                await trio.sleep(world.rng.uniform(1, 10))
            else:
                world.note("rotation", "done", asker)
                return key


async def _rotate(world: SimCluster, asker: str, key: str) -> None:
    before = await _ask(world, asker, "list")
    away = _failed(world, asker)
    steps = rotation(key, before)
    step = next(steps)
    while True:
        try:
            now = await _everywhere(world, asker, step)
            if _failed(world, asker) - away:
                raise _Stopped("members have failed meanwhile")  # noqa: TRY301
        except _Stopped:
            former = primary_of(before)
            if step.change == "use" and former is not None:
                with suppress(_Stopped):
                    await _ask(world, asker, "use", former)
            raise
        try:
            step = steps.send(now)
        except StopIteration:
            return


def _failed(world: SimCluster, asker: str) -> set[str]:
    node = world.members[asker].node
    if node is None:
        raise _Stopped(f"{asker} has crashed")
    return {one.name for one in node.members() if one.status_text == "failed"}


async def _everywhere(world: SimCluster, asker: str, step: Step) -> KeyQueryResult:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await _ask(world, asker, step.change, step.key)
            now = await _verified(world, asker, step)
        except _Stopped:
            if attempt == _ATTEMPTS:
                raise
        else:
            return now
    raise AssertionError("the last attempt returns or raises")


async def _verified(world: SimCluster, asker: str, step: Step) -> KeyQueryResult:
    now = await _ask(world, asker, "list")
    if behind := count_missing(step, now):
        raise _Stopped(f"{behind} lack {step.change}")
    return now


async def _ask(world: SimCluster, asker: str, action: KeyAction, key: str = "") -> KeyQueryResult:
    who = world.members[asker]
    if who.node is None:
        raise _Stopped(f"{asker} has crashed")
    with trio.move_on_after(_PATIENCE):
        tally = await who.node.keys(action, parse_key(key) if key else None)
        if tally.failure is not None:
            raise _Stopped(f"{action}: {tally.failure}")
        return tally
    raise _Stopped(f"{asker} has crashed")
