"""What nodes have learned in the simulator, each lesson told without its scenario."""

import trio

from trioserf.sim.cluster import open_world
from trioserf.sim.schedule import run_in_virtual_time
from trioserf.wire.packet import PacketCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import Alive, Suspect


def test_who_accuses_in_an_old_incarnation_is_told_of_the_new_one() -> None:
    async def main() -> None:
        async with open_world() as world:
            await world.start("n1")
            codec = PacketCodec(keyring=None)
            peer = world.network.open(("10.9.9.9", 7946))
            for _ in range(2):  # the first is refuted, the second is answered out of hand
                for packet in codec.pack([encode(Suspect(1, "n1", "peer"))], crc=False):
                    peer.send_packet(packet, world.members["n1"].address)
                [(data, source)] = await peer.receive_packets()
                messages, fault = codec.decode(data)
                assert fault is None
                assert source == world.members["n1"].address
                [claim] = [one for one in messages if isinstance(one, Alive)]
                assert (claim.node, claim.incarnation) == ("n1", 2)

    run_in_virtual_time(main, seed=1)


def test_a_partition_that_a_seed_ends_loses_no_event() -> None:
    async def main() -> None:
        async with open_world(seed=1) as world:
            await world.grow(4)
            await world.settle()
            world.partition(["n1", "n2"])
            await trio.sleep(60)
            await world.event("n1", "deploy")
            await world.event("n2", "deploy-again")
            await trio.sleep(5)
            with world.node("n3").subscribe() as events:
                world.heal()
                heard: set[str] = set()
                with trio.fail_after(world.judge.convergence_bound()):
                    while heard != {"deploy", "deploy-again"}:
                        event = await events.receive()
                        if event.kind == "user":
                            heard.add(event.name)

    run_in_virtual_time(main, seed=1)


def test_who_came_back_is_not_taken_for_leaving_by_those_who_know_better() -> None:
    async def main() -> None:
        async with open_world(seed=3) as world:
            await world.grow(4)
            await world.settle()
            await world.leave("n4")
            # Two go on telling each other that n4 has left, each time with a later Lamport time,
            # while n4 comes back where they cannot hear of it.
            world.partition(["n1", "n2"])
            world.members["n4"].seeds = ("n3",)
            await world.restart("n4")
            await trio.sleep(180)
            world.heal()
            with trio.move_on_after(world.judge.convergence_bound()):
                while True:
                    known = world.node("n3").member("n4")
                    assert known is not None
                    assert known.status_text == "alive"
                    await trio.sleep(0.05)
            await world.settle(bound=0)

    run_in_virtual_time(main, seed=1)
