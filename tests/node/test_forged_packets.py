"""What packets of hosts that are not members can cause: work, and packets to other hosts."""

import random

import pytest

from trioserf.address import Address, packed
from trioserf.errors import InvalidQuery
from trioserf.node.config import NodeConfig
from trioserf.node.seen_nonces import SeenNonces
from trioserf.node.state import ClusterState
from trioserf.results import QueryResult
from trioserf.serf.effects import NameConflictLost
from trioserf.serf.key_queries import key_query
from trioserf.serf.keyring import Keyring
from trioserf.wire.errors import WireError
from trioserf.wire.packet import PacketCodec, compress_message, make_compound
from trioserf.wire.serf_codec import encode as encode_serf
from trioserf.wire.serf_messages import (
    ConflictResponse,
    KeyRequest,
    KeyResponse,
    Query,
    QueryFlag,
    QueryResponse,
    Relay,
    SerfMessage,
    TagFilter,
)
from trioserf.wire.serf_payloads import encode_filter
from trioserf.wire.swim_codec import encode
from trioserf.wire.swim_messages import (
    OUR_VERSIONS,
    Ack,
    Alive,
    IndirectPing,
    Message,
    Ping,
    Suspect,
    UserMessage,
)

US = Address("10.0.0.1", 7946)
MEMBER = Address("10.0.0.2", 7946)
A, B = bytes(32), b"b" * 32
UNKNOWN = Address("10.0.0.3", 7946)
BYSTANDER = Address("10.0.0.4", 7946)


def state(**options: object) -> ClusterState:
    """Return a state with one other member, `m`, and without queued broadcasts."""
    config = NodeConfig(name="us", tags={"role": "a" * 400}, **options)  # type: ignore[arg-type]
    subject = ClusterState(config, US, rng=random.Random(1), has_responder=lambda _: False)
    subject.start(0.0, None)
    receive(subject, Alive(1, "m", packed(MEMBER.host), MEMBER.port), source=MEMBER)
    while subject.filler:
        subject.gossip(0.0)
    subject.outbox.packets.clear()
    subject.serf.events.clear()
    return subject


def receive(
    subject: ClusterState, *messages: Message, source: Address = UNKNOWN, now: float = 1.0
) -> dict[Address, int]:
    """Handle one packet of these messages; return the bytes sent to each address."""
    data = compress_message(make_compound([encode(one) for one in messages]))
    subject.handle_packets([(data, source)], now)
    while subject.has_waiting:
        subject.handle_waiting(now)
    assert subject.pop_stream_messages() == []
    sent: dict[Address, int] = {}
    for packet, to in subject.outbox.packets:
        sent[to] = sent.get(to, 0) + len(packet)
    subject.outbox.packets.clear()
    return sent


def sealed(subject: ClusterState, message: Message) -> dict[Address, bytes]:
    """Handle one encrypted packet with this message; return the packets sent."""
    [data] = PacketCodec(keyring=Keyring([A])).pack([encode(message)], crc=False)
    subject.handle_packets([(data, MEMBER)], 1.0)
    subject.pop_stream_messages()
    sent = {to: packet for packet, to in subject.outbox.packets}
    subject.outbox.packets.clear()
    return sent


def user(message: SerfMessage) -> UserMessage:
    return UserMessage(encode_serf(message))


def query(
    number: int,
    to: Address,
    requester: str,
    *expressions: str,
    relay: int = 0,
    name: str = "q",
    payload: bytes = b"",
) -> UserMessage:
    filters = tuple(encode_filter(TagFilter("role", expr)) for expr in expressions)
    flags = int(QueryFlag.ACK)
    return user(
        Query(
            ltime=number,
            id=number,
            addr=packed(to.host),
            port=to.port,
            source_node=requester,
            filters=filters,
            flags=flags,
            relay_factor=relay,
            timeout=10**10,
            name=name,
            payload=payload,
        )
    )


def test_packet_with_many_pings_is_not_answered() -> None:
    subject = state()
    assert receive(subject, *[Ping(1, "us")] * 4)
    assert receive(subject, *[Ping(1, "us")] * 5) == {}
    assert subject.drops.by_kind["budget"] == 1


def test_messages_beside_excess_pings_are_handled() -> None:
    subject = state()
    receive(subject, *[Ping(1, "us")] * 5, Alive(1, "n", b"\x0a\0\0\x09", 7946))
    assert "n" in subject.membership.records


def test_ping_of_unknown_host_takes_no_broadcasts() -> None:
    subject = state()
    subject.serf.user_event("e", b"p" * 300)
    assert 0 < receive(subject, Ping(1, "us"))[UNKNOWN] < 200
    known = Ping(1, "us", packed(MEMBER.host), MEMBER.port, "m")
    assert receive(subject, known, source=MEMBER)[MEMBER] > 300


def test_pings_for_acks_to_a_bystander_are_limited() -> None:
    subject = state()
    ping = Ping(1, "us", packed(BYSTANDER.host), BYSTANDER.port, "x")
    sent = sum(receive(subject, ping).get(BYSTANDER, 0) for _ in range(200))
    assert 0 < sent <= 2048


