"""Messages of multicast DNS, our own and those of the real program."""

import contextlib

import dns.message
import dns.name
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.address import Address
from trioserf.agent.mdns import Instance, MdnsError, encode_question, parse_answer, service_name
from trioserf.errors import ConfigError

SERVICE = service_name("demo")
HERE = Address("10.0.0.1", 7946)
INSTANCE = Instance(SERVICE, "ours", HERE, "Serf 'demo' cluster")
GO_QUESTION = bytes.fromhex(
    "c4b1000000010000000000000a5f736572665f64656d6f045f746370056c6f63616c00000c0001"
)

GO_ANSWER = bytes.fromhex(
    "0000840000000004000000000a5f736572665f64656d6f045f746370056c6f63616c00000c00010000007800060367"
    "6f62c00cc02d0021000100000078000a000a00011f0a02766d00c045000100010000007800040a4d0002c02d001000"
    "010000007800141353657266202764656d6f2720636c7573746572"
)


def encode_query(name: str, kind: str, *, rdclass: int = 1) -> bytes:
    message = dns.message.make_query(name, kind, id=77)
    message.flags = 0
    data = bytearray(message.to_wire())
    data[-2:] = rdclass.to_bytes(2, "big")
    return bytes(data)


def answer_to(data: bytes, port: int = 40000) -> dns.message.Message:
    answer = INSTANCE.answer(data, port)
    assert answer is not None
    return dns.message.from_wire(answer.data)


def test_question_equals_serfs() -> None:
    assert encode_question(SERVICE)[2:] == GO_QUESTION[2:]  # after the number


def test_one_shot_question_gets_unicast_answer() -> None:
    answer = INSTANCE.answer(GO_QUESTION, 40000)
    assert answer is not None
    assert not answer.to_group
    message = dns.message.from_wire(answer.data)
    assert message.id == 0xC4B1
    assert [str(question.name) for question in message.question] == ["_serf_demo._tcp.local."]
    lines = [rrset.to_text() for rrset in message.answer + message.additional]
    host = str(INSTANCE.host)
    assert lines == [
        "_serf_demo._tcp.local. 10 IN PTR ours._serf_demo._tcp.local.",
        f"ours._serf_demo._tcp.local. 10 IN SRV 10 1 7946 {host}",
        "ours._serf_demo._tcp.local. 10 IN TXT \"Serf 'demo' cluster\"",
        f"{host} 10 IN A 10.0.0.1",
    ]


def test_full_responder_gets_multicast_answer() -> None:
    answer = INSTANCE.answer(GO_QUESTION, 5353)
    assert answer is not None
    assert answer.to_group
    message = dns.message.from_wire(answer.data)
    assert (message.id, message.question) == (0, [])
    assert {rrset.ttl for rrset in message.answer} == {120}


def test_unicast_bit_gets_unicast_answer() -> None:
    answer = INSTANCE.answer(encode_query("_serf_demo._tcp.local.", "PTR", rdclass=0x8001), 5353)
    assert answer is not None
    assert not answer.to_group


@pytest.mark.parametrize(
    ("name", "kind", "kinds"),
    [
        ("_SERF_demo._tcp.LOCAL.", "ANY", "PTR SRV TXT A"),
        ("_services._dns-sd._udp.local.", "PTR", "PTR"),
        ("ours._serf_demo._tcp.local.", "SRV", "SRV A"),
        ("ours._serf_demo._tcp.local.", "TXT", "TXT A"),
        ("ours._serf_demo._tcp.local.", "ANY", "SRV TXT A"),
        (str(INSTANCE.host), "A", "A"),
    ],
)
def test_all_own_names_are_answered(name: str, kind: str, kinds: str) -> None:
    message = answer_to(encode_query(name, kind))
    records = [
        dns.rdatatype.to_text(rrset.rdtype) for rrset in message.answer + message.additional
    ]
    assert records == kinds.split()


@pytest.mark.parametrize(
    ("name", "kind", "rdclass"),
    [
        ("_serf_other._tcp.local.", "PTR", 1),
        ("_serf_demo._tcp.local.", "A", 1),
        ("_serf_demo._tcp.local.", "PTR", 3),
        (str(INSTANCE.host), "AAAA", 1),
        ("local.", "ANY", 1),
    ],
)
def test_foreign_question_is_not_answered(name: str, kind: str, rdclass: int) -> None:
    assert INSTANCE.answer(encode_query(name, kind, rdclass=rdclass), 40000) is None


def test_known_answer_suppresses_answer() -> None:
    query = dns.message.from_wire(GO_QUESTION)
    query.answer = answer_to(GO_QUESTION).answer
    assert INSTANCE.answer(query.to_wire(), 5353) is None


