"""This node's keys: changing them when the cluster asks for it (spec: key management).

A change counts at once. Its answer waits until the file has it, and says so if that failed. The
file is written by a task of its own: a slow disk must not keep the state's owner from answering
probes.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from trioserf.errors import ConfigError
from trioserf.node.state_owner import StateOwner
from trioserf.serf.internal_queries import DeferredResponse, KeyAction, no_keyring
from trioserf.serf.keyring import Keyring, KeyringError, dump_keyring, format_key
from trioserf.wire.encryption import Sealer
from trioserf.wire.serf_messages import KeyResponse

_log = logging.getLogger("trioserf.serf")

_WAITING: Final = 64
"""Changes that wait for the disk: more than any rotation makes while one write is under way."""

SaveKeyring = Callable[[bytes], Awaitable[None]]
"""Gives a keyring's file its new content, in one step; raises an OSError if that fails."""


@attrs.frozen(slots=True)
class _Change:
    """What the file shall hold, and the answer that waits for it."""

    action: KeyAction
    content: bytes
    later: DeferredResponse


class KeyHandler:
    """Does what key queries ask for.

    Args:
        keyring: the keys, or None where nothing is encrypted yet.
        save: keeps every change; None if there is no file.

    Attributes:
        keyring: as given.
    """

    def __init__(self, keyring: Keyring | None, save: SaveKeyring | None) -> None:
        self.keyring = keyring
        self._save = save
        self._send, self._changes = trio.open_memory_channel[_Change](_WAITING)

    def __call__(self, action: KeyAction, key: bytes) -> KeyResponse | DeferredResponse:
        """Change the keys, or list them, and say how it went, perhaps later."""
        keyring = self.keyring
        if keyring is None:
            return no_keyring(action, key)
        if action == "list":
            keys = tuple(format_key(one) for one in keyring.keys)
            return KeyResponse(True, "", keys, format_key(keyring.primary))
        if self._changes.statistics().current_buffer_used >= _WAITING:
            return _failed(action, f"{_WAITING} changes of the keyring wait for the disk already")
        change = {"install": keyring.install, "use": keyring.use, "remove": keyring.remove}
        try:
            change[action](key)
        except KeyringError as error:
            return _failed(action, str(error))
        if self._save is None:
            return KeyResponse(True)
        later = DeferredResponse()
        self._send.send_nowait(_Change(action, dump_keyring(keyring), later))
        return later

    def configure_encryption(
        self,
        sealer: Sealer,
        keyring: Keyring | None,
        *,
        verify_incoming: bool,
        verify_outgoing: bool,
    ) -> None:
        """Change how gossip is protected (see `Node.protect`).

        Raises:
            ConfigError: there are keys already, which change by key queries only.
        """
        if keyring is not None:
            if self.keyring is not None:
                raise ConfigError("there is a keyring already; change it by key queries")
            self.keyring = sealer.keyring = keyring
        sealer.verify_incoming = verify_incoming
        sealer.verify_outgoing = verify_outgoing
        warn_if_plaintext(sealer)

    async def save_changes(self, owner: StateOwner) -> None:
        """Write each change to the file, in order, and then answer it; until cancelled.

        Args:
            owner: has the state that the answers go through.
        """
        if self._save is None:
            return
        async for change in self._changes:
            answer = KeyResponse(True)
            try:
                await self._save(change.content)
            except OSError as error:
                answer = _failed(change.action, str(error))
            await owner.ask(lambda _, now: change.later.set_result(answer, now))  # noqa: B023


def _failed(action: KeyAction, why: str) -> KeyResponse:
    _log.error("could not %s a key: %s", action, why)
    return KeyResponse(False, why)


def warn_if_plaintext(sealer: Sealer) -> None:
    """Say so where there are keys which do not protect what they could."""
    if not sealer.enabled:
        return
    if not sealer.verify_outgoing:
        _log.warning("there are keys, but what is sent is not encrypted (verify_outgoing is off)")
    if not sealer.verify_incoming:
        _log.warning("there are keys, but plaintext is accepted (verify_incoming is off)")
