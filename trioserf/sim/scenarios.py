"""The scenarios of every campaign, for a thousand seeds each.

Most begin with a cluster that has formed; `run` adds the end: all members must agree again.

Each is just long enough for its subject to happen often: many seeds find more than long runs.
Periodic work recurs within 30 s (push/pull, reconnecting, queue checks) or within ten probes, one
for each member.
"""

from typing import Final

import attrs
import trio

from trioserf.node.config import NodeConfig
from trioserf.sim.cluster import SimCluster
from trioserf.sim.key_rotation import ENCRYPTED, key_rotation
from trioserf.sim.network import LinkConditions
from trioserf.sim.scenario import Scenario
from trioserf.swim.config import SwimOptions

_SIZE: Final = 10
_LOSSY: Final = LinkConditions(loss=0.05, duplicate=0.01, reorder=0.02)
_NO_TCP_PINGS: Final = NodeConfig(name="template", tcp_pings=False)


async def _formed(cluster: SimCluster, size: int = _SIZE) -> list[str]:
    ids = await cluster.grow(size)
    await cluster.settle()
    return ids


async def steady(cluster: SimCluster) -> None:
    """Nothing happens for 64 s, two rounds of all periodic work: no member may be suspected."""
    ids = await _formed(cluster)
    for number in range(8):
        await cluster.event(cluster.rng.choice(ids), f"tick-{number}")
        await trio.sleep(8)
    if cluster.checker.suspicions:
        raise AssertionError(f"{cluster.checker.suspicions} suspicions in a healthy cluster")


async def mass_join(cluster: SimCluster) -> None:
    """Thirty members join within 0.2 s, on a network that duplicates and reorders packets."""
    await cluster.grow(30, within=0.2)


