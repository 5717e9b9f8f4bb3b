"""SRV records (RFC 2782) through dnspython, which only this module imports.

There is no cache. Addresses of hosts are used if the response has them in its additional section.
"""

from collections.abc import Sequence
from typing import Any, Final

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

from trioserf.address import Address
from trioserf.errors import AddressError
from trioserf.net.services import Service

MAX_SERVICES: Final = 256
"""Records of one response that are used; a cluster needs a few seeds, not all its members."""
_LIFETIME: Final = 9.0
"""Seconds for all servers and retries, a little less than the caller's timeout."""
_TIMEOUT: Final = 2.0
"""Seconds for one request to one server."""


async def find_services(name: str, servers: Sequence[Address] = ()) -> list[Service]:
    """Look up the SRV records of a name.

    Args:
        name: `_service._proto.domain`.
        servers: name servers; the system's if empty.

    Raises:
        AddressError: the name does not exist, has no records, or has a record that says the
            service is not available; or no server answered.
    """
    resolver = _resolver(name, servers)
    response = await _look_up(resolver, name, "SRV", f"service {name!r}")
    services = [
        Service(str(one.target).rstrip("."), one.port, one.priority, one.weight)
        for one in list(response)[:MAX_SERVICES]
        if one.port
    ]
    if not any(service.host for service in services):
        raise AddressError(f"service {name!r}: its record says that it is not available")
    known = _additional(response)
    found = []
    for service in filter(lambda service: service.host, services):
        addresses = known.get(service.host.lower(), ())
        if not addresses and servers:
            addresses = await _addresses(resolver, service.host)
        found.append(service._replace(addresses=tuple(addresses)))
    return found


def _resolver(name: str, servers: Sequence[Address]) -> dns.asyncresolver.Resolver:
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


async def _look_up(resolver: dns.asyncresolver.Resolver, name: str, kind: str, what: str) -> Any:
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
        raise AddressError(
            f"{what}: no name server could answer ({_server_errors(error)})"
        ) from None
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise AddressError(f"{what}: {error or type(error).__name__}") from error


def _server_errors(error: dns.resolver.NoNameservers) -> str:
    errors = error.kwargs.get("errors") or []
    return ", ".join(dict.fromkeys(f"{one[0]}: {one[3]}" for one in errors))


async def _addresses(resolver: dns.asyncresolver.Resolver, host: str) -> list[str]:
    """Return the addresses of a host, which may be none."""
    found: list[str] = []
    for kind in ("A", "AAAA"):
        try:
            found += [
                one.address for one in await _look_up(resolver, host, kind, f"host {host!r}")
            ]
        except AddressError:
            continue
    return found


def _additional(response: Any) -> dict[str, list[str]]:
    """Return the addresses in the additional section, by name in lower case."""
    known: dict[str, list[str]] = {}
    for rrset in response.response.additional:
        if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            name = str(rrset.name).rstrip(".").lower()
            known.setdefault(name, []).extend(one.address for one in rrset)
    return known
