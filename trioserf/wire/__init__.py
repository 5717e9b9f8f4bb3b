"""The gossip wire of memberlist and Serf: messages and their codecs."""