def test_answer_is_not_answered() -> None:
    answer = INSTANCE.answer(GO_QUESTION, 40000)
    assert answer is not None
    assert INSTANCE.answer(answer.data, 40000) is None


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
def test_own_answer_is_parsed(host: str) -> None:
    address = Address(host, 12345)
    answer = Instance(SERVICE, "x" * 100, address, "t" * 300).answer(GO_QUESTION, 40000)
    assert answer is not None
    assert parse_answer(SERVICE, answer.data) == [address]
    assert parse_answer(service_name("other"), answer.data) == []


def test_long_names_get_distinct_labels() -> None:
    names = {Instance(SERVICE, "x" * 100 + end, HERE, "").name for end in "ab"}
    assert len(names) == 2


def test_serf_answer_with_compressed_targets_is_parsed() -> None:
    assert parse_answer(SERVICE, GO_ANSWER) == [Address("10.77.0.2", 7946)]


def test_foreign_and_incomplete_records_are_skipped() -> None:
    message = dns.message.from_text(
        "id 0\nopcode QUERY\nflags QR AA\n;ANSWER\n"
        "_serf_demo._tcp.local. 120 IN PTR a._serf_demo._tcp.local.\n"
        "_serf_demo._tcp.local. 120 IN PTR b._serf_demo._tcp.local.\n"
        "_serf_demo._tcp.local. 120 IN PTR c._serf_demo._tcp.local.\n"
        "_http._tcp.local. 120 IN PTR d._http._tcp.local.\n"
        "a._serf_demo._tcp.local. 120 IN SRV 0 0 7946 nowhere.local.\n"
        "b._serf_demo._tcp.local. 120 IN SRV 0 0 0 host.local.\n"
        "d._http._tcp.local. 120 IN SRV 0 0 80 host.local.\n"
        "host.local. 120 IN A 10.0.0.9\n"
        "host.local. 120 IN HINFO x86 linux\n"
    )
    assert parse_answer(SERVICE, message.to_wire()) == []


def test_cache_flush_bit_is_ignored() -> None:
    answer = INSTANCE.answer(GO_QUESTION, 5353)
    assert answer is not None
    flushing = answer.data.replace(b"\x00\x21\x00\x01", b"\x00\x21\x80\x01")
    assert flushing != answer.data
    assert parse_answer(SERVICE, flushing) == [HERE]


@pytest.mark.parametrize("cluster", [".", "a..b", "x" * 58, "a" * 60 + ".b", "\udcff"])
def test_cluster_name_not_valid_in_dns_is_rejected(cluster: str) -> None:
    with pytest.raises(ConfigError, match="discover"):
        service_name(cluster)


def test_dots_in_cluster_name_separate_labels() -> None:
    assert service_name("a.b") == dns.name.from_text("_serf_a.b._tcp.local.")


@given(st.binary(max_size=200), st.integers(0, 65535))
def test_arbitrary_bytes_are_handled(data: bytes, port: int) -> None:
    for data_ in (data, GO_QUESTION[:12] + data):
        with contextlib.suppress(MdnsError):
            INSTANCE.answer(data_, port)
        with contextlib.suppress(MdnsError):
            assert isinstance(parse_answer(SERVICE, data_), list)


@given(st.data())
def test_damaged_answers_are_handled(data: st.DataObject) -> None:
    answer = INSTANCE.answer(GO_QUESTION, 40000)
    assert answer is not None
    damaged = bytearray(answer.data)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        for address in parse_answer(SERVICE, bytes(damaged)):
            assert isinstance(address, Address)
    except MdnsError:
        pass


@pytest.mark.parametrize("section", [4, 10])
def test_message_of_many_long_names_is_refused(section: int) -> None:
    long = b"\x01a" * 126 + b"\0" + GO_QUESTION[-4:]
    one = b"\xc0\x0c\0\x63\0\1" + (bytes(6) if section > 4 else b"")
    counts = bytearray(12)
    counts[4:6] = (1).to_bytes(2, "big")
    counts[section : section + 2] = (100).to_bytes(2, "big")
    with pytest.raises(MdnsError, match="names of more than 4096 labels"):
        INSTANCE.answer(bytes(counts) + long + one * 100, 5353)


def test_repeated_question_is_answered_once() -> None:
    question = GO_QUESTION[12:]
    many = GO_QUESTION[:4] + (700).to_bytes(2, "big") + bytes(6) + question
    message = answer_to(many + (b"\xc0\x0c" + question[-4:]) * 699)
    assert len(message.question) == 1
    assert len(message.answer) == 1
