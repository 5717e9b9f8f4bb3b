"""Messages of multicast DNS between Serf's agents (RFC 6762, 6763; agent/README.md, § mDNS).

A cluster is a service: the answer to a question for `_serf_CLUSTER._tcp.local` contains the name
of an instance, its address and a text. Serf's agents ask from an ephemeral port, which makes
their questions one-shot (RFC 6762, section 6.7), and answer to the sender of a question.

Each answer is parsed by itself. If the records of several answers were combined, machines with
the same host name would get each other's addresses.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs
import dns.exception
import dns.flags
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.renderer
import dns.rrset
import dns.wire
from dns.rdataclass import IN
from dns.rdatatype import AAAA, ANY, PTR, SRV, TXT, A

from trioserf.address import Address
from trioserf.errors import ConfigError
from trioserf.net.multicast import PORT
from trioserf.value_objects import ValueObject

MAX_MESSAGE: Final = 9000
"""Bytes of a message (RFC 6762, section 17)."""
_MAX_LABELS: Final = 4096
"""Labels of all names of a message: pointers make long names of few bytes, which take long."""
_MAX_LABEL: Final = 63
_TTL: Final = 120
_SHORT_TTL: Final = 10
"""Time to live in answers to one-shot questions (RFC 6762, section 6.7)."""
_TOP_BIT: Final = 0x8000
"""Top bit of a class. Question: a unicast answer is accepted; record: it replaces all others."""
_RECORDS: Final = frozenset((PTR, SRV, A, AAAA))
_REJECTED_FLAGS: Final = 0x0200 | 0x780F
"""Flags of messages that are rejected: truncated, not a query, or an error."""
_LOCAL: Final = (b"local", b"")
_CATALOGUE: Final = dns.name.Name((b"_services", b"_dns-sd", b"_udp", *_LOCAL))


class MdnsError(ValueError):
    """Bytes that are not a valid message of multicast DNS, or not one for us."""


@attrs.frozen(eq=False, repr=False)
class Answer(ValueObject):
    """An encoded answer, to the multicast group or to the requester only."""

    data: bytes
    to_group: bool


def service_name(cluster: str) -> dns.name.Name:
    """Return the name of a cluster's service.

    Raises:
        ConfigError: the cluster's name does not fit into a DNS name.
    """
    try:
        labels = [label.encode() for label in f"_serf_{cluster}".split(".")]
        return dns.name.Name((*labels, b"_tcp", *_LOCAL))
    except (dns.exception.DNSException, UnicodeEncodeError):
        raise ConfigError(
            f"discover: {cluster!r} is not valid in a DNS name; expected 1 to 57 bytes, and from"
            f" 1 to {_MAX_LABEL} between dots"
        ) from None


def encode_question(service: dns.name.Name) -> bytes:
    """Encode the question for all instances of a service."""
    return _encode(0, 0, [(service, PTR)])


class Instance:
    """One member as an instance of its cluster's service.

    Args:
        service: the service.
        node: the member's name.
        address: its address.
        text: its TXT record.
    """

    def __init__(self, service: dns.name.Name, node: str, address: Address, text: str) -> None:
        self.service = service
        self.name = dns.name.Name((_label(node),)).concatenate(service)
        # A name of our own: another responder may already own the machine's name.
        digest = hashlib.sha256(str(self.name).encode()).hexdigest()[:16]
        self.host = dns.name.Name((f"serf-{digest}".encode(), *_LOCAL))
        version = ipaddress.ip_address(address.host).version
        self._pointer = (service, _rdata(PTR, str(self.name)))
        self._srv = (self.name, _rdata(SRV, f"10 1 {address.port} {self.host}"))
        self._txt = (self.name, _rdata(TXT, _quote(text)))
        self._address = (self.host, _rdata(A if version == 4 else AAAA, address.host))

    def answer(self, data: bytes, port: int) -> Answer | None:
        """Answer a message from a port; return None if it asks for none of our records.

        Raises:
            MdnsError: the message is not valid.
        """
        message = _Message(data)
        if message.is_answer or message.has_known_answer(self.service, self.name):
            return None
        answers: list[tuple[dns.name.Name, dns.rdata.Rdata]] = []
        additional: list[tuple[dns.name.Name, dns.rdata.Rdata]] = []
        unicast = True
        questions = []
        for name, kind, rdclass in message.questions:
            if rdclass & ~_TOP_BIT not in (IN, dns.rdataclass.ANY):
                continue
            found, extra = self._records(name, kind)
            if found:
                answers += [record for record in found if record not in answers]
                additional += [record for record in extra if record not in additional]
                if (name, kind) not in questions:  # with repetitions the answer could be too long
                    questions.append((name, kind))
                unicast &= bool(rdclass & _TOP_BIT)
        if not answers:
            return None
        one_shot = port != PORT
        ttl = _SHORT_TTL if one_shot else _TTL
        data = _encode(
            message.number if one_shot else 0,
            dns.flags.QR | dns.flags.AA,
            questions if one_shot else (),
            [(name, ttl, rdata) for name, rdata in answers],
            [(name, ttl, rdata) for name, rdata in additional if (name, rdata) not in answers],
        )
        return Answer(data, to_group=not (one_shot or unicast))

    def _records(self, name: dns.name.Name, kind: int) -> tuple[list[Any], list[Any]]:
        """Return the records that answer a question, and additional ones."""
        if name == self.service and kind in (PTR, ANY):
            return [self._pointer], [self._srv, self._txt, self._address]
        if name == _CATALOGUE and kind in (PTR, ANY):
            return [(_CATALOGUE, _rdata(PTR, str(self.service)))], []
        if name == self.name:
            records = (self._srv, self._txt)
            return [r for r in records if kind in (r[1].rdtype, ANY)], [self._address]
        if name == self.host and kind in (self._address[1].rdtype, ANY):
            return [self._address], []
        return [], []


def parse_answer(service: dns.name.Name, data: bytes) -> list[Address]:
    """Return the addresses of all instances of a service in an answer.

    Raises:
        MdnsError: the message is not a valid answer.
    """
    message = _Message(data)
    if not message.is_answer:
        raise MdnsError("a question, expected an answer")
    instances = {rdata.target for name, rdata in message.of_kind(PTR) if name == service}
    hosts: dict[dns.name.Name, str] = {}
    for kind in (AAAA, A):
        for name, rdata in message.of_kind(kind):
            hosts[name] = rdata.address
    return [
        Address(hosts[rdata.target], rdata.port)
        for name, rdata in message.of_kind(SRV)
        if name in instances and rdata.target in hosts and rdata.port
    ]


class _Message:
    """A parsed message: its questions, and its records of known types."""

    def __init__(self, data: bytes) -> None:
        self.questions: list[tuple[dns.name.Name, int, int]] = []
        self._records: list[tuple[dns.name.Name, Any]] = []
        parser = dns.wire.Parser(data)
        try:
            self.number, flags, questions, *records = parser.get_struct("!HHHHHH")
            self.is_answer = bool(flags & dns.flags.QR)
            if flags & _REJECTED_FLAGS:
                raise MdnsError(f"a message with flags {flags:#06x}")
            labels = 0
            for _ in range(questions):
                name = dns.name.from_wire_parser(parser)
                self.questions.append((name, *parser.get_struct("!HH")))
                labels += len(name.labels)
                _check_labels(labels)
            for _ in range(sum(records)):
                name, record = _record(parser)
                labels += len(name.labels)
                target = getattr(record, "target", None)
                labels += len(target.labels) if target is not None else 0
                _check_labels(labels)
                if record is not None:
                    self._records.append((name, record))
        except (dns.exception.DNSException, ValueError) as error:
            raise MdnsError(f"not a DNS message: {error}") from None

    def of_kind(self, kind: int) -> Iterator[tuple[dns.name.Name, Any]]:
        return (record for record in self._records if record[1].rdtype == kind)

    def has_known_answer(self, service: dns.name.Name, instance: dns.name.Name) -> bool:
        """Return whether the requester already has the answer (RFC 6762, section 7.1)."""
        return any(
            name == service and rdata.target == instance for name, rdata in self.of_kind(PTR)
        )


def _check_labels(count: int) -> None:
    if count > _MAX_LABELS:
        raise MdnsError(f"names of more than {_MAX_LABELS} labels")


def _record(parser: dns.wire.Parser) -> tuple[dns.name.Name, Any]:
    """Read a record; its data is None if the kind is not known."""
    name = dns.name.from_wire_parser(parser)
    kind, rdclass, _, size = parser.get_struct("!HHIH")
    with parser.restrict_to(size):
        if kind in _RECORDS and rdclass & ~_TOP_BIT == IN:
            return name, dns.rdata.from_wire_parser(IN, kind, parser)
        parser.get_remaining()
    return name, None


def _encode(
    number: int,
    flags: int,
    questions: Iterable[tuple[dns.name.Name, int]],
    answers: Iterable[tuple[dns.name.Name, int, dns.rdata.Rdata]] = (),
    additional: Iterable[tuple[dns.name.Name, int, dns.rdata.Rdata]] = (),
) -> bytes:
    """Encode a message: its questions, then records with their time to live by section."""
    renderer: Any = dns.renderer.Renderer  # not typed in dnspython
    renderer = renderer(number, int(flags), MAX_MESSAGE)
    for name, kind in questions:
        renderer.add_question(name, kind, IN)
    for section, records in (
        (dns.renderer.ANSWER, answers),
        (dns.renderer.ADDITIONAL, additional),
    ):
        for name, ttl, rdata in records:
            renderer.add_rrset(section, dns.rrset.from_rdata(name, ttl, rdata))
    renderer.write_header()
    return bytes(renderer.get_wire())


def _rdata(kind: dns.rdatatype.RdataType, text: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(IN, kind, text)


def _quote(text: str) -> str:
    """Quote a text as in zone files, cut to the 255 bytes of one string."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()[:255]) + '"'


def _label(node: str) -> bytes:
    """Return a node's name as one label; a long one is cut and gets a digest."""
    label = node.encode("utf-8", "surrogateescape")
    if len(label) <= _MAX_LABEL:
        return label
    digest = hashlib.sha256(label).hexdigest()[:16]
    return label[: _MAX_LABEL - 17] + b"-" + digest.encode()