async def rolling_restart(cluster: SimCluster) -> None:
    """Members restart one after another, half of them after a leave, half after a crash."""
    ids = await _formed(cluster, 8)
    leaving = cluster.rng.sample(ids, len(ids) // 2)
    for member in ids:
        if member in leaving:
            await cluster.leave(member)
        else:
            await cluster.crash(member)
        await trio.sleep(cluster.rng.uniform(0.1, 8))
        if member == ids[0]:
            cluster.members[member].seeds = (ids[1],)
        await cluster.restart(member, snapshot=cluster.rng.random() < 0.5)
        await trio.sleep(cluster.rng.uniform(0.5, 4))


async def crash_wave(cluster: SimCluster) -> None:
    """A third of the members crash within seconds; half of these restart later."""
    ids = await _formed(cluster)
    victims = cluster.rng.sample(ids[1:], len(ids) // 3)
    for victim in victims:
        await cluster.crash(victim)
        await trio.sleep(cluster.rng.expovariate(2))
    await trio.sleep(cluster.rng.uniform(10, 40))
    for victim in victims[: len(victims) // 2]:
        await cluster.restart(victim)
        await trio.sleep(cluster.rng.random())
    await cluster.event(ids[0], "after-the-wave")


async def partition_heal(cluster: SimCluster) -> None:
    """The network splits in two or three, for seconds or for longer than every timeout."""
    ids = await _formed(cluster)
    cluster.rng.shuffle(ids)
    parts = cluster.rng.choice((2, 3))
    cluster.partition(*[ids[part::parts] for part in range(parts)])
    await trio.sleep(cluster.rng.uniform(5, 90))
    for part in range(parts):
        await cluster.event(ids[part], f"side-{part}")
    await trio.sleep(5)
    cluster.heal()


async def flapping_link(cluster: SimCluster) -> None:
    """The link of one member fails and recovers repeatedly."""
    ids = await _formed(cluster)
    victim = cluster.rng.choice(ids)
    for _ in range(cluster.rng.randint(5, 10)):
        cluster.partition([victim])
        await trio.sleep(cluster.rng.uniform(1, 8))
        cluster.heal()
        await trio.sleep(cluster.rng.uniform(0.5, 5))


async def one_way_loss(cluster: SimCluster) -> None:
    """One member loses most packets that it sends, another most that it should receive."""
    ids = await _formed(cluster)
    sender, receiver = cluster.rng.sample(ids, 2)
    cluster.lose(sender, sent=0.9)
    cluster.lose(receiver, received=0.9)
    await trio.sleep(cluster.rng.uniform(20, 40))
    cluster.heal()


async def loss_5(cluster: SimCluster) -> None:
    """One packet in twenty is lost, and a member crashes."""
    ids = await _formed(cluster)
    for number in range(10):
        await cluster.event(cluster.rng.choice(ids), f"tick-{number}")
        await trio.sleep(cluster.rng.uniform(1, 7))
    await cluster.crash(cluster.rng.choice(ids[1:]))


async def loss_20(cluster: SimCluster) -> None:
    """One packet in five is lost, without TCP pings: suspicions must be refuted in time."""
    await _formed(cluster)
    await trio.sleep(40)


async def loss_30(cluster: SimCluster) -> None:
    """Three packets in ten are lost, and a member crashes."""
    ids = await _formed(cluster)
    await trio.sleep(cluster.rng.uniform(20, 40))
    await cluster.crash(cluster.rng.choice(ids[1:]))
    await trio.sleep(20)


async def one_way_cuts(cluster: SimCluster) -> None:
    """Up to five links are cut in one direction, silently."""
    await _cut_one_way(cluster, reject=False)


async def rejecting_firewall(cluster: SimCluster) -> None:
    """A firewall rejects packets and connections on up to five links, in one direction."""
    await _cut_one_way(cluster, reject=True)


async def _cut_one_way(cluster: SimCluster, *, reject: bool) -> None:
    ids = await _formed(cluster)
    links = [(a, b) for a in ids for b in ids if a != b]
    for source, target in cluster.rng.sample(links, cluster.rng.randint(1, 5)):
        cluster.cut(source, target, reject=reject)
        await trio.sleep(cluster.rng.uniform(0, 10))
    await trio.sleep(cluster.rng.uniform(20, 60))
    cluster.heal()


async def quick_restarts(cluster: SimCluster) -> None:
    """Processes are killed, and started again within two seconds."""
    ids = await _formed(cluster)
    for victim in cluster.rng.sample(ids[1:], 4):
        await cluster.crash(victim)
        await trio.sleep(cluster.rng.uniform(0.2, 2))
        await cluster.restart(victim)
        await trio.sleep(cluster.rng.uniform(5, 10))


async def mixed_refusals(cluster: SimCluster) -> None:
    """Half of the members count no refusals, as Serf's; one process crashes, others are paused."""
    ids = await cluster.grow(5)
    ids += await cluster.grow(5, swim=SwimOptions(refusal_timeout=0))
    await cluster.settle()
    crashed, *paused = cluster.rng.sample(ids[1:], 3)
    async with trio.open_nursery() as nursery:
        for victim in paused:
            nursery.start_soon(_pause_repeatedly, cluster, victim, 2)
        await trio.sleep(cluster.rng.uniform(1, 10))
        await cluster.crash(crashed)


async def overloaded_third(cluster: SimCluster) -> None:
    """A third of the members pause repeatedly: their packets wait for seconds, in and out."""
    ids = await _formed(cluster)
    for victim in (victims := cluster.rng.sample(ids, len(ids) // 3)):
        cluster.slow(victim, cluster.rng.uniform(0.0, 0.4))
    async with trio.open_nursery() as nursery:
        for victim in victims:
            nursery.start_soon(_pause_repeatedly, cluster, victim, cluster.rng.randint(2, 4))
    for victim in victims:
        cluster.slow(victim, 0)


async def _pause_repeatedly(cluster: SimCluster, victim: str, times: int) -> None:
    for _ in range(times):
        cluster.pause(victim)
        await trio.sleep(cluster.rng.uniform(1, 16))
        cluster.resume(victim)
        await trio.sleep(cluster.rng.uniform(0.1, 4))


async def name_conflict(cluster: SimCluster) -> None:
    """A second member claims a name in use: it does not join, or the majority votes it out."""
    ids = await _formed(cluster)
    victim = cluster.rng.choice(ids[1:])
    if cluster.rng.random() < 0.5:
        await cluster.start("impostor", name=victim, seeds=(ids[0],))
    else:
        # It is joined by a member, so that it learns too late that the name is in use.
        await cluster.start("impostor", name=victim)
        await cluster.node(ids[0]).join([str(cluster.members["impostor"].address)])
    with trio.move_on_after(120):
        await cluster.members["impostor"].ended.wait()
    if cluster.members["impostor"].status != "quit" or not cluster.members[victim].is_up:
        raise AssertionError(
            f"impostor: {cluster.members['impostor'].status}, {victim}: "
            f"{cluster.members[victim].status}"
        )


async def leave_storm(cluster: SimCluster) -> None:
    """Half of the members leave at the same time."""
    ids = await _formed(cluster, 16)
    await cluster.leave(*cluster.rng.sample(ids[1:], len(ids) // 2))


async def event_storm(cluster: SimCluster) -> None:
    """All members send events as fast as they can, while new members join."""
    ids = await _formed(cluster)

    async def send(member: str) -> None:
        for number in range(8):
            await cluster.event(member, f"{member}-{number}", cluster.rng.randbytes(100))
            await trio.sleep(cluster.rng.expovariate(10))

    async with trio.open_nursery() as nursery:
        for member in ids:
            nursery.start_soon(send, member)
        await cluster.grow(4)


async def snapshot_restart(cluster: SimCluster) -> None:
    """Members crash and restart with their clocks: no event is delivered again."""
    ids = await _formed(cluster)
    for number in range(20):
        await cluster.event(cluster.rng.choice([m.id for m in cluster.up]), f"deploy-{number}")
        if number % 5 == 2:
            victim = cluster.rng.choice(ids)
            await cluster.crash(victim)
            await trio.sleep(cluster.rng.expovariate(0.2))
            await cluster.restart(victim, snapshot=True)
        await trio.sleep(cluster.rng.expovariate(2))


async def chaos(cluster: SimCluster) -> None:
    """Crashes, leaves, restarts, partitions, pauses, tags and events happen at random."""
    ids = await _formed(cluster, 10)
    rng = cluster.rng
    for number in range(18):
        up = [m.id for m in cluster.up]
        down = [m.id for m in cluster.members.values() if m.status in {"crashed", "left"}]
        action = rng.choice(
            ("crash", "leave", "restart", "partition", "heal", "pause", "event", "tags")
        )
        if action == "crash" and len(up) > 4:
            await cluster.crash(rng.choice(up))
        elif action == "leave" and len(up) > 4:
            await cluster.leave(rng.choice(up))
        elif action == "restart" and down:
            member = cluster.members[rng.choice(down)]
            member.seeds = tuple(rng.sample(up, 2))
            await cluster.restart(member.id, snapshot=rng.random() < 0.5)
        elif action == "partition":
            cluster.partition(rng.sample(ids, rng.randint(1, 5)))
        elif action == "heal":
            cluster.heal()
        elif action == "pause":
            victim = rng.choice(up)
            cluster.pause(victim)
            await trio.sleep(rng.expovariate(0.2))
            cluster.resume(victim)
        elif action == "tags":
            await cluster.node(rng.choice(up)).set_tags({"number": str(number)})
        else:
            await cluster.event(rng.choice(up), f"event-{number}")
        await trio.sleep(rng.expovariate(0.2))
    cluster.heal()


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(steady),
        Scenario(mass_join, link=LinkConditions(duplicate=0.02, reorder=0.05)),
        Scenario(rolling_restart, must_observe={"drop"}),
        Scenario(crash_wave, must_observe={"suspicion", "failure", "drop"}),
        Scenario(partition_heal, must_observe={"suspicion", "drop"}),
        Scenario(flapping_link, must_observe={"suspicion", "refutation", "drop"}),
        Scenario(one_way_loss, must_observe={"drop"}),
        Scenario(loss_5, link=_LOSSY, must_observe={"suspicion", "failure", "drop"}),
        Scenario(
            loss_20,
            link=attrs.evolve(_LOSSY, loss=0.2),
            config=_NO_TCP_PINGS,
            must_observe={"suspicion", "refutation", "drop"},
            count_false_alarms=True,
        ),
        Scenario(
            overloaded_third, must_observe={"suspicion", "refutation"}, count_false_alarms=True
        ),
        Scenario(
            loss_30,
            link=attrs.evolve(_LOSSY, loss=0.3),
            must_observe={"suspicion", "failure", "drop"},
            count_false_alarms=True,
        ),
        Scenario(one_way_cuts, must_observe={"drop"}, count_false_alarms=True),
        Scenario(rejecting_firewall, must_observe={"drop"}, count_false_alarms=True),
        Scenario(quick_restarts, count_false_alarms=True),
        Scenario(
            mixed_refusals,
            must_observe={"suspicion", "failure", "drop"},
            count_false_alarms=True,
        ),
        Scenario(name_conflict),
        Scenario(leave_storm),
        Scenario(event_storm, link=LinkConditions(duplicate=0.05, reorder=0.1)),
        Scenario(snapshot_restart, must_observe={"drop"}),
        Scenario(key_rotation, link=_LOSSY, config=ENCRYPTED, must_observe={"drop"}),
        Scenario(chaos),
    )
}
"""All scenarios by name."""
