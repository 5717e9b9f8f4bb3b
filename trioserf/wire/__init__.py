"""Bytes to messages and back: the gossip wire of memberlist and Serf."""
