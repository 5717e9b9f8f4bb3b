"""The stories that are told to every version of this program, with a thousand seeds each.

All of them begin with a cluster that has formed; `run` adds the end: all must agree again.

Each is as long as it takes for what it is about to happen often, and no longer: a thousand seeds
say more than a long night. Whatever is periodic comes round within 30 s (push/pull, reconnecting,
a look at the queues), or within ten probes, as many as there are members.
"""

from typing import Final

import attrs
import trio

from trioserf.node.config import NodeConfig
from trioserf.sim.cluster import SimCluster
from trioserf.sim.key_rotation import ENCRYPTED, key_rotation
from trioserf.sim.network import LinkConditions
from trioserf.sim.scenario import Scenario

_SIZE: Final = 10
_LOSSY: Final = LinkConditions(loss=0.05, duplicate=0.01, reorder=0.02)
_NO_STREAM_PINGS: Final = NodeConfig(name="template", tcp_pings=False)


async def _formed(world: SimCluster, size: int = _SIZE) -> list[str]:
    ids = await world.grow(size)
    await world.settle()
    return ids


async def steady(world: SimCluster) -> None:
    """Nothing happens for 64 s, two rounds of all that is periodic: nobody may be suspected."""
    ids = await _formed(world)
    for number in range(8):
        await world.event(world.rng.choice(ids), f"tick-{number}")
        await trio.sleep(8)
    if world.judge.suspicions:
        raise AssertionError(f"{world.judge.suspicions} suspicions in a healthy cluster")


async def mass_join(world: SimCluster) -> None:
    """Thirty members join within a fifth of a second, on a network that doubles and reorders."""
    await world.grow(30, within=0.2)


