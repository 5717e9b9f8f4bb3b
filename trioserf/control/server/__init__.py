"""The control server: JSON lines and Serf's RPC on one port, over one table of commands."""
