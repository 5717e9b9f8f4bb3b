"""What a node can be told, in one place; every default stands here or in the options it holds."""

import ipaddress
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs
from attrs import validators as v

from trioserf.address import Address
from trioserf.errors import ConfigError
from trioserf.serf.config import SerfOptions
from trioserf.serf.keyring import Keyring
from trioserf.swim.config import (
    LAN,
    MAX_MEMBERS,
    SwimOptions,
    Timing,
    any_address,
    any_name,
    valid_node_name,
)

DEFAULT_PORT: Final = 7946
MAX_NAME: Final = 128
"""Bytes of a node's name that every member accepts."""
PROTOCOLS: Final = (2, 5)
"""Versions of Serf's delegate protocol that may be spoken, the least and the most."""
ANY_ADDRESS: Final = Address("0.0.0.0", DEFAULT_PORT)  # noqa: S104 - what Serf does


def _seconds(default: float, *, least: float = 0.0) -> float:
    value: float = attrs.field(default=default, validator=v.gt(least))
    return value


def _read_only(tags: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(tags))


def _networks(texts: object) -> tuple[str, ...]:
    if not isinstance(texts, list | tuple):
        raise ConfigError(f"allowed_networks: expected a list of networks, not {texts!r}")
    for text in texts:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ConfigError(
                f"allowed_networks: {text!r} is no network such as 10.0.0.0/8: {error}"
            ) from error
    return tuple(texts)


