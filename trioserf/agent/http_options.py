"""The keys of HTTP in the configuration (see control/README.md, § HTTP)."""

from typing import Final

import attrs

from trioserf.address import parse_host_port
from trioserf.agent.config_converter import Texts
from trioserf.errors import ConfigError
from trioserf.settings import setting
from trioserf.value_objects import ValueObject

HTTP_EXTRA: Final = "http"
"""The extra that installs what HTTP needs."""
_LOOPBACK: Final = "127.0.0.1"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HttpOptions(ValueObject):
    """Where and how HTTP is served."""

    addr: str = setting(
        "",
        "serve [HTTP](../control/README.md#http): health, metrics, members, events; read-only;"
        " `host:port`, or `:port` on the loopback address; needs `pip install '.[http]'`",
        key="http_addr",
        shown="none",
    )
    metrics_addr: str = setting(
        "", "another address that serves the same; an earlier name of `http_addr`", shown="none"
    )
    hosts: Texts = setting(
        attrs.Factory(list),
        "further names and addresses that requests may name in `Host` and `Origin`",
        key="http_hosts",
        reloads=True,
    )
    token_file: str = setting(
        "",
        "file whose only line is the token that requests must have (`Authorization: Bearer`);"
        " read again on SIGHUP",
        key="http_token_file",
        shown="none",
        reloads=True,
    )
    tls_cert: str = setting(
        "",
        "certificate, PEM with intermediate ones, for HTTPS; read again on SIGHUP",
        key="http_tls_cert",
        shown="none",
        reloads=True,
    )
    tls_key: str = setting(
        "", "its private key", key="http_tls_key", shown="in `http_tls_cert`", reloads=True
    )

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses that are set, each with its key."""
        return {
            address: key
            for key, address in (("metrics_addr", self.metrics_addr), ("http_addr", self.addr))
            if address
        }

    @property
    def key(self) -> str:
        """The key that turns HTTP on."""
        return "http_addr" if self.addr else "metrics_addr"


def split_http_address(text: str, key: str) -> tuple[str, int]:
    """Parse `host:port`, or `:port` on the loopback address; port 0 selects a free one.

    Raises:
        ConfigError: another text; the error names the key.
    """
    try:
        host, port = parse_host_port(text)
    except ValueError:
        port = None
    if port is None:
        raise ConfigError(f"{key}: {text!r}: expected host:port or :port, such as 127.0.0.1:8080")
    return host or _LOOPBACK, port