async def rolling_restart(world: SimCluster) -> None:
    """One after the other is restarted, half of them with a leave before, half without."""
    ids = await _formed(world, 8)
    polite = world.rng.sample(ids, len(ids) // 2)
    for member in ids:
        if member in polite:
            await world.leave(member)
        else:
            await world.crash(member)
        await trio.sleep(world.rng.uniform(0.1, 8))
        if member == ids[0]:
            world.members[member].seeds = (ids[1],)
        await world.restart(member, snapshot=world.rng.random() < 0.5)
        await trio.sleep(world.rng.uniform(0.5, 4))


async def crash_wave(world: SimCluster) -> None:
    """A third of the members crash within seconds; later half of these come back."""
    ids = await _formed(world)
    victims = world.rng.sample(ids[1:], len(ids) // 3)
    for victim in victims:
        await world.crash(victim)
        await trio.sleep(world.rng.expovariate(2))
    await trio.sleep(world.rng.uniform(10, 40))
    for victim in victims[: len(victims) // 2]:
        await world.restart(victim)
        await trio.sleep(world.rng.random())
    await world.event(ids[0], "after-the-wave")


async def partition_heal(world: SimCluster) -> None:
    """The network parts in two or three for seconds, or longer than every timeout."""
    ids = await _formed(world)
    world.rng.shuffle(ids)
    parts = world.rng.choice((2, 3))
    world.partition(*[ids[part::parts] for part in range(parts)])
    await trio.sleep(world.rng.uniform(5, 90))
    for part in range(parts):
        await world.event(ids[part], f"side-{part}")
    await trio.sleep(5)
    world.heal()


async def flapping_link(world: SimCluster) -> None:
    """One member's link fails and works again, over and over."""
    ids = await _formed(world)
    victim = world.rng.choice(ids)
    for _ in range(world.rng.randint(5, 10)):
        world.partition([victim])
        await trio.sleep(world.rng.uniform(1, 8))
        world.heal()
        await trio.sleep(world.rng.uniform(0.5, 5))


async def one_way_loss(world: SimCluster) -> None:
    """One member hears everyone but is hardly heard; another the other way round."""
    ids = await _formed(world)
    mute, deaf = world.rng.sample(ids, 2)
    world.lose(mute, sent=0.9)
    world.lose(deaf, received=0.9)
    await trio.sleep(world.rng.uniform(20, 40))
    world.heal()


async def loss_5(world: SimCluster) -> None:
    """One packet in twenty is lost, and a member crashes."""
    ids = await _formed(world)
    for number in range(10):
        await world.event(world.rng.choice(ids), f"tick-{number}")
        await trio.sleep(world.rng.uniform(1, 7))
    await world.crash(world.rng.choice(ids[1:]))


async def loss_20(world: SimCluster) -> None:
    """One packet in five is lost, and no stream helps: accusations must be refuted in time."""
    await _formed(world)
    await trio.sleep(40)


async def overloaded_third(world: SimCluster) -> None:
    """A third of the members stop and go: their packets wait for seconds, in and out."""
    ids = await _formed(world)
    for victim in (victims := world.rng.sample(ids, len(ids) // 3)):
        world.slow(victim, world.rng.uniform(0.0, 0.4))
    async with trio.open_nursery() as nursery:
        for victim in victims:
            nursery.start_soon(_stop_and_go, world, victim, world.rng.randint(2, 4))
    for victim in victims:
        world.slow(victim, 0)


async def _stop_and_go(world: SimCluster, victim: str, times: int) -> None:
    for _ in range(times):
        world.pause(victim)
        await trio.sleep(world.rng.uniform(1, 16))
        world.resume(victim)
        await trio.sleep(world.rng.uniform(0.1, 4))


async def name_conflict(world: SimCluster) -> None:
    """A second member claims a name that is taken: the majority sends it away."""
    ids = await _formed(world)
    victim = world.rng.choice(ids[1:])
    await world.start("impostor", name=victim, seeds=(ids[0],))
    with trio.move_on_after(120):
        await world.members["impostor"].ended.wait()
    if world.members["impostor"].status != "quit" or not world.members[victim].is_up:
        raise AssertionError(
            f"impostor: {world.members['impostor'].status}, {victim}: "
            f"{world.members[victim].status}"
        )


async def leave_storm(world: SimCluster) -> None:
    """Half of the members leave at the same time."""
    ids = await _formed(world, 16)
    await world.leave(*world.rng.sample(ids[1:], len(ids) // 2))


async def event_storm(world: SimCluster) -> None:
    """Everyone sends events as fast as it can, while members come."""
    ids = await _formed(world)

    async def send(member: str) -> None:
        for number in range(8):
            await world.event(member, f"{member}-{number}", world.rng.randbytes(100))
            await trio.sleep(world.rng.expovariate(10))

    async with trio.open_nursery() as nursery:
        for member in ids:
            nursery.start_soon(send, member)
        await world.grow(4)


async def snapshot_restart(world: SimCluster) -> None:
    """Members crash and come back with their clocks: no event is delivered again."""
    ids = await _formed(world)
    for number in range(20):
        await world.event(world.rng.choice([m.id for m in world.up]), f"deploy-{number}")
        if number % 5 == 2:
            victim = world.rng.choice(ids)
            await world.crash(victim)
            await trio.sleep(world.rng.expovariate(0.2))
            await world.restart(victim, snapshot=True)
        await trio.sleep(world.rng.expovariate(2))


async def chaos(world: SimCluster) -> None:
    """Whatever may happen happens, at random."""
    ids = await _formed(world, 10)
    rng = world.rng
    for number in range(18):
        up = [m.id for m in world.up]
        down = [m.id for m in world.members.values() if m.status in {"crashed", "left"}]
        deed = rng.choice(("crash", "leave", "restart", "part", "heal", "pause", "event", "tags"))
        if deed == "crash" and len(up) > 4:
            await world.crash(rng.choice(up))
        elif deed == "leave" and len(up) > 4:
            await world.leave(rng.choice(up))
        elif deed == "restart" and down:
            who = world.members[rng.choice(down)]
            who.seeds = tuple(rng.sample(up, 2))
            await world.restart(who.id, snapshot=rng.random() < 0.5)
        elif deed == "part":
            world.partition(rng.sample(ids, rng.randint(1, 5)))
        elif deed == "heal":
            world.heal()
        elif deed == "pause":
            victim = rng.choice(up)
            world.pause(victim)
            await trio.sleep(rng.expovariate(0.2))
            world.resume(victim)
        elif deed == "tags":
            await world.node(rng.choice(up)).set_tags({"number": str(number)})
        else:
            await world.event(rng.choice(up), f"event-{number}")
        await trio.sleep(rng.expovariate(0.2))
    world.heal()


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario.of(steady),
        Scenario.of(mass_join, link=LinkConditions(duplicate=0.02, reorder=0.05)),
        Scenario.of(rolling_restart, must_observe={"drop"}),
        Scenario.of(crash_wave, must_observe={"suspicion", "failure", "drop"}),
        Scenario.of(partition_heal, must_observe={"suspicion", "drop"}),
        Scenario.of(flapping_link, must_observe={"suspicion", "refutation", "drop"}),
        Scenario.of(one_way_loss, must_observe={"drop"}),
        Scenario.of(loss_5, link=_LOSSY, must_observe={"suspicion", "failure", "drop"}),
        Scenario.of(
            loss_20,
            link=attrs.evolve(_LOSSY, loss=0.2),
            config=_NO_STREAM_PINGS,
            must_observe={"suspicion", "refutation", "drop"},
            count_false_alarms=True,
        ),
        Scenario.of(
            overloaded_third, must_observe={"suspicion", "refutation"}, count_false_alarms=True
        ),
        Scenario.of(name_conflict),
        Scenario.of(leave_storm),
        Scenario.of(event_storm, link=LinkConditions(duplicate=0.05, reorder=0.1)),
        Scenario.of(snapshot_restart, must_observe={"drop"}),
        Scenario.of(key_rotation, link=_LOSSY, config=ENCRYPTED, must_observe={"drop"}),
        Scenario.of(chaos),
    )
}
"""All scenarios by name."""
