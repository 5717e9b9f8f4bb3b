"""Tokens of the control port: their file, and their hashes (see control/README.md, § Tokens).

A token is `NAME.SECRET`, with a secret of 256 random bits. The file has its hash: scrypt, whose
cost makes guesses slow if a file is stolen. The functions block; the command line imports this
module without Trio.
"""

import binascii
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from trioserf.control.server.permissions import Permissions
from trioserf.errors import ConfigError
from trioserf.operating_system import files as system
from trioserf.operating_system.users import user_id

MAX_TOKENS: Final = 1024
"""Tokens of a file."""
_MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a file of so many tokens, with about a hundred scopes each."""
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_N: Final = 1 << 14
_R: Final = 8
_P: Final = 1
"""The cost of new hashes: 16 MiB and about 0.1 s."""
_MAX_MEMORY: Final = 64 * 1024 * 1024
_MAX_P: Final = 4
"""The greatest cost of a hash in a file: about a second."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH: Final = re.compile(
    r"scrypt\$([0-9]{1,8})\$([0-9]{1,3})\$([0-9]{1,3})\$([A-Za-z0-9+/=]{8,256})\$([A-Za-z0-9+/=]{24,256})"
)
_EXPECTED_HASH: Final = "expected scrypt$N$R$P$SALT$HASH, salt and hash in base64"
_KEYS: Final = ("name", "hash", "scopes")
_EXPECTED_FILE: Final = "expected a JSON list of objects with name, hash and scopes"


class TokenHash(NamedTuple):
    """A hash with its salt and cost."""

    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, token: str) -> "TokenHash":
        """Hash a token with a new salt."""
        salt = os.urandom(_SALT_BYTES)
        return cls(_N, _R, _P, salt, _scrypt(token, salt, _N, _R, _P, _HASH_BYTES))

    @classmethod
    def parse(cls, text: str) -> "TokenHash":
        """Parse `scrypt$N$R$P$SALT$HASH`, salt and hash in base64.

        Raises:
            ValueError: another format, or a cost that is too high. The text does not show it.
        """
        found = _HASH.fullmatch(text)
        if found is None:
            raise ValueError(_EXPECTED_HASH)
        n, r, p = map(int, found.groups()[:3])
        try:
            salt, digest = (
                binascii.a2b_base64(part, strict_mode=True) for part in found.groups()[3:]
            )
        except ValueError:
            raise ValueError(_EXPECTED_HASH) from None
        if not (n > 1 and n & (n - 1) == 0 and r >= 1 and 1 <= p <= _MAX_P):
            raise ValueError(f"expected N as a power of 2, R from 1 and P from 1 to {_MAX_P}")
        if 128 * n * r > _MAX_MEMORY:
            raise ValueError(
                f"takes {128 * n * r} bytes of memory; expected {_MAX_MEMORY} at most"
            )
        return cls(n, r, p, salt, digest)

    def matches(self, token: str) -> bool:
        """Return whether this is the hash of a token, in constant time; takes its cost."""
        found = _scrypt(token, self.salt, self.n, self.r, self.p, len(self.digest))
        return hmac.compare_digest(found, self.digest)

    def __str__(self) -> str:
        salt, digest = (
            binascii.b2a_base64(part, newline=False).decode() for part in (self.salt, self.digest)
        )
        return f"scrypt${self.n}${self.r}${self.p}${salt}${digest}"


def _scrypt(token: str, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
    data = token.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, dklen=length, maxmem=2 * _MAX_MEMORY)


class Token(NamedTuple):
    """An entry of the file.

    Attributes:
        name: its name, unique in the file.
        hash: the hash of the whole token.
        permissions: its scopes.
    """

    name: str
    hash: TokenHash
    permissions: Permissions

    @property
    def entry(self) -> dict[str, Any]:
        """The entry as the file has it."""
        return {
            "name": self.name,
            "hash": str(self.hash),
            "scopes": self.permissions.texts(),
        }


