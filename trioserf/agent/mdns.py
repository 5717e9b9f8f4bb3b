"""Messages of multicast DNS as Serf's agents exchange them (spec: mDNS; RFC 6762, 6763).

A cluster is a service: a question for `_serf_CLUSTER._tcp.local` is answered with the name of an
instance, and along with it where that one is and a text. Serf's agents ask from a port of their
own, which makes theirs one-shot questions (RFC 6762, section 6.7), and answer whoever asked.

Each answer is read by itself: machines that share a host name would otherwise be given each
other's addresses.
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

LARGEST: Final = 9000
"""Bytes of a message (RFC 6762, section 17)."""
_LABEL: Final = 63
_TTL: Final = 120
_SHORT_TTL: Final = 10
"""What a one-shot question is told (RFC 6762, section 6.7)."""
_TOP_BIT: Final = 0x8000
"""Of a class: this answer may be sent to me alone, or (in records) it replaces all others."""
_RECORDS: Final = frozenset((PTR, SRV, A, AAAA))
_FAULTS: Final = 0x0200 | 0x780F
"""Of the flags: truncated; an operation other than a query, or an error."""
_LOCAL: Final = (b"local", b"")
_CATALOGUE: Final = dns.name.Name((b"_services", b"_dns-sd", b"_udp", *_LOCAL))


class MdnsError(ValueError):
    """Bytes that are no message of multicast DNS, or none that concerns us."""


@attrs.frozen(slots=True)
class Answer:
    """What to say to a question; `everyone` tells whether to the group or to the asker alone."""

    data: bytes
    everyone: bool


def service_name(cluster: str) -> dns.name.Name:
    """Give the name of a cluster's service.

    Raises:
        ConfigError: no name of DNS can be made of it.
    """
    try:
        labels = [one.encode() for one in f"_serf_{cluster}".split(".")]
        return dns.name.Name((*labels, b"_tcp", *_LOCAL))
    except (dns.exception.DNSException, UnicodeEncodeError):
        raise ConfigError(
            f"discover: {cluster!r} makes no name of DNS; expected 1 to 57 bytes, and from 1 to"
            f" {_LABEL} between dots"
        ) from None


def question(service: dns.name.Name) -> bytes:
    """Ask for all instances of a service."""
    return _rendered(0, 0, [(service, PTR)])


class Instance:
    """One member as an instance of its cluster's service.

    Args:
        service: the service.
        node: the member's name.
        address: where it is.
        text: what there is to say about it.
    """

    def __init__(self, service: dns.name.Name, node: str, address: Address, text: str) -> None:
        self.service = service
        self.name = dns.name.Name((_label(node),)).concatenate(service)
        # A name that no machine has, lest whoever owns the machine's name takes us for a rival.
        digest = hashlib.sha256(str(self.name).encode()).hexdigest()[:16]
        self.host = dns.name.Name((f"serf-{digest}".encode(), *_LOCAL))
        version = ipaddress.ip_address(address.host).version
        self._pointer = (service, _rdata(PTR, str(self.name)))
        self._srv = (self.name, _rdata(SRV, f"10 1 {address.port} {self.host}"))
        self._txt = (self.name, _rdata(TXT, _quoted(text)))
        self._address = (self.host, _rdata(A if version == 4 else AAAA, address.host))

    def answer(self, data: bytes, port: int) -> Answer | None:
        """Answer a message that came from this port; None if it asks for nothing of ours.

        Raises:
            MdnsError: it is no message.
        """
        message = _Message(data)
        if message.is_answer or message.told(self.service, self.name):
            return None
        answers: list[tuple[dns.name.Name, dns.rdata.Rdata]] = []
        more: list[tuple[dns.name.Name, dns.rdata.Rdata]] = []
        alone = True
        asked = []
        for name, kind, rdclass in message.questions:
            if rdclass & ~_TOP_BIT not in (IN, dns.rdataclass.ANY):
                continue
            found, extra = self._records(name, kind)
            if found:
                answers += [one for one in found if one not in answers]
                more += [one for one in extra if one not in more]
                if (name, kind) not in asked:  # repeated they would not fit into the answer
                    asked.append((name, kind))
                alone &= bool(rdclass & _TOP_BIT)
        if not answers:
            return None
        one_shot = port != PORT
        ttl = _SHORT_TTL if one_shot else _TTL
        data = _rendered(
            message.number if one_shot else 0,
            dns.flags.QR | dns.flags.AA,
            asked if one_shot else (),
            [(name, ttl, rdata) for name, rdata in answers],
            [(name, ttl, rdata) for name, rdata in more if (name, rdata) not in answers],
        )
        return Answer(data, everyone=not (one_shot or alone))

    def _records(self, name: dns.name.Name, kind: int) -> tuple[list[Any], list[Any]]:
        """Give the records that answer a question, and those that go along with them."""
        if name == self.service and kind in (PTR, ANY):
            return [self._pointer], [self._srv, self._txt, self._address]
        if name == _CATALOGUE and kind in (PTR, ANY):
            return [(_CATALOGUE, _rdata(PTR, str(self.service)))], []
        if name == self.name:
            records = [one for one in (self._srv, self._txt) if kind in (one[1].rdtype, ANY)]
            return records, [self._address]
        if name == self.host and kind in (self._address[1].rdtype, ANY):
            return [self._address], []
        return [], []


def found(service: dns.name.Name, data: bytes) -> list[Address]:
    """Give the addresses of all instances of a service that an answer tells of.

    Raises:
        MdnsError: it is no answer.
    """
    message = _Message(data)
    if not message.is_answer:
        raise MdnsError("a question where an answer was expected")
    instances = {
        rdata.target for name, rdata in message.of_kind(PTR) if name == service
    }  # a set, as only membership is asked
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
    """A message, taken apart: its questions, and those of its records that we know."""

    def __init__(self, data: bytes) -> None:
        self.questions: list[tuple[dns.name.Name, int, int]] = []
        self._records: list[tuple[dns.name.Name, Any]] = []
        parser = dns.wire.Parser(data)
        try:
            self.number, flags, questions, *records = parser.get_struct("!HHHHHH")
            self.is_answer = bool(flags & dns.flags.QR)
            if flags & _FAULTS:
                raise MdnsError(f"a message with the flags {flags:#06x}")
            for _ in range(questions):
                self.questions.append(
                    (dns.name.from_wire_parser(parser), *parser.get_struct("!HH"))
                )
            for _ in range(sum(records)):
                self._records += _record(parser)
        except (dns.exception.DNSException, ValueError) as error:
            raise MdnsError(f"not a message of DNS: {error}") from None

    def of_kind(self, kind: int) -> Iterator[tuple[dns.name.Name, Any]]:
        return (record for record in self._records if record[1].rdtype == kind)

    def told(self, service: dns.name.Name, instance: dns.name.Name) -> bool:
        """Tell whether whoever asks knows the answer (RFC 6762, section 7.1)."""
        return any(
            name == service and rdata.target == instance for name, rdata in self.of_kind(PTR)
        )


def _record(parser: dns.wire.Parser) -> Iterator[tuple[dns.name.Name, dns.rdata.Rdata]]:
    name = dns.name.from_wire_parser(parser)
    kind, rdclass, _, size = parser.get_struct("!HHIH")
    with parser.restrict_to(size):
        if kind in _RECORDS and rdclass & ~_TOP_BIT == IN:
            yield name, dns.rdata.from_wire_parser(IN, kind, parser)
        else:
            parser.get_remaining()


def _rendered(
    number: int,
    flags: int,
    questions: Iterable[tuple[dns.name.Name, int]],
    answers: Iterable[tuple[dns.name.Name, int, dns.rdata.Rdata]] = (),
    more: Iterable[tuple[dns.name.Name, int, dns.rdata.Rdata]] = (),
) -> bytes:
    """Make a message: its questions, then records with their time to live by section."""
    renderer: Any = dns.renderer.Renderer  # the library leaves it without types
    renderer = renderer(number, int(flags), LARGEST)
    for name, kind in questions:
        renderer.add_question(name, kind, IN)
    for section, records in ((dns.renderer.ANSWER, answers), (dns.renderer.ADDITIONAL, more)):
        for name, ttl, rdata in records:
            renderer.add_rrset(section, dns.rrset.from_rdata(name, ttl, rdata))
    renderer.write_header()
    return bytes(renderer.get_wire())


def _rdata(kind: dns.rdatatype.RdataType, text: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(IN, kind, text)


def _quoted(text: str) -> str:
    """Spell a text as DNS files do, cut to what fits into one string of a record."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()[:255]) + '"'


def _label(node: str) -> bytes:
    """Make one label of a node's name; of a long one, its beginning and a digest of it."""
    label = node.encode("utf-8", "surrogateescape")
    if len(label) <= _LABEL:
        return label
    digest = hashlib.sha256(label).hexdigest()[:16]
    return label[: _LABEL - 17] + b"-" + digest.encode()
