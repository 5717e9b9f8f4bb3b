"""The sockets of gossip: UDP packets and TCP streams behind one Protocol."""
