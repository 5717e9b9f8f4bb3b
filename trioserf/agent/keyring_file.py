"""The keyring file, in which the keys of the cluster outlive the agent."""

from pathlib import Path

from trioserf.agent.files import PRIVATE, read_file, replace_file
from trioserf.errors import ConfigError
from trioserf.serf.keyring import Keyring, KeyringError, dump_keyring, load_keyring

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


def save(path: Path, keyring: Keyring) -> None:
    """Replace the file by the keys as they are now, readable by its owner alone.

    Blocks until it is on the disk.

    Raises:
        OSError: it cannot be written; the old file is still there then.
    """
    replace_file(path, dump_keyring(keyring), mode=PRIVATE)