def test_indirect_pings_of_a_bystander_are_limited() -> None:
    subject = state()
    request = IndirectPing(1, packed(BYSTANDER.host), BYSTANDER.port, "x")
    sent = sum(receive(subject, request).get(BYSTANDER, 0) for _ in range(200))
    assert 0 < sent <= 3000
    assert subject.detector.pending_indirect_pings < 50


def test_packet_of_suspicions_gets_one_refutation() -> None:
    subject = state()
    subject.membership.local.incarnation = 1000
    suspicions = [Suspect(number, "us", "x") for number in range(200)]
    [(to, size)] = receive(subject, *suspicions).items()
    assert (to, size < 700) == (UNKNOWN, True)


def test_responses_to_a_forged_address_are_limited() -> None:
    subject = state()
    sent = receive(subject, *(query(number, BYSTANDER, "x") for number in range(1, 200)))
    assert 0 < sent[BYSTANDER] <= 3000
    assert subject.drops.by_kind["budget"] > 100


def test_responses_to_a_member_are_not_limited() -> None:
    subject = state()
    sent = receive(subject, *(query(number, MEMBER, "m") for number in range(1, 200)))
    assert sent[MEMBER] > 5000


def test_response_to_a_forged_address_is_not_relayed() -> None:
    subject = state()
    members = (Alive(1, f"n{i}", bytes((10, 1, 0, i)), 7946) for i in range(1, 9))
    receive(subject, *members)
    assert set(receive(subject, query(1, BYSTANDER, "m", relay=5))) == {BYSTANDER}
    assert len(receive(subject, query(2, MEMBER, "m", relay=5))) > 3


def test_relayed_messages_to_a_bystander_are_limited() -> None:
    subject = state()
    to_bystander = user(Relay(packed(BYSTANDER.host), BYSTANDER.port, "m", b"r" * 1000))
    assert receive(subject, *[to_bystander] * 60)[BYSTANDER] <= 3000
    to_member = user(Relay(packed(MEMBER.host), MEMBER.port, "m", b"r" * 1000))
    assert receive(subject, *[to_member] * 60)[MEMBER] > 60_000


@pytest.mark.parametrize("message", [
    Ping(1, "us", packed(BYSTANDER.host), BYSTANDER.port, "x"),
    IndirectPing(1, packed(BYSTANDER.host), BYSTANDER.port, "x"),
    query(1, BYSTANDER, "x"),
    user(Relay(packed(BYSTANDER.host), BYSTANDER.port, "x", b"r")),
])  # fmt: skip
def test_address_outside_allowed_networks_gets_nothing(message: Message) -> None:
    subject = state(allowed_networks=("10.0.0.0/30",))
    assert receive(subject, message) == {}


def test_query_over_budget_is_rebroadcast_and_counted() -> None:
    subject = state()
    receive(subject, query(1, MEMBER, "m", r"\PL" * 300))
    assert subject.drops.by_kind["budget"] == 1
    assert len(subject.serf.queues["Query"]) == 1
    assert subject.serf.events == []


def test_packet_of_expensive_queries_is_within_budget() -> None:
    subject = state()
    queries = (query(n, MEMBER, "m", "((a?){30}){30}" + "x" * n) for n in range(1, 200))
    receive(subject, *queries)
    assert subject.drops.by_kind["budget"] > 150
    assert receive(subject, query(999, MEMBER, "m", "^a"), source=MEMBER)


# --- keys ---


def install(number: int = 1, relay: int = 0) -> UserMessage:
    payload = encode_serf(KeyRequest(B))
    return query(number, MEMBER, "m", name="_serf_install-key", payload=payload, relay=relay)


@pytest.mark.parametrize("outgoing", [False, True])
def test_plaintext_key_query_is_refused_once_there_are_keys(outgoing: bool) -> None:
    keyring = Keyring([A])
    subject = state(keyring=keyring, verify_incoming=False, verify_outgoing=outgoing)
    listing = query(2, MEMBER, "m", name="_serf_list-keys")
    assert receive(subject, install(), listing, source=MEMBER) == {}
    assert keyring.keys == (A,)
    assert len(subject.serf.queues["Query"]) == 0
    assert subject.drops.by_kind["plaintext-refused"] == 2


def test_encrypted_key_query_is_refused_while_we_send_plaintext() -> None:
    keyring = Keyring([A])
    subject = state(keyring=keyring, verify_incoming=False, verify_outgoing=False)
    assert sealed(subject, install()) == {}
    assert keyring.keys == (A,)
    assert len(subject.serf.queues["Query"]) == 0