@attrs.frozen(slots=True, kw_only=True)
class NodeConfig:
    """One member of a cluster. Durations are seconds, sizes bytes.

    Attributes:
        name: unique in the cluster, 1 to 128 bytes; the host's name unless given.
        bind: where to listen, UDP and TCP; port 0 takes a free one.
        advertise: the address given to others, if not the one bound to. Port 0 means the bound
            one.
        tags: what others shall know of this member, encoded at most 512 bytes.
        timing: the timings of membership; `trioserf.swim.config.PROFILES` has three sets.
        serf: limits and timeouts of the Serf layer. What follows from `timing` and
            `packet_size` is taken from there.
        protocol: the version of Serf's protocol to speak, 2 to 5.
        keyring: keys that encrypt all gossip; None for plaintext.
        verify_incoming: refuse plaintext when there are keys (see also `Node.protect`).
        verify_outgoing: encrypt when there are keys.
        label: keeps clusters apart; others with another label are not heard. Up to 255 bytes.
        allowed_networks: networks (CIDR) that packets, streams and members may come from; empty
            for all.
        compression: compress streams, which others can always read.
        packet_size: what a packet may measure, 512 to 65,507 bytes.
        coordinates: keep a network coordinate and give it away in acks.
        validate_node_names: accept only names of letters, digits, dashes and dots.
        dead_node_reclaim_time: how long a member must have been dead before another address may
            take its name; 0 for never.
        reconnect_interval: time between attempts to reach a failed member.
        reap_interval: time between looks for members that are gone for too long.
        queue_check_interval: time between looks at the lengths of the queues.
        seed_interval: how long to wait before seeds are tried again, at first; the wait doubles
            up to `seed_interval_max`.
        seed_interval_max: see there.
        gossip_pause: the least time between two rounds of gossip, however much there is to say.
        inbox_depth: facts waiting for the state's owner, 16 or more.
        max_streams: streams of others that are served at once. When there are more, the one that
            has been silent the longest is closed, or the newest refused.
        stream_memory: what all streams together may hold. When it is more, the one that holds
            the most is closed.
        max_members: members that are known at once; those beyond are not let in.
        tcp_pings: try a stream where packets do not get through.
        owns_process: the process is there for this node alone. After large exchanges it may then
            collect garbage, everybody's, and give freed memory back to the system; both take as
            long as the process is large.
        lha_probe: Lifeguard's health score (on in every real cluster).
        lha_suspicion: Lifeguard's shrinking suspicion time (on in every real cluster).
        buddy: Lifeguard's early word to suspects, and to the gone that ping (on in every real
            cluster).

    Raises:
        ConfigError: an unusable name, address or network.
        ValueError: a number outside its range.
    """

    name: str = attrs.field(factory=socket.gethostname)
    bind: Address = ANY_ADDRESS
    advertise: Address | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict, converter=_read_only)
    timing: Timing = LAN
    serf: SerfOptions = attrs.field(factory=SerfOptions)
    protocol: int = attrs.field(default=PROTOCOLS[1])
    keyring: Keyring | None = None
    verify_incoming: bool = True
    verify_outgoing: bool = True
    label: str = ""
    allowed_networks: tuple[str, ...] = attrs.field(default=(), converter=_networks)
    compression: bool = True
    packet_size: int = attrs.field(default=1400, validator=v.and_(v.ge(512), v.le(65_507)))
    coordinates: bool = True
    validate_node_names: bool = False
    dead_node_reclaim_time: float = attrs.field(default=0.0, validator=v.ge(0))
    reconnect_interval: float = _seconds(30.0)
    reap_interval: float = _seconds(15.0)
    queue_check_interval: float = _seconds(30.0)
    seed_interval: float = _seconds(5.0)
    seed_interval_max: float = _seconds(60.0)
    gossip_pause: float = _seconds(0.015)
    inbox_depth: int = attrs.field(default=1024, validator=v.ge(16))
    max_streams: int = attrs.field(default=128, validator=v.ge(1))
    stream_memory: int = attrs.field(default=128 * 1024 * 1024, validator=v.ge(1024 * 1024))
    max_members: int = attrs.field(default=MAX_MEMBERS, validator=v.and_(v.ge(1), v.le(1_048_576)))
    tcp_pings: bool = True
    owns_process: bool = False
    lha_probe: bool = True
    lha_suspicion: bool = True
    buddy: bool = True

    def __attrs_post_init__(self) -> None:
        size = len(self.name.encode("utf-8", "surrogateescape"))
        if not 1 <= size <= MAX_NAME:
            raise ConfigError(
                f"node_name: {self.name[:40]!r} has {size} bytes, expected 1 to {MAX_NAME}"
            )
        if self.validate_node_names and not valid_node_name(self.name):
            raise ConfigError(
                f"node_name: {self.name!r} is not valid, expected letters, digits, dashes and dots"
            )
        if not PROTOCOLS[0] <= self.protocol <= PROTOCOLS[1]:
            raise ConfigError(
                f"protocol: {self.protocol} is not spoken here, expected"
                f" {PROTOCOLS[0]} to {PROTOCOLS[1]}"
            )
        label = len(self.label.encode("utf-8", "surrogateescape"))
        if label > 255:
            raise ConfigError(f"label: {label} bytes, expected at most 255")
        _check_address("bind", self.bind, least_port=0)
        if self.advertise is not None:
            _check_address("advertise", self.advertise, least_port=0)

    @property
    def admits(self) -> Callable[[bytes], bool] | None:
        """Tell of an address (4 or 16 raw bytes) whether it may take part; None if all may."""
        if not self.allowed_networks:
            return None
        networks = tuple(ipaddress.ip_network(text) for text in self.allowed_networks)

        def admits(addr: bytes) -> bool:
            try:
                ip: Any = ipaddress.ip_address(addr)
            except ValueError:
                return False
            return any(ip in network for network in networks)

        return admits


def swim_options(config: NodeConfig, room: int) -> SwimOptions:
    """Give membership its part of a configuration.

    Args:
        config: the whole.
        room: bytes of the longest broadcast that fits into a packet.
    """
    return SwimOptions(
        lha_probe=config.lha_probe,
        lha_suspicion=config.lha_suspicion,
        buddy=config.buddy,
        dead_node_reclaim_time=config.dead_node_reclaim_time,
        allowed=config.admits or any_address,
        validate_name=valid_node_name if config.validate_node_names else any_name,
        largest_broadcast=room,
        max_members=config.max_members,
    )


def serf_options(config: NodeConfig, room: int) -> SerfOptions:
    """Give Serf's layer its part of a configuration (as `swim_options`)."""
    return attrs.evolve(
        config.serf,
        packet_size=room,
        gossip_interval=config.timing.gossip_interval,
        retransmit_mult=config.timing.retransmit_mult,
        max_members=config.max_members,
    )


def _check_address(key: str, address: Address, *, least_port: int) -> None:
    try:
        ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError as error:
        raise ConfigError(f"{key}: {address.host!r} is no IP address") from error
    if not least_port <= address.port <= 65_535:
        raise ConfigError(f"{key}: {address.port} is no port, expected {least_port} to 65535")
