"""The control socket: JSON lines and Serf's RPC over one command table, and their clients."""
