"""The configuration of a node; every default is here or in the options that it contains."""

import ipaddress
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from trioserf import arguments as check
from trioserf.address import Address, parse_host_port
from trioserf.errors import ConfigError
from trioserf.operating_system.host import host_name
from trioserf.serf.config import SerfOptions
from trioserf.serf.keyring import Keyring
from trioserf.settings import checked_types, setting
from trioserf.swim.config import LAN, SwimOptions, Timing, any_address, any_name, valid_node_name
from trioserf.value_objects import ValueObject
from trioserf.wire.label import MAX_LABEL

DEFAULT_PORT: Final = 7946
MAX_NAME: Final = 128
"""Bytes of the longest node name that every member accepts."""
PROTOCOLS: Final = (2, 5)
"""The lowest and the highest version of Serf's protocol that a node can use."""
_EXAMPLE: Final = "10.0.0.1:7946"
ANY_ADDRESS: Final = Address("0.0.0.0", DEFAULT_PORT)  # noqa: S104 - what Serf does


def _read_only(tags: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(check.text_mapping("tags", tags))


def _parse_address(key: str, value: object, default: Address) -> Address:
    """Return the address of a text, in which the host or the port may be missing."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise check.wrong_type(key, f"an address such as '{_EXAMPLE}'", value)
    try:
        host, port = parse_host_port(value)
    except ValueError as error:
        raise ConfigError(f"{key}: {value!r} is not an address: {error}") from None
    return Address(host or default.host, default.port if port is None else port)


def _bind_address(value: Address | str) -> Address:
    return _parse_address("bind", value, ANY_ADDRESS)


def _advertised_address(value: Address | str | None) -> Address | None:
    return None if value is None else _parse_address("advertise", value, Address("", 0))


def _check_name(_: object, __: object, name: str) -> None:
    size = len(name.encode("utf-8", "surrogateescape"))
    if not 1 <= size <= MAX_NAME:
        raise ConfigError(f"node_name: {name[:40]!r} has {size} bytes, expected 1 to {MAX_NAME}")


def _check_protocol(_: object, __: object, protocol: int) -> None:
    least, most = PROTOCOLS
    if not least <= protocol <= most:
        raise ConfigError(f"protocol: {protocol} is not supported, expected {least} to {most}")


def _check_label(_: object, __: object, label: str) -> None:
    size = len(label.encode("utf-8", "surrogateescape"))
    if size > MAX_LABEL:
        raise ConfigError(f"label: {size} bytes, expected at most {MAX_LABEL}")


def _check_networks(_: object, __: object, texts: tuple[str, ...]) -> None:
    errors = []
    for text in check.texts("allowed_networks", texts):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            errors.append(
                f"allowed_networks: {text!r} is not a valid network such as 10.0.0.0/8: {error}"
            )
    if errors:
        raise ConfigError("\n".join(errors))


@attrs.frozen(eq=False, repr=False, kw_only=True, field_transformer=checked_types)
class NodeConfig(ValueObject):
    """One member of a cluster. Durations are seconds, sizes bytes.

    Attributes:
        bind: where to listen on UDP and TCP: an `Address`, or a text such as `10.0.0.1:7946`,
            `10.0.0.1`, `:7947` or `[fd00::1]:7946`. Port 0 takes a free port.
        advertise: the address for other members, if not the bound one. Port 0, or a text without
            a port, means the bound port.
        tags: published to all members; encoded at most 512 bytes.
        timing: timings of membership; `trioserf.swim.config.PROFILES` has three sets.
        swim: switches of the member table. Those that follow from other fields are overridden.
        serf: limits and timeouts of Serf's layer.
        keyring: keys that encrypt all gossip; None for plaintext.
        owns_process: the process serves this node alone. After large exchanges the node then
            collects garbage and returns freed memory to the system; both take time that grows
            with the whole process.

    Raises:
        ConfigError: an unusable name, address or network.
        TypeError: a value of a wrong type.
        ValueError: a number outside its range.
    """

    name: str = setting(
        attrs.Factory(host_name),
        f"name in the cluster, 1 to {MAX_NAME} bytes",
        key="node_name",
        shown="the host's name",
        serf=True,
        check=_check_name,
    )
    protocol: int = setting(
        PROTOCOLS[1],
        f"version of Serf's protocol, {PROTOCOLS[0]} to {PROTOCOLS[1]}",
        serf=True,
        check=_check_protocol,
    )
    reconnect_interval: float = setting(
        30.0, "time between attempts to reach a failed member", serf=True, above=0
    )
    compression: bool = setting(
        True,
        "compress streams; other members can always read them",
        key="enable_compression",
        serf=True,
    )
    disable_coordinates: bool = setting(False, "keep no network coordinate", serf=True)
    validate_node_names: bool = setting(
        False, "accept only names of letters, digits, dashes and dots", serf=True
    )

    label: str = setting(
        "",
        "separates clusters: packets and streams with another label are dropped. Up to"
        f" {MAX_LABEL} bytes",
        check=_check_label,
    )
    allowed_networks: tuple[str, ...] = setting(
        (),
        "networks (CIDR) of peers that may send packets, open streams and be members",
        shown="all",
        check=_check_networks,
    )
    verify_incoming: bool = setting(True, "with keys: reject plaintext", reloads=True)
    verify_outgoing: bool = setting(True, "with keys: send no plaintext", reloads=True)
    tcp_pings: bool = setting(True, "ping by TCP if packets do not get through")
    packet_size: int = setting(
        1400, "bytes of the largest packet, 512 to 65,507", least=512, most=65_507
    )
    max_streams: int = setting(
        128,
        "incoming streams at once; beyond that the longest-silent one is closed, or the newest"
        " refused",
        least=1,
    )
    stream_memory: int = setting(
        128 * 1024 * 1024,
        "bytes that all streams may hold, 1 MiB or more; beyond that the largest one is closed",
        least=1024 * 1024,
    )
    inbox_depth: int = setting(
        1024, "batches of packets and requests that wait for the node, 16 or more", least=16
    )
    gossip_pause: float = setting(0.015, "least time between two rounds of gossip", above=0)
    reap_interval: float = setting(
        15.0, "time between checks for members that failed or left too long ago", above=0
    )
    queue_check_interval: float = setting(
        30.0, "time between checks of the lengths of the queues", above=0
    )
    seed_interval: float = setting(
        5.0,
        "time until lost seeds are joined again, at first; doubles after each failure",
        above=0,
    )
    seed_interval_max: float = setting(60.0, "longest such time", above=0)

    bind: Address = attrs.field(default=ANY_ADDRESS, converter=_bind_address)
    advertise: Address | None = attrs.field(default=None, converter=_advertised_address)
    tags: Mapping[str, str] = attrs.field(factory=dict, converter=_read_only)
    timing: Timing = LAN
    swim: SwimOptions = attrs.field(factory=SwimOptions)
    serf: SerfOptions = attrs.field(factory=SerfOptions)
    keyring: Keyring | None = None
    owns_process: bool = False

    def __attrs_post_init__(self) -> None:
        if self.validate_node_names and not valid_node_name(self.name):
            raise ConfigError(
                f"node_name: {self.name!r} is not valid, expected letters, digits, dashes and dots"
            )
        _check_address("bind", self.bind, least_port=0)
        if self.advertise is not None:
            _check_address("advertise", self.advertise, least_port=0)

    @property
    def admits(self) -> Callable[[bytes], bool] | None:
        """A function that checks an address (4 or 16 bytes); None if all are allowed."""
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


def swim_options(config: NodeConfig, largest_broadcast: int) -> SwimOptions:
    """Return the switches of the member table, completed from the other fields.

    Args:
        config: the node's configuration.
        largest_broadcast: bytes of the longest broadcast that fits into a packet.
    """
    return attrs.evolve(
        config.swim,
        allowed=config.admits or any_address,
        validate_name=valid_node_name if config.validate_node_names else any_name,
        largest_broadcast=largest_broadcast,
    )


def _check_address(key: str, address: Address, *, least_port: int) -> None:
    try:
        ipaddress.ip_address(address.host.partition("%")[0])
    except ValueError as error:
        raise ConfigError(f"{key}: {address.host!r} is not a valid IP address") from error
    if not least_port <= address.port <= 65_535:
        raise ConfigError(
            f"{key}: {address.port} is not a valid port, expected {least_port} to 65535"
        )
