"""Connects blocking sessions, over the protocol that the agent speaks.

Imports little, so that a command line starts in milliseconds.
"""

from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.requests import Action, check_connection
from trioserf.control.client.session import AgentSession
from trioserf.control.errors import ControlError
from trioserf.control.tls import Tls

__all__ = ["Action", "AgentSession", "Tls", "connect_any"]


def connect_any(
    address: str = DEFAULT_ADDRESS,
    auth: str | None = None,
    *,
    timeout: float = 10.0,
    tls: Tls | None = None,
) -> AgentSession:
    """Connect to the agent at `address`, over JSON lines if it speaks them, else Serf's RPC.

    An agent of HashiCorp's Serf closes a connection that begins with JSON; a second connection
    then speaks msgpack.

    Args:
        address: `host:port`, a bare host (port 7373), the same after `tls://`, or `unix:PATH`.
        auth: the agent's key, if it requires one.
        timeout: seconds for the connection and for each step of the handshake.
        tls: the options of TLS, for an address that begins with `tls://`.

    Raises:
        ControlError: `unreachable`; `auth_required` and `auth_failed`; `protocol` when the other
            side speaks neither protocol.
    """
    from trioserf.control.client.json_session import JsonSession

    check_connection(address, auth, timeout, tls)
    try:
        return JsonSession.connect(address, auth, timeout=timeout, tls=tls)
    except ControlError as error:
        if error.code not in ("disconnected", "protocol"):
            raise
    from trioserf.control.client.rpc_session import RpcSession

    return RpcSession.connect(address, auth, timeout=timeout, tls=tls)