def test_encrypted_key_query_is_answered_encrypted_and_not_relayed() -> None:
    keyring = Keyring([A])
    subject = state(keyring=keyring, verify_incoming=False)
    for number in range(1, 9):
        sealed(subject, Alive(1, f"n{number}", bytes((10, 1, 0, number)), 7946))
    sent = sealed(subject, query(1, MEMBER, "m", name="_serf_list-keys", relay=5))
    assert set(sent) == {MEMBER}
    assert sent[MEMBER][0] == 1
    assert len(subject.serf.queues["Query"]) == 1


def test_without_keys_plaintext_key_query_is_answered() -> None:
    assert MEMBER in receive(state(), install())


def test_plaintext_response_to_our_key_query_is_refused() -> None:
    subject = state(keyring=Keyring([A]), verify_incoming=False)
    results: list[QueryResult] = []
    running = subject.serf.ask(key_query("list", b""), results.append, 1.0)
    response = user(QueryResponse(*running.key, "m", 0, encode_serf(KeyResponse(True))))
    receive(subject, response)
    assert subject.drops.by_kind["plaintext-refused"] == 1
    before = len(results)
    sealed(subject, response)
    assert len(results) > before


def test_our_key_query_is_refused_while_we_send_plaintext() -> None:
    subject = state(keyring=Keyring([A]), verify_incoming=False, verify_outgoing=False)
    with pytest.raises(InvalidQuery, match="set verify_outgoing first"):
        subject.serf.ask(key_query("list", b""), lambda _: None, 1.0)


# --- name conflicts ---


def test_forged_claim_of_our_name_does_not_end_a_lone_node() -> None:
    subject = state()
    receive(subject, Alive(99, "us", packed(BYSTANDER.host), 7946))
    subject.expire(100.0)
    assert subject.serf.shutdown_orders == []


def vote(subject: ClusterState, *names: str) -> None:
    """Make these members respond that our name belongs to another host."""
    [running] = subject.serf._outgoing_queries._running.values()
    theirs = ConflictResponse("us", packed(BYSTANDER.host), 7946, {}, 1, *OUR_VERSIONS)
    for name in names:
        response = QueryResponse(*running.key, name, 0, encode_serf(theirs))
        receive(subject, user(response))
    subject.expire(100.0)


def test_forged_members_do_not_vote() -> None:
    subject = state()
    names = [f"forged {number}" for number in range(8)]
    for number, name in enumerate(names):
        receive(subject, Alive(1, name, bytes((10, 2, 0, number)), 7946))
    receive(subject, Alive(99, "us", packed(BYSTANDER.host), 7946))
    vote(subject, *names)
    assert subject.serf.shutdown_orders == []


@pytest.mark.parametrize("how", ["probe", "push/pull"])
def test_member_that_answered_us_votes(how: str) -> None:
    subject = state()
    if how == "probe":
        probe = subject.detector.start_probe(1.0, lambda: None)
        assert probe is not None
        receive(subject, Ack(probe.seq_no), source=MEMBER)
    else:
        subject.membership.exchange_succeeded(MEMBER)
    receive(subject, Alive(99, "us", packed(BYSTANDER.host), 7946))
    vote(subject, "m")
    assert subject.serf.shutdown_orders == [NameConflictLost(0, 1, BYSTANDER)]


def test_member_at_another_address_must_answer_again() -> None:
    subject = state()
    record = subject.membership.records["m"]
    record.is_reached = True
    record.set_address(packed(BYSTANDER.host), 7946)
    assert not record.is_reached


def replayed(subject: ClusterState, data: bytes, now: float) -> bool:
    """Handle a packet; return whether it is dropped as one that has arrived before."""
    before = subject.drops.by_kind["replayed"]
    subject.handle_packets([(data, UNKNOWN)], now)
    was_answered = bool(subject.outbox.packets)
    subject.outbox.packets.clear()
    was_replayed = subject.drops.by_kind["replayed"] > before
    assert was_answered is not was_replayed
    return was_replayed


def sealed_ping(number: int) -> bytes:
    codec = PacketCodec(keyring=Keyring([A]))
    [data] = codec.pack([encode(Ping(number, "us"))], crc=False)
    return data


def test_encrypted_packet_is_handled_once_within_minutes() -> None:
    subject = state(keyring=Keyring([A]), verify_incoming=False)
    pings = [sealed_ping(number) for number in range(3)]
    assert [replayed(subject, data, 1.0) for data in pings] == [False] * 3
    assert [replayed(subject, data, 149.0) for data in pings] == [True] * 3
    assert not replayed(subject, sealed_ping(0), 151.5)  # the same message, encrypted again
    assert replayed(subject, pings[0], 300.0)


def test_remembered_nonces_are_bounded() -> None:
    nonces = SeenNonces()
    for number in range(100_000):
        nonces.add(number.to_bytes(12, "big"), 1.0)
    assert len(nonces) <= 32_768
    with pytest.raises(WireError, match="arrived before"):
        nonces.add((99_999).to_bytes(12, "big"), 1.0)


def test_plaintext_packets_are_not_compared() -> None:
    subject = state()
    data = encode(Ping(1, "us"))
    assert [replayed(subject, data, 1.0) for _ in range(2)] == [False, False]
