"""Poison in a cluster of both kinds: what the real program believes must not cut us off."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.agents import Cluster, following, joined, records, until
from trioserf.wire import serf_codec
from trioserf.wire.msgpack import pack
from trioserf.wire.serf_messages import UserEvent
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import OUR_VERSIONS, Alive, Message, UserMessage

pytestmark = pytest.mark.serf


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    with joined(70, "go-a", "py-a", "py-b") as mixed:
        yield mixed


def send(mixed: Cluster, to: str, data: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(data, (mixed.host(to), 7946))


def names(path: Path) -> set[str]:
    return {one["name"] for one in records(path)}


JUMPS = [("go-a", 2**63), ("py-a", 2**63 + 2**40), ("go-a", 2**64 - 5000), ("py-a", 2**64 - 1000)]


@pytest.mark.parametrize(("to", "ltime"), JUMPS)
def test_everybody_hears_everybody_after_a_jump_of_the_clock(
    three: Cluster, to: str, ltime: int
) -> None:
    with ExitStack() as stack:
        received = {
            name: stack.enter_context(following(agent, "--type=user"))
            for name, agent in three.running.items()
        }
        attempts = iter(range(100))

        def all_have_heard() -> bool:
            """Say it again, for a stream that has not quite begun misses the first."""
            number = next(attempts)
            poison = UserEvent(ltime + number, "poison", b"%d" % number)
            send(three, to, encode(UserMessage(serf_codec.encode(poison))))
            return all("poison" in names(path) for path in received.values())

        # The real program does not hear who has not received of the jump yet, so let all hear of it.
        until(all_have_heard)
        for round_ in range(3):
            for name, agent in three.running.items():
                code, said = agent.ask("event", "-coalesce=false", f"{round_}-{name}-{to}-{ltime}")
                assert code == 0, said
        wanted = {f"{r}-{name}-{to}-{ltime}" for r in range(3) for name in three.running}

        def missing() -> dict[str, set[str]]:
            got = {name: names(path) for name, path in received.items()}
            return {name: wanted - there for name, there in got.items() if wanted - there}

        until(lambda: not missing(), what=lambda: str(missing()))


def odd(name: str, **fields: object) -> bytes:
    """Spell a member that cannot be."""
    good = {
        "Addr": bytes((127, 9, 9, 9)), "Incarnation": 1, "Meta": None, "Node": name,
        "Port": 7946, "Vsn": bytes(OUR_VERSIONS),
    }  # fmt: skip
    return b"\x04" + pack(dict(sorted((good | fields).items())))


def test_members_that_only_the_real_program_believes_in_do_not_end_exchanges(
    three: Cluster,
) -> None:
    for data in (
        odd("no-address", Addr=b"abc"),
        odd("x" * 1100),
        odd("much-to-say", Meta=bytes(513)),
    ):
        send(three, "go-a", data)
    invented: Message = Alive(1, "invented", bytes((127, 9, 9, 9)), 7946)
    send(three, "go-a", encode(invented))
    until(
        lambda: "no-address" in three.running["go-a"].members(),
        what=three.running["go-a"].log_text,
    )
    until(lambda: len(three.running["go-a"].members()) >= 6)
    # A join is an exchange of states; its answer holds all of them.
    code, said = three.running["py-b"].ask("join", three.host("go-a"))
    assert code == 0, said
    until(lambda: "invented" in three.running["py-b"].members())
    assert "no-address" not in three.running["py-b"].members()
    assert "push/pull" not in three.running["py-b"].log_text()
