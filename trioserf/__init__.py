"""Cluster membership, failure detection, events and queries, speaking Serf's protocol on Trio.

Everything public is importable from here and loaded on first use, so that a command-line client
pays for nothing it does not need.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trioserf.control.client.trio_client import connect
    from trioserf.node import Node, NodeConfig, open_node

__version__ = "0.1.0"

__all__ = ["Node", "NodeConfig", "connect", "open_node"]

_ROOMS = {
    "Node": "trioserf.node",
    "NodeConfig": "trioserf.node",
    "open_node": "trioserf.node",
    "connect": "trioserf.control.client.trio_client",
}


def __getattr__(name: str) -> Any:
    """Load a public name on its first use."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'trioserf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