def new_token(name: str, permissions: Permissions) -> tuple[str, Token]:
    """Return a new token, and its entry.

    Raises:
        ValueError: not a valid name.
    """
    check_name(name)
    text = f"{name}.{secrets.token_urlsafe(_SECRET_BYTES)}"
    return text, Token(name, TokenHash.of(text), permissions)


def check_name(name: str) -> None:
    """Check the name of a token.

    Raises:
        ValueError: it is not valid.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"invalid name {name!r}; expected 1 to 64 letters, digits, dots, dashes or underscores"
        )


def name_of(token: str) -> str:
    """Return the name that a token claims; empty if it has none."""
    return token.rpartition(".")[0]


# --- the file ---


def load(path: Path, *, check_mode: bool = True) -> dict[str, Token]:
    """Read the tokens of a file, by name.

    Args:
        path: the file.
        check_mode: whether other users may neither read nor change it.

    Raises:
        ConfigError: the file cannot be used; a line for each error, with the file. It shows no
            hash.
    """
    try:
        # A FIFO must not block.
        descriptor = os.open(path, os.O_RDONLY | system.AS_IT_IS | system.NO_WAIT)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            errors = list(_mode_errors(os.fstat(file.fileno()))) if check_mode else []
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"rpc_tokens {path}: cannot be read: {error.strerror}") from error
    tokens: dict[str, Token] = {}
    if len(data) > _MAX_BYTES:
        errors.append(f"expected {_MAX_BYTES} bytes at most")
    else:
        try:
            errors += _parse(json.loads(data), tokens)
        except (ValueError, RecursionError) as error:
            errors.append(f"not JSON: {error}; {_EXPECTED_FILE}")
    if errors:
        raise ConfigError("\n".join(f"rpc_tokens {path}: {error}" for error in errors))
    return tokens


def dump(tokens: Iterable[Token]) -> bytes:
    """Encode the content of a file."""
    lines = ",\n ".join(json.dumps(token.entry) for token in tokens)
    return f"[{lines}]\n".encode()


def _mode_errors(status: os.stat_result) -> Iterator[str]:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        yield "expected a regular file"
    elif not system.HAS_MODES:
        return
    elif mode & 0o027:
        yield f"mode {mode:04o}; expected 0600, or 0640 for a group that may read it"
    elif status.st_uid not in (0, user_id()):
        yield f"owned by uid {status.st_uid}; expected {user_id()} or root"


def _parse(content: object, tokens: dict[str, Token]) -> Iterator[str]:
    """Fill `tokens`; yield errors with their path."""
    if not isinstance(content, list):
        yield _EXPECTED_FILE
        return
    if len(content) > MAX_TOKENS:
        yield f"{len(content)} tokens; expected {MAX_TOKENS} at most"
        return
    for index, entry in enumerate(content):
        at = f"[{index}]"
        if not isinstance(entry, dict) or entry.keys() != set(_KEYS):
            yield f"{at}: expected an object with the keys {', '.join(_KEYS)}"
            continue
        name = entry["name"]
        errors = list(_entry_errors(entry))
        if not errors and name in tokens:
            errors.append("name: there is another token with this name")
        if errors:
            yield from (f"{at}.{error}" for error in errors)
        else:
            tokens[name] = Token(
                name, TokenHash.parse(entry["hash"]), Permissions.parse(entry["scopes"])
            )


def _entry_errors(entry: Mapping[str, Any]) -> Iterator[str]:
    scopes = entry["scopes"]
    are_texts = isinstance(scopes, list) and all(isinstance(one, str) for one in scopes)
    checks = {
        "name": (isinstance(entry["name"], str), check_name, "text"),
        "hash": (isinstance(entry["hash"], str), TokenHash.parse, "text"),
        "scopes": (are_texts, Permissions.parse, "a list of texts"),
    }
    for key, (has_type, check, expected) in checks.items():
        if not has_type:
            yield f"{key}: expected {expected}"
            continue
        try:
            check(entry[key])
        except ValueError as error:
            yield f"{key}: {error}"
