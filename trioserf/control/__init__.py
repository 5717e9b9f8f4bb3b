"""The control socket: JSON lines and Serf's msgpack RPC over one command table, and clients."""
