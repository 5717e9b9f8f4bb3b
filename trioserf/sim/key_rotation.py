"""A scenario: keys are replaced while packets are lost and members crash."""

from contextlib import suppress
from typing import Final

import trio

from trioserf.node.config import NodeConfig
from trioserf.node.node import Node
from trioserf.serf.internal_queries import KeyAction
from trioserf.serf.key_queries import KeyQueryResult
from trioserf.serf.key_rotation import Step, count_missing, primary_of, rotation
from trioserf.serf.keyring import Keyring, format_key, parse_key
from trioserf.sim.cluster import SimCluster

ENCRYPTED: Final = NodeConfig(name="template", keyring=Keyring([bytes(16)]))
"""The configuration of all members; each gets its own copy of the keyring."""
_SIZE: Final = 8
_CRASHES: Final = 3
"""Members that crash while keys are changed."""
_ATTEMPTS: Final = 3
_QUERY_LIMIT: Final = 60.0
"""Seconds until a query is given up, longer than its own timeout: its requester may crash."""
_ROTATION_LIMIT: Final = 1800.0
"""Seconds within which a rotation must succeed, however often it has to restart."""


class _RotationFailed(Exception):
    """A step of the rotation failed."""


async def key_rotation(cluster: SimCluster) -> None:
    """All keys are replaced during packet loss and crashes, and once more without crashes."""
    first, *others = await cluster.grow(_SIZE)
    await cluster.settle()
    cluster.members[first].seeds = tuple(others)  # it needs them if it is restarted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_events, cluster)
        await _rotate_during_crashes(cluster)
        nursery.cancel_scope.cancel()
    await cluster.settle()
    key = await _rotate_until_done(cluster)
    for member in cluster.up:
        keyring = cluster.node(member.id).keyring
        if keyring is None or keyring.keys != (key,):
            raise AssertionError(f"{member.id} has other keys than the new one")


async def _send_events(cluster: SimCluster) -> None:
    number = 0
    while True:
        sender = cluster.rng.choice([member.id for member in cluster.up])
        await cluster.event(sender, f"event-{number}")
        number += 1
        await trio.sleep(cluster.rng.expovariate(1))


async def _rotate_during_crashes(cluster: SimCluster) -> None:
    """Rotate keys repeatedly while members crash and restart."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_crash_and_restart, cluster)
        while cluster.trace.counts["crash"] < _CRASHES:
            await _rotate_until_done(cluster)


async def _crash_and_restart(cluster: SimCluster) -> None:
    for _ in range(_CRASHES):
        await trio.sleep(cluster.rng.uniform(0.2, 8))
        victim = cluster.rng.choice([member.id for member in cluster.up])
        await cluster.crash(victim)
        await trio.sleep(cluster.rng.uniform(0.2, 8))
        await _restart(cluster, victim)


async def _restart(cluster: SimCluster, member: str) -> None:
    """Restart a member with its own keys, or with those of another if it missed a change."""
    other = cluster.rng.choice([one for one in cluster.up if one.joined])
    theirs, own = cluster.node(other.id).keyring, cluster.members[member].config.keyring
    if theirs is None or own is None:
        raise TypeError("all members have keys")
    if own.primary not in theirs.keys or not set(theirs.keys) <= set(own.keys):
        cluster.note("keyring", f"from {other.id}", member)
        await cluster.restart(member, keyring=Keyring(theirs.keys))
    else:
        await cluster.restart(member)


async def _rotate_until_done(cluster: SimCluster) -> bytes:
    """Rotate to a random key, and to another one after each failure; return the last."""
    with trio.fail_after(_ROTATION_LIMIT):
        while True:
            key = cluster.rng.randbytes(cluster.rng.choice((16, 24, 32)))
            requester = cluster.rng.choice([one.id for one in cluster.up if one.joined])
            try:
                await _rotate(cluster, requester, format_key(key))
            except _RotationFailed as error:
                cluster.note("rotation", f"stopped: {error}", requester)
                await trio.sleep(cluster.rng.uniform(1, 10))
            else:
                cluster.note("rotation", "done", requester)
                return key


async def _rotate(cluster: SimCluster, requester: str, key: str) -> None:
    before = await _query(cluster, requester, "list")
    failed = _failed(cluster, requester)
    steps = rotation(key, before)
    step = next(steps)
    while True:
        try:
            now = await _run_step(cluster, requester, step)
            if _failed(cluster, requester) - failed:
                raise _RotationFailed("members have failed meanwhile")  # noqa: TRY301
        except _RotationFailed:
            former = primary_of(before)
            if step.change == "use" and former is not None:
                with suppress(_RotationFailed):
                    await _query(cluster, requester, "use", former)
            raise
        try:
            step = steps.send(now)
        except StopIteration:
            return


def _failed(cluster: SimCluster, requester: str) -> set[str]:
    node = _running_node(cluster, requester)
    return {one.name for one in node.members() if one.status == "failed"}


async def _run_step(cluster: SimCluster, requester: str, step: Step) -> KeyQueryResult:
    for _ in range(_ATTEMPTS - 1):
        with suppress(_RotationFailed):
            return await _try_step(cluster, requester, step)
    return await _try_step(cluster, requester, step)


async def _try_step(cluster: SimCluster, requester: str, step: Step) -> KeyQueryResult:
    await _query(cluster, requester, step.change, step.key)
    now = await _query(cluster, requester, "list")
    if missing := count_missing(step, now):
        raise _RotationFailed(f"{missing} lack {step.change}")
    return now


async def _query(
    cluster: SimCluster, requester: str, action: KeyAction, key: str = ""
) -> KeyQueryResult:
    node = _running_node(cluster, requester)
    with trio.move_on_after(_QUERY_LIMIT):
        result = await node.keys(action, parse_key(key) if key else None)
        if result.failure is not None:
            raise _RotationFailed(f"{action}: {result.failure}")
        return result
    raise _RotationFailed(f"{requester} has crashed")


def _running_node(cluster: SimCluster, requester: str) -> Node:
    try:
        return cluster.node(requester)
    except KeyError:
        raise _RotationFailed(f"{requester} has crashed") from None
