"""Serf's layer as plain objects: clocks, intents, events, queries, coordinates, snapshots."""
