"""Changing this node's keyring when the cluster asks for it (spec: key management)."""

import logging
from collections.abc import Callable

from trioserf.serf.internal import KeyAction, no_keyring
from trioserf.serf.keyring import Keyring, KeyringError, format_key
from trioserf.serf.messages import KeyResponse

_log = logging.getLogger("trioserf.serf")

SaveKeyring = Callable[[Keyring], None]
"""Writes a keyring to its file; raises an OSError if that fails."""


class KeyDesk:
    """Does what key queries ask for.

    Args:
        keyring: the keys, or None where nothing is encrypted.
        save: keeps every change.
    """

    def __init__(self, keyring: Keyring | None, save: SaveKeyring | None) -> None:
        self._keyring = keyring
        self._save = save

    def __call__(self, action: KeyAction, key: bytes) -> KeyResponse:
        """Change the keys, or list them, and say how it went."""
        keyring = self._keyring
        if keyring is None:
            return no_keyring(action, key)
        if action == "list":
            keys = tuple(format_key(one) for one in keyring.keys)
            return KeyResponse(True, "", keys, format_key(keyring.primary))
        change = {"install": keyring.install, "use": keyring.use, "remove": keyring.remove}
        try:
            change[action](key)
            if self._save is not None:
                self._save(keyring)
        except (KeyringError, OSError) as error:
            _log.error("could not %s a key: %s", action, error)
            return KeyResponse(False, str(error))
        return KeyResponse(True)
