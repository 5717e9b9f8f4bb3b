"""Cluster membership, failure detection, events and queries, speaking Serf's protocol on Trio.

Everything public is importable from here and loaded on first use, so that a command-line client
pays for nothing it does not need.
"""

__version__ = "0.1.0"
