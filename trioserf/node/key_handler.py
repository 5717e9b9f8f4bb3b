"""This node's keys, and the key queries that change them (see serf/README.md, § Key management).

A change takes effect at once. Its response waits until the keyring file is written, and reports a
failure to write it. A task of its own writes the file, so that a slow disk does not keep the
state's owner from acknowledging probes.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from trioserf.errors import ConfigError, reason_of
from trioserf.node.state import ClusterState
from trioserf.node.state_owner import StateOwner
from trioserf.serf.internal_queries import DeferredResponse, KeyAction, no_keyring
from trioserf.serf.keyring import Keyring, KeyringError, dump_keyring, format_key
from trioserf.wire.encryption import Sealer
from trioserf.wire.serf_messages import KeyResponse

_log = logging.getLogger("trioserf.serf")

_MAX_CHANGES: Final = 64
"""Changes that wait for the disk: more than a key rotation makes during one write."""

SaveKeyring = Callable[[bytes], Awaitable[None]]
"""Replaces the content of the keyring file atomically; raises an OSError if that fails."""


@attrs.frozen(eq=False, repr=False)
class _Change:
    """New content of the file, and the response that waits for it."""

    action: KeyAction
    content: bytes
    response: DeferredResponse


class KeyHandler:
    """Handles key queries.

    Args:
        keyring: the keys, or None without encryption.
        save: writes every change to the file; None without a file.

    Attributes:
        keyring: the keys, or None.
    """

    def __init__(self, keyring: Keyring | None, save: SaveKeyring | None) -> None:
        self.keyring = keyring
        self._save = save
        self._send, self._changes = trio.open_memory_channel[_Change](_MAX_CHANGES)

    def __call__(self, action: KeyAction, key: bytes) -> KeyResponse | DeferredResponse:
        """Change or list the keys; return the response, which may be deferred."""
        keyring = self.keyring
        if keyring is None:
            return no_keyring(action, key)
        if action == "list":
            keys = tuple(map(format_key, keyring.keys))
            return KeyResponse(True, "", keys, format_key(keyring.primary))
        if self._changes.statistics().current_buffer_used >= _MAX_CHANGES:
            return _failed(
                action, f"{_MAX_CHANGES} changes of the keyring wait for the disk already"
            )
        change = {"install": keyring.install, "use": keyring.use, "remove": keyring.remove}
        try:
            change[action](key)
        except KeyringError as error:
            return _failed(action, str(error))
        if self._save is None:
            return KeyResponse(True)
        response = DeferredResponse()
        self._send.send_nowait(_Change(action, dump_keyring(keyring), response))
        return response

    def status(self, state: ClusterState) -> dict[str, object]:
        """Return how gossip is encrypted (see `Node.encryption_status`)."""
        return {
            "keys": 0 if self.keyring is None else len(self.keyring.keys),
            "verify_incoming": state.sealer.verify_incoming,
            "verify_outgoing": state.sealer.verify_outgoing,
            "label": state.config.label,
            "allowed_networks": ",".join(state.config.allowed_networks),
        }

    def configure_encryption(
        self,
        sealer: Sealer,
        keyring: Keyring | None,
        *,
        verify_incoming: bool,
        verify_outgoing: bool,
    ) -> None:
        """Change the encryption of gossip (see `Node.configure_encryption`).

        Raises:
            ConfigError: there are keys already, which only key queries can change.
        """
        if keyring is not None:
            if self.keyring is not None:
                raise ConfigError("there is a keyring already; change it by key queries")
            self.keyring = sealer.keyring = keyring
        sealer.verify_incoming = verify_incoming
        sealer.verify_outgoing = verify_outgoing
        warn_if_plaintext(sealer)

    async def save_changes(self, owner: StateOwner) -> None:
        """Write each change to the file in order, then send its response; until cancelled.

        Args:
            owner: the owner of the state, which sends the responses.
        """
        if self._save is None:
            return
        async for change in self._changes:
            result = KeyResponse(True)
            try:
                await self._save(change.content)
            except OSError as error:
                result = _failed(change.action, reason_of(error))
            await owner.ask(lambda _, now: change.response.set_result(result, now))  # noqa: B023


def _failed(action: KeyAction, error: str) -> KeyResponse:
    _log.error("could not %s a key: %s", action, error)
    return KeyResponse(False, error)


def warn_if_plaintext(sealer: Sealer) -> None:
    """Log a warning for each direction that has keys but is not encrypted."""
    if not sealer.enabled:
        return
    if not sealer.verify_outgoing:
        _log.warning(
            "there are keys, but outgoing messages are not encrypted (verify_outgoing is off)"
        )
    if not sealer.verify_incoming:
        _log.warning("there are keys, but plaintext is accepted (verify_incoming is off)")
