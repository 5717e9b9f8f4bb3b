"""The keyring file, which keeps the cluster's keys for the next start."""

from pathlib import Path

import trio

from trioserf.agent.files import PRIVATE, Files, read_file
from trioserf.errors import ConfigError
from trioserf.serf.keyring import Keyring, KeyringError, load_keyring

_SUFFIX = ".tmp"
_EXPECTED = "expected a JSON list of base64 keys of 16, 24 or 32 bytes, the primary one first"


def load(path: Path) -> Keyring:
    """Load the keys at start.

    Raises:
        ConfigError: the file is missing, cannot be read or is not a keyring. The text begins like
            Serf's, names the file and shows no key.
    """
    try:
        data = read_file(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"Failed to read keyring file: read {path}: {reason[:1].lower()}{reason[1:]}"
        ) from error
    if data is None:
        raise ConfigError(f"stat {path}: no such file or directory; {_EXPECTED}")
    try:
        return load_keyring(data)
    except KeyringError as error:
        raise ConfigError(f"{error} (keyring_file {path})") from None


class KeyringFile:
    """The file with an agent's keys.

    Args:
        files: the file system.
        path: the file; empty for none.

    Attributes:
        path: may change at run time, when an agent without keys gets some.
    """

    def __init__(self, files: Files, path: str) -> None:
        self.path = path
        self._files = files

    async def save(self, content: bytes) -> None:
        """Replace the file, readable by its owner only; return when it is on the disk.

        Args:
            content: the keys, encoded by `dump_keyring`.

        Raises:
            OSError: the file cannot be written; the old one is unchanged.
        """
        if self.path:
            await self._files.replace(Path(self.path), content, suffix=_SUFFIX, mode=PRIVATE)
        else:
            await trio.lowlevel.checkpoint()
