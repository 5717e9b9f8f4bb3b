"""Cluster membership, failure detection, events and queries: Serf's protocols on Trio.

All names of the library can be imported from here, and stay compatible within a major version.
`open_node` runs a member of a cluster, `connect` (Trio) and `connect_any` (blocking) control an
agent. The guide is trioserf/node/README.md, § The library.

Each name is loaded at its first use, so that `import trioserf` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

from trioserf._version import __version__

if TYPE_CHECKING:
    from trioserf.address import Address
    from trioserf.control.client.async_client import Records
    from trioserf.control.client.connect import connect_any
    from trioserf.control.client.records import (
        AgentEvent,
        CoordinateInfo,
        FailureCause,
        KeyReport,
        LogEntry,
        MemberEventRecord,
        MemberInfo,
        QueryEventRecord,
        UserEventRecord,
    )
    from trioserf.control.client.session import AgentSession
    from trioserf.control.client.trio_client import AgentClient, connect
    from trioserf.control.errors import ControlError
    from trioserf.control.tls import Tls
    from trioserf.coordinate import Coordinate
    from trioserf.errors import (
        AddressError,
        AlreadyAnswered,
        ConfigError,
        InvalidFilter,
        InvalidQuery,
        JoinFailed,
        Leaving,
        NameConflict,
        NameInUse,
        NoSuchMember,
        NoSuchQuery,
        TooLarge,
        TrioserfError,
    )
    from trioserf.event_filter import EventFilter, MemberEventKind
    from trioserf.health import Health
    from trioserf.node.config import NodeConfig
    from trioserf.node.event_hub import Responder, Subscription
    from trioserf.node.node import Node, Phase
    from trioserf.node.open_node import open_node
    from trioserf.results import (
        Dropped,
        MemberStatus,
        QueryAck,
        QueryAnswer,
        QueryDone,
        QueryResult,
    )
    from trioserf.serf.config import SerfOptions
    from trioserf.serf.events import Event, MemberEvent, QueryReceived, UserEventReceived
    from trioserf.serf.internal_queries import KeyAction
    from trioserf.serf.key_queries import KeyQueryResult
    from trioserf.serf.keyring import (
        Keyring,
        KeyringError,
        dump_keyring,
        format_key,
        load_keyring,
        parse_key,
    )
    from trioserf.serf.member import Member
    from trioserf.serf.snapshot import LamportTimes
    from trioserf.swim.config import LAN, LOCAL, PROFILES, WAN, SwimOptions, Timing
    from trioserf.swim.events import Cause

__all__ = [
    "LAN",
    "LOCAL",
    "PROFILES",
    "WAN",
    "Address",
    "AddressError",
    "AgentClient",
    "AgentEvent",
    "AgentSession",
    "AlreadyAnswered",
    "Cause",
    "ConfigError",
    "ControlError",
    "Coordinate",
    "CoordinateInfo",
    "Dropped",
    "Event",
    "EventFilter",
    "FailureCause",
    "Health",
    "InvalidFilter",
    "InvalidQuery",
    "JoinFailed",
    "KeyAction",
    "KeyQueryResult",
    "KeyReport",
    "Keyring",
    "KeyringError",
    "LamportTimes",
    "Leaving",
    "LogEntry",
    "Member",
    "MemberEvent",
    "MemberEventKind",
    "MemberEventRecord",
    "MemberInfo",
    "MemberStatus",
    "NameConflict",
    "NameInUse",
    "NoSuchMember",
    "NoSuchQuery",
    "Node",
    "NodeConfig",
    "Phase",
    "QueryAck",
    "QueryAnswer",
    "QueryDone",
    "QueryEventRecord",
    "QueryReceived",
    "QueryResult",
    "Records",
    "Responder",
    "SerfOptions",
    "Subscription",
    "SwimOptions",
    "Timing",
    "Tls",
    "TooLarge",
    "TrioserfError",
    "UserEventReceived",
    "UserEventRecord",
    "__version__",
    "connect",
    "connect_any",
    "dump_keyring",
    "format_key",
    "load_keyring",
    "open_node",
    "parse_key",
]

_MODULES = {
    "trioserf.address": ("Address",),
    "trioserf.control.client.async_client": ("Records",),
    "trioserf.control.client.connect": ("connect_any",),
    "trioserf.control.client.records": (
        "AgentEvent",
        "CoordinateInfo",
        "FailureCause",
        "KeyReport",
        "LogEntry",
        "MemberEventRecord",
        "MemberInfo",
        "QueryEventRecord",
        "UserEventRecord",
    ),
    "trioserf.control.client.session": ("AgentSession",),
    "trioserf.control.client.trio_client": ("AgentClient", "connect"),
    "trioserf.control.errors": ("ControlError",),
    "trioserf.control.tls": ("Tls",),
    "trioserf.coordinate": ("Coordinate",),
    "trioserf.errors": (
        "AddressError",
        "AlreadyAnswered",
        "ConfigError",
        "InvalidFilter",
        "InvalidQuery",
        "JoinFailed",
        "Leaving",
        "NameConflict",
        "NameInUse",
        "NoSuchMember",
        "NoSuchQuery",
        "TooLarge",
        "TrioserfError",
    ),
    "trioserf.event_filter": ("EventFilter", "MemberEventKind"),
    "trioserf.health": ("Health",),
    "trioserf.node.config": ("NodeConfig",),
    "trioserf.node.event_hub": ("Responder", "Subscription"),
    "trioserf.node.node": ("Node", "Phase"),
    "trioserf.node.open_node": ("open_node",),
    "trioserf.results": (
        "Dropped",
        "MemberStatus",
        "QueryAck",
        "QueryAnswer",
        "QueryDone",
        "QueryResult",
    ),
    "trioserf.serf.config": ("SerfOptions",),
    "trioserf.serf.events": ("Event", "MemberEvent", "QueryReceived", "UserEventReceived"),
    "trioserf.serf.internal_queries": ("KeyAction",),
    "trioserf.serf.key_queries": ("KeyQueryResult",),
    "trioserf.serf.keyring": (
        "Keyring",
        "KeyringError",
        "dump_keyring",
        "format_key",
        "load_keyring",
        "parse_key",
    ),
    "trioserf.serf.member": ("Member",),
    "trioserf.serf.snapshot": ("LamportTimes",),
    "trioserf.swim.config": ("LAN", "LOCAL", "PROFILES", "WAN", "SwimOptions", "Timing"),
    "trioserf.swim.events": ("Cause",),
}
"""The names of each module."""


def __getattr__(name: str) -> Any:
    """Load a name at its first use."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module 'trioserf' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the names of the library, loaded or not."""
    return sorted({*__all__, *globals()})
