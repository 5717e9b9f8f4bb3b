"""The keyring file, in which the keys of the cluster outlive the agent."""

from pathlib import Path

import trio

from trioserf.agent.files import PRIVATE, Files, read_file
from trioserf.errors import ConfigError
from trioserf.serf.keyring import Keyring, KeyringError, load_keyring

_SUFFIX = ".tmp"
_EXPECTED = "expected a JSON list of base64 keys of 16, 24 or 32 bytes, the primary one first"


def load(path: Path) -> Keyring:
    """Read the keys to start with.

    Raises:
        ConfigError: the file is missing, cannot be read, or holds something else. The text begins
            as Serf's, names the file and shows no key.
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
    """Where an agent keeps its keys.

    Args:
        files: where files are.
        path: the file; empty for none.

    Attributes:
        path: as given; an agent that gets its keys while it runs sets it then.
    """

    def __init__(self, files: Files, path: str) -> None:
        self.path = path
        self._files = files

    async def save(self, content: bytes) -> None:
        """Replace the file, readable by its owner alone; returns when it is on the disk.

        Args:
            content: the keys, as `dump_keyring` spells them.

        Raises:
            OSError: it cannot be written; the old file is still there then.
        """
        if self.path:
            await self._files.replace(Path(self.path), content, suffix=_SUFFIX, mode=PRIVATE)
        else:
            await trio.lowlevel.checkpoint()
