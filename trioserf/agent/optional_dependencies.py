"""Packages that only some configurations need, and the extras that install them."""

from collections.abc import Iterator
from contextlib import contextmanager

from trioserf.errors import ConfigError


@contextmanager
def require_extra(key: str, extra: str) -> Iterator[None]:
    """Report a failed import in the block as an error of the configuration.

    Args:
        key: the key that needs the import.
        extra: the extra that installs the package: `pip install '.[EXTRA]'`.

    Raises:
        ConfigError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = str(error.name).partition(".")[0]
        raise ConfigError(
            f"{key}: the module {module} is missing; it comes with pip install '.[{extra}]'"
            " in trioserf's checkout"
        ) from error
