"""The gossip's sockets: UDP packets and TCP streams behind one small protocol."""
