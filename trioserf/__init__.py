"""Cluster membership, failure detection, events and queries: Serf's protocols on Trio.

Every public name can be imported from here. Its module is loaded at the first use, so that a
command-line client does not pay for what it does not need.
"""

from typing import TYPE_CHECKING, Any

from trioserf._version import __version__

if TYPE_CHECKING:
    from trioserf.control.client.trio_client import connect
    from trioserf.node import Node, NodeConfig, open_node

__all__ = ["Node", "NodeConfig", "__version__", "connect", "open_node"]

_MODULES = {
    "Node": "trioserf.node",
    "NodeConfig": "trioserf.node",
    "open_node": "trioserf.node",
    "connect": "trioserf.control.client.trio_client",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'trioserf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
