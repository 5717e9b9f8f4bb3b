"""TLS on the control port, for servers and clients; `ssl` is imported on use only."""

from typing import TYPE_CHECKING, NamedTuple

from trioserf.control.address import split_address, unix_path
from trioserf.control.errors import ControlError
from trioserf.defaults import TLS
from trioserf.errors import ConfigError

if TYPE_CHECKING:
    import ssl


class Tls(NamedTuple):
    """A client's options of TLS; files are PEM.

    Attributes:
        ca: the file of the CA that signed the agent's certificate; empty for those of the system.
        cert: the client's certificate, if the agent requires one.
        key: its private key; empty if `cert` holds it, too.
        server_name: the name in the agent's certificate; empty for the host of the address.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""


class AgentAddress(str):
    """The address of an agent, with the options of TLS for it."""

    tls: Tls

    def __new__(cls, address: str, tls: Tls) -> "AgentAddress":
        """Return the address with options."""
        found = super().__new__(cls, address)
        found.tls = tls
        return found


class TlsFiles(NamedTuple):
    """The files of an agent's side of TLS, all PEM.

    Attributes:
        cert: its certificate, with intermediate ones.
        key: its private key; empty if `cert` holds it, too.
        client_ca: the CA that signed the clients' certificates; empty if clients need none.
    """

    cert: str
    key: str = ""
    client_ca: str = ""

    def load(self, prefix: str = "rpc_tls") -> "ssl.SSLContext":
        """Read the files.

        Args:
            prefix: how their configuration keys begin, for errors.

        Raises:
            ConfigError: a file cannot be used; the text names its key.
        """
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_RENEGOTIATION
        _load_pair(context, self.cert, self.key, (f"{prefix}_cert", f"{prefix}_key"))
        if self.client_ca:
            _load_ca(context, self.client_ca, f"{prefix}_client_ca")
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def split_tls(address: str) -> tuple[bool, str]:
    """Return whether an address begins with `tls://`, and the rest."""
    return address.startswith(TLS), address.removeprefix(TLS)


class ClientTls(NamedTuple):
    """What a client needs for the handshake: the context, and the name it expects."""

    context: "ssl.SSLContext"
    server_name: str


def client_tls(address: str, options: Tls | None) -> ClientTls | None:
    """Return what the handshake needs, or None if the address is not one of TLS.

    Args:
        address: the whole address.
        options: the client's options; None for the system's CAs and no client certificate.

    Raises:
        AddressError: the address is not valid.
        ConfigError: a file cannot be used, or options are given for an address without TLS.
    """
    options = options or Tls()
    is_tls, rest = split_tls(address)
    if not is_tls:
        if any(options) and unix_path(address) is None:
            text = f"{address}: options of TLS need an address that begins with {TLS}"
            raise ConfigError(f"{text}; expected {TLS}{address}")
        return None
    import ssl

    if options.ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_ca(context, options.ca, "--tls-ca")
    else:
        context = ssl.create_default_context()  # reads all CAs of the system
    if options.cert or options.key:
        if not options.cert:
            raise ConfigError("--tls-key: needs --tls-cert, the certificate of this key")
        _load_pair(context, options.cert, options.key, ("--tls-cert", "--tls-key"))
    return ClientTls(context, options.server_name or split_address(rest)[0] or "127.0.0.1")


def _load_pair(context: "ssl.SSLContext", cert: str, key: str, names: tuple[str, str]) -> None:
    import ssl

    pair = dict(zip(names, (cert, key or cert), strict=True))
    for name, path in pair.items():
        _check_readable(path, name)
    try:
        # With a password, ssl does not ask for one on the terminal.
        context.load_cert_chain(cert, key or None, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{names[1]}: {key} is not the key of the certificate in {cert}"
            raise ConfigError(text) from None
        raise ConfigError(
            f"{names[0]}, {names[1]}: expected a certificate and its private key, without a"
            f" password, as PEM; not so in {' and '.join(dict.fromkeys(pair.values()))}"
        ) from None


def _load_ca(context: "ssl.SSLContext", path: str, name: str) -> None:
    import ssl

    _check_readable(path, name)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigError(f"{name}: expected certificates as PEM; not so in {path}") from None


def _check_readable(path: str, name: str) -> None:
    from pathlib import Path

    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be read: {error.strerror}") from None


def certificate_error(
    error: BaseException | None, address: str, tls: ClientTls | None
) -> ControlError | None:
    """Return the error of a certificate that was not accepted, or None for any other exception.

    With TLS 1.3, a client learns after its handshake that the agent rejects its certificate.

    Args:
        error: the exception of the handshake, or of a later read or write.
        address: the address of the agent.
        tls: what the handshake used; None for a connection without TLS.
    """
    if tls is None:
        return None
    import ssl

    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (62, 64):  # host name, IP address
            text = f"its certificate is not for {tls.server_name}; --tls-server-name sets the name"
        else:
            text = f"certificate not accepted ({error.verify_message})"
            text += "; --tls-ca names the file of the CA that signed it"
    elif "ALERT_CERTIFICATE_REQUIRED" in reason:
        text = "it requires a client certificate; --tls-cert and --tls-key name one"
    elif "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        text = "it does not accept the client certificate; --tls-cert and --tls-key must name one"
        text += " that is signed by its rpc_tls_client_ca"
    else:
        return None
    return ControlError("unreachable", f"agent at {address}: {text}")


def tls_error(error: BaseException | None, address: str, tls: ClientTls) -> ControlError:
    """Return the error of a failed handshake; arguments as `certificate_error`."""
    found = certificate_error(error, address, tls)
    if found is None:
        plain = split_tls(address)[1]
        text = f"agent at {address}: it does not speak TLS; without TLS its address is {plain}"
        found = ControlError("unreachable", text)
    return found


def lost_connection(
    error: BaseException | None, address: str, tls: ClientTls | None
) -> ControlError:
    """Return the error of a connection that broke; arguments as `certificate_error`."""
    found = certificate_error(error, address, tls)
    return found or ControlError("disconnected", f"the connection broke: {error}")
