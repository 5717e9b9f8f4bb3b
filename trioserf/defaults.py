"""Default ports and addresses that rooms without a common import share."""

from typing import Final

CONTROL_PORT: Final = 7373
TLS: Final = "tls://"
"""How the address of a control port begins that speaks TLS."""
UNIX: Final = "unix:"
"""How the address of a Unix socket begins."""
CONTROL_ADDRESS: Final = f"127.0.0.1:{CONTROL_PORT}"
