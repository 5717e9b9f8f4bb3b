"""Messages of multicast DNS, ours and those of the real program."""

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
OURS = Instance(SERVICE, "ours", HERE, "Serf 'demo' cluster")
GO_QUESTION = bytes.fromhex(
    "c4b1000000010000000000000a5f736572665f64656d6f045f746370056c6f63616c00000c0001"
)

GO_ANSWER = bytes.fromhex(
    "0000840000000004000000000a5f736572665f64656d6f045f746370056c6f63616c00000c00010000007800060367"
    "6f62c00cc02d0021000100000078000a000a00011f0a02766d00c045000100010000007800040a4d0002c02d001000"
    "010000007800141353657266202764656d6f2720636c7573746572"
)


def asking(name: str, kind: str, *, rdclass: int = 1) -> bytes:
    message = dns.message.make_query(name, kind, id=77)
    message.flags = 0
    data = bytearray(message.to_wire())
    data[-2:] = rdclass.to_bytes(2, "big")
    return bytes(data)


def told(data: bytes, port: int = 40000) -> dns.message.Message:
    answer = OURS.answer(data, port)
    assert answer is not None
    return dns.message.from_wire(answer.data)


def test_the_question_is_the_one_that_serf_asks() -> None:
    assert encode_question(SERVICE)[2:] == GO_QUESTION[2:]  # after the number


def test_a_one_shot_question_is_answered_to_the_asker() -> None:
    answer = OURS.answer(GO_QUESTION, 40000)
    assert answer is not None
    assert not answer.to_group
    message = dns.message.from_wire(answer.data)
    assert message.id == 0xC4B1
    assert [str(one.name) for one in message.question] == ["_serf_demo._tcp.local."]
    lines = [rrset.to_text() for rrset in message.answer + message.additional]
    host = str(OURS.host)
    assert lines == [
        "_serf_demo._tcp.local. 10 IN PTR ours._serf_demo._tcp.local.",
        f"ours._serf_demo._tcp.local. 10 IN SRV 10 1 7946 {host}",
        "ours._serf_demo._tcp.local. 10 IN TXT \"Serf 'demo' cluster\"",
        f"{host} 10 IN A 10.0.0.1",
    ]


def test_other_responders_are_answered_through_the_group() -> None:
    answer = OURS.answer(GO_QUESTION, 5353)
    assert answer is not None
    assert answer.to_group
    message = dns.message.from_wire(answer.data)
    assert (message.id, message.question) == (0, [])
    assert {rrset.ttl for rrset in message.answer} == {120}


def test_a_wish_for_an_answer_alone_is_granted() -> None:
    answer = OURS.answer(asking("_serf_demo._tcp.local.", "PTR", rdclass=0x8001), 5353)
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
        (str(OURS.host), "A", "A"),
    ],
)
def test_every_name_of_ours_is_known(name: str, kind: str, kinds: str) -> None:
    message = told(asking(name, kind))
    records = [dns.rdatatype.to_text(one.rdtype) for one in message.answer + message.additional]
    assert records == kinds.split()


@pytest.mark.parametrize(
    ("name", "kind", "rdclass"),
    [
        ("_serf_other._tcp.local.", "PTR", 1),
        ("_serf_demo._tcp.local.", "A", 1),
        ("_serf_demo._tcp.local.", "PTR", 3),
        (str(OURS.host), "AAAA", 1),
        ("local.", "ANY", 1),
    ],
)
def test_what_is_not_ours_is_not_answered(name: str, kind: str, rdclass: int) -> None:
    assert OURS.answer(asking(name, kind, rdclass=rdclass), 40000) is None


def test_who_knows_us_is_not_told_again() -> None:
    query = dns.message.from_wire(GO_QUESTION)
    query.answer = told(GO_QUESTION).answer
    assert OURS.answer(query.to_wire(), 5353) is None


def test_an_answer_is_not_answered() -> None:
    answer = OURS.answer(GO_QUESTION, 40000)
    assert answer is not None
    assert OURS.answer(answer.data, 40000) is None


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
def test_what_we_say_is_found(host: str) -> None:
    at = Address(host, 12345)
    answer = Instance(SERVICE, "x" * 100, at, "t" * 300).answer(GO_QUESTION, 40000)
    assert answer is not None
    assert parse_answer(SERVICE, answer.data) == [at]
    assert parse_answer(service_name("other"), answer.data) == []


def test_names_too_long_for_a_label_stay_apart() -> None:
    names = {Instance(SERVICE, "x" * 100 + end, HERE, "").name for end in "ab"}
    assert len(names) == 2


def test_an_answer_of_serf_with_compressed_targets_is_understood() -> None:
    assert parse_answer(SERVICE, GO_ANSWER) == [Address("10.77.0.2", 7946)]


def test_records_of_others_and_incomplete_ones_are_passed_over() -> None:
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


def test_a_flag_that_says_to_flush_the_cache_does_no_harm() -> None:
    answer = OURS.answer(GO_QUESTION, 5353)
    assert answer is not None
    flushing = answer.data.replace(b"\x00\x21\x00\x01", b"\x00\x21\x80\x01")
    assert flushing != answer.data
    assert parse_answer(SERVICE, flushing) == [HERE]


@pytest.mark.parametrize("cluster", [".", "a..b", "x" * 58, "a" * 60 + ".b", "\udcff"])
def test_clusters_that_make_no_name_are_refused(cluster: str) -> None:
    with pytest.raises(ConfigError, match="discover"):
        service_name(cluster)


def test_dots_part_a_cluster_as_they_do_for_serf() -> None:
    assert service_name("a.b") == dns.name.from_text("_serf_a.b._tcp.local.")


@given(st.binary(max_size=200), st.integers(0, 65535))
def test_anything_may_come(data: bytes, port: int) -> None:
    for data_ in (data, GO_QUESTION[:12] + data):
        with contextlib.suppress(MdnsError):
            OURS.answer(data_, port)
        with contextlib.suppress(MdnsError):
            assert isinstance(parse_answer(SERVICE, data_), list)


@given(st.data())
def test_damaged_answers_may_come(data: st.DataObject) -> None:
    answer = OURS.answer(GO_QUESTION, 40000)
    assert answer is not None
    damaged = bytearray(answer.data)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        for address in parse_answer(SERVICE, bytes(damaged)):
            assert isinstance(address, Address)
    except MdnsError:
        pass


def test_a_question_asked_a_thousand_times_is_answered_once() -> None:
    one = GO_QUESTION[12:]
    many = GO_QUESTION[:4] + (1490).to_bytes(2, "big") + bytes(6) + one
    message = told(many + (b"\xc0\x0c" + one[-4:]) * 1489)
    assert len(message.question) == 1
    assert len(message.answer) == 1
