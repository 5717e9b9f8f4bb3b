"""Complete the node's configuration with addresses, tags and keys of encryption."""

import ipaddress
import socket
from pathlib import Path

import attrs

from trioserf.address import Address, parse_host_port
from trioserf.agent import keyring_file, tags_file
from trioserf.agent.config import SETUP_FAILED, AgentConfig
from trioserf.errors import AddressError, ConfigError
from trioserf.net.own_address import interface_addresses
from trioserf.node.config import ANY_ADDRESS, NodeConfig
from trioserf.serf.keyring import Keyring, KeyringError, parse_key


def node_config(config: AgentConfig) -> NodeConfig:
    """Complete the node's configuration; read the tags file and the keyring file.

    Names of hosts are looked up, which blocks.

    Raises:
        ConfigError: an address is not valid, or a file cannot be used.
        AddressError: an address cannot be found.
    """
    return attrs.evolve(
        config.node,
        bind=bind_address(config),
        advertise=advertise_address(config),
        tags=start_tags(config),
        keyring=_setup_keyring(config),
        owns_process=True,
    )


def start_tags(config: AgentConfig) -> dict[str, str]:
    """Return the tags at start: those of the tags file if there is one.

    Raises:
        ConfigError: the file cannot be used.
    """
    return tags_file.load(Path(config.tags_file)) if config.tags_file else config.own_tags


def start_keyring(config: AgentConfig) -> Keyring | None:
    """Return the keys at start; None for plaintext.

    Raises:
        ConfigError: a key is not valid, or a file cannot be used. The text shows no key.
    """
    if config.keyring_file:
        return keyring_file.load(Path(config.keyring_file))
    if not config.encrypt_key:
        return None
    try:
        return Keyring([parse_key(config.encrypt_key)])
    except KeyringError as error:
        raise ConfigError(f"Invalid encryption key: {error}") from None


def _setup_keyring(config: AgentConfig) -> Keyring | None:
    try:
        return start_keyring(config)
    except ConfigError as error:
        if not config.keyring_file:
            raise
        raise ConfigError(f"{SETUP_FAILED}: {error}") from error


# --- addresses ---


def bind_address(config: AgentConfig) -> Address:
    """Return the address to listen on.

    Raises:
        ConfigError: not a valid address, or not one of the configured interface.
        AddressError: an unknown host or interface.
    """
    bind = _address(config.bind, "bind", ANY_ADDRESS)
    if not config.interface:
        return bind
    name = config.interface
    found = interface_addresses(name)
    if bind.host not in (ANY_ADDRESS.host, "::"):
        if bind.host not in found:
            raise ConfigError(
                f"Interface '{name}' has no '{bind.host}' address; it has {', '.join(found)}"
            )
        return bind
    for host in found:
        if not ipaddress.ip_address(host).is_link_local and (bind.host != "::" or ":" in host):
            return Address(host, bind.port)
    raise ConfigError(
        f"Failed to find usable address for interface '{name}'; it has {', '.join(found)}"
    )


def advertise_address(config: AgentConfig) -> Address | None:
    """Return the address that other members use; None for the bound one.

    Raises:
        ConfigError: not a valid address.
        AddressError: an unknown host.
    """
    if not config.advertise:
        return None
    return _address(config.advertise, "advertise", Address("", 0))


def _address(text: str, key: str, default: Address) -> Address:
    host, port = split_bind(text, key)
    port = default.port if port is None else port
    if not host:
        return Address(default.host, port)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise AddressError(f"Invalid {key} address: {host!r}: {why}") from error
    return Address(str(found[0][4][0]), port)


def split_bind(text: str, key: str) -> tuple[str, int | None]:
    """Parse `host`, `host:port`, `:port`, `[v6]:port` or a bare IPv6 address.

    Raises:
        ConfigError: unbalanced brackets, or a port that is not valid.
    """
    try:
        return parse_host_port(text)
    except ValueError as error:
        raise ConfigError(f"Invalid {key} address: {text!r}: {error}") from None
