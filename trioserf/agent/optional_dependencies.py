"""Packages that only some agents need, and that come with an extra of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from trioserf.errors import ConfigError


@contextmanager
def require_extra(key: str, extra: str) -> Iterator[None]:
    """Import within the block what a key of the configuration needs.

    Args:
        key: the key.
        extra: what brings the packages, as in `pip install 'trioserf[EXTRA]'`.

    Raises:
        ConfigError: one is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = str(error.name).partition(".")[0]
        raise ConfigError(
            f"{key}: the module {module} is missing; it comes with pip install 'trioserf[{extra}]'"
        ) from error
