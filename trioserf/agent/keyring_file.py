"""The keyring file, in which the keys of the cluster outlive the agent."""

from pathlib import Path

from trioserf.agent.files import PRIVATE, Files, read_file
from trioserf.errors import ConfigError
from trioserf.serf.keyring import Keyring, KeyringError, load_keyring

_SUFFIX = ".tmp"
_EXPECTED = "expected a JSON list of base64 keys of 16, 24 or 32 bytes, the primary one first"


def load(path: Path) -> Keyring:
    """Read the keys to start with.

    Raises:
        ConfigError: the file is missing, cannot be read, or holds something else. The text names
            the file and shows no key.
    """
    try:
        data = read_file(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"keyring_file {path}: cannot be read: {reason}") from error
    if data is None:
        raise ConfigError(f"keyring_file {path}: there is no such file; {_EXPECTED}")
    try:
        return load_keyring(data)
    except KeyringError as error:
        raise ConfigError(f"keyring_file {path}: {error}") from None


async def save(path: Path, files: Files, content: bytes) -> None:
    """Replace the file, readable by its owner alone; returns when it is on the disk.

    Args:
        path: the file.
        files: where it is.
        content: the keys, as `dump_keyring` spells them.

    Raises:
        OSError: it cannot be written; the old file is still there then.
    """
    await files.replace(path, content, suffix=_SUFFIX, mode=PRIVATE)
