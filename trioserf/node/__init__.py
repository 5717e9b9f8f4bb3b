"""The Trio tasks of one member around one state object (see README.md)."""

from trioserf.node.config import NodeConfig
from trioserf.node.node import Node, Phase
from trioserf.node.open_node import open_node

__all__ = ["Node", "NodeConfig", "Phase", "open_node"]
