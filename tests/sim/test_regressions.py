"""Errors of nodes that campaigns found, each reduced to a short run."""

import trio

from tests.sim.helpers import UNKNOWN_ADDRESS
from trioserf.sim.cluster import open_cluster
from trioserf.sim.virtual_time import run_in_virtual_time
from trioserf.wire.packet import PacketCodec
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import Alive, Suspect


def test_suspicion_in_old_incarnation_is_answered_with_the_new_one() -> None:
    async def main() -> None:
        async with open_cluster() as cluster:
            await cluster.start("n1")
            codec = PacketCodec(keyring=None)
            peer = cluster.network.open(UNKNOWN_ADDRESS)
            # The first suspicion is refuted, the second answered without a new refutation.
            for _ in range(2):
                for packet in codec.pack([encode(Suspect(1, "n1", "peer"))], crc=False):
                    peer.send_packet(packet, cluster.members["n1"].address)
                [(data, source)] = await peer.receive_packets()
                messages, error = codec.decode(data)
                assert error is None
                assert source == cluster.members["n1"].address
                [alive] = [one for one in messages if isinstance(one, Alive)]
                assert (alive.node, alive.incarnation) == ("n1", 2)

    run_in_virtual_time(main, seed=1)


def test_partition_healed_through_a_seed_loses_no_event() -> None:
    async def main() -> None:
        async with open_cluster(seed=1) as cluster:
            await cluster.grow(4)
            await cluster.settle()
            cluster.partition(["n1", "n2"])
            await trio.sleep(60)
            await cluster.event("n1", "deploy")
            await cluster.event("n2", "deploy-again")
            await trio.sleep(5)
            with cluster.node("n3").subscribe() as events:
                cluster.heal()
                received: set[str] = set()
                with trio.fail_after(cluster.checker.convergence_bound()):
                    while received != {"deploy", "deploy-again"}:
                        event = await events.receive()
                        if event.kind == "user":
                            received.add(event.name)

    run_in_virtual_time(main, seed=1)


def test_restarted_member_is_not_recorded_as_leaving() -> None:
    async def main() -> None:
        async with open_cluster(seed=3) as cluster:
            await cluster.grow(4)
            await cluster.settle()
            await cluster.leave("n4")
            # Two members keep exchanging the leave of n4, each time with a later Lamport time,
            # while n4 restarts on the other side of a partition.
            cluster.partition(["n1", "n2"])
            cluster.members["n4"].seeds = ("n3",)
            await cluster.restart("n4")
            await trio.sleep(180)
            cluster.heal()
            with trio.move_on_after(cluster.checker.convergence_bound()):
                while True:
                    known = cluster.node("n3").member("n4")
                    assert known is not None
                    assert known.status == "alive"
                    await trio.sleep(0.05)
            await cluster.settle(bound=0)

    run_in_virtual_time(main, seed=1)
