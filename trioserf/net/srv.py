"""SRV records (RFC 2782), by way of dnspython, which is imported with this module only.

Nothing is kept: each question is asked anew. The addresses of the hosts that a record names are
taken along where the answer holds them, as name servers that know their services add them.
"""

from collections.abc import Sequence
from typing import Any, Final

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

from trioserf.errors import AddressError
from trioserf.net.resolver import Server, Service

MOST_SERVICES: Final = 256
"""Records of one answer that are heeded; a cluster needs a few seeds, not all of its members."""
_LIFETIME: Final = 9.0
"""Seconds for all servers and retries; the caller's patience ends a little later."""
_TIMEOUT: Final = 2.0
"""Seconds for one question to one server."""


async def find_services(name: str, servers: Sequence[Server] = ()) -> list[Service]:
    """Ask for the SRV records of a name.

    Args:
        name: `_service._proto.domain`.
        servers: who is asked; the system's if there are none.

    Raises:
        AddressError: no such name, no records, no answer, or the word that there is no service.
    """
    resolver = _resolver(name, servers)
    answer = await _ask(resolver, name, "SRV", f"service {name!r}")
    services = [
        Service(str(one.target).rstrip("."), one.port, one.priority, one.weight)
        for one in list(answer)[:MOST_SERVICES]
        if one.port
    ]
    if not any(service.host for service in services):
        raise AddressError(f"service {name!r}: its record says that it is not available")
    known = _additional(answer)
    found = []
    for service in filter(lambda service: service.host, services):
        addresses = known.get(service.host.lower(), ())
        if not addresses and servers:
            addresses = await _addresses(resolver, service.host)
        found.append(service._replace(addresses=tuple(addresses)))
    return found


def _resolver(name: str, servers: Sequence[Server]) -> dns.asyncresolver.Resolver:
    try:
        resolver = dns.asyncresolver.Resolver(configure=not servers)
    except dns.resolver.NoResolverConfiguration as error:
        raise AddressError(
            f"service {name!r}: no name server is known; name one in dns_servers"
        ) from error
    if servers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
    resolver.timeout = _TIMEOUT
    resolver.lifetime = _LIFETIME
    return resolver


async def _ask(resolver: dns.asyncresolver.Resolver, name: str, kind: str, what: str) -> Any:
    backend = dns.asyncbackend.get_backend("trio")
    try:
        return await resolver.resolve(name, kind, search=False, backend=backend)
    except dns.resolver.NXDOMAIN:
        raise AddressError(f"{what}: there is no such name") from None
    except dns.resolver.NoAnswer:
        raise AddressError(f"{what}: the name has no {kind} record") from None
    except dns.resolver.LifetimeTimeout:
        raise AddressError(f"{what}: no answer from DNS in time") from None
    except dns.resolver.NoNameservers as error:
        raise AddressError(f"{what}: no name server could answer ({_faults(error)})") from None
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise AddressError(f"{what}: {error or type(error).__name__}") from error


def _faults(error: dns.resolver.NoNameservers) -> str:
    faults = error.kwargs.get("errors") or []
    return ", ".join(dict.fromkeys(f"{fault[0]}: {fault[3]}" for fault in faults))


async def _addresses(resolver: dns.asyncresolver.Resolver, host: str) -> list[str]:
    """Give the addresses of a host; none if the servers know none."""
    found: list[str] = []
    for kind in ("A", "AAAA"):
        try:
            found += [one.address for one in await _ask(resolver, host, kind, f"host {host!r}")]
        except AddressError:
            continue
    return found


def _additional(answer: Any) -> dict[str, list[str]]:
    """Give the addresses that came along, by name in lower case."""
    known: dict[str, list[str]] = {}
    for rrset in answer.response.additional:
        if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            name = str(rrset.name).rstrip(".").lower()
            known.setdefault(name, []).extend(one.address for one in rrset)
    return known
