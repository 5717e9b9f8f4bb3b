"""Certificates for tests of TLS, made when a test runs."""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trioserf.control.tls import TlsFiles

Key = ec.EllipticCurvePrivateKey


@attrs.frozen
class Authority:
    """A CA that writes certificates into a directory."""

    directory: Path
    name: str
    key: Key
    certificate: x509.Certificate

    @property
    def file(self) -> str:
        return str(self.directory / f"{self.name}.pem")

    def issue(self, name: str, *hosts: str) -> TlsFiles:
        """Write a certificate for hosts, and its key; return the paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
            for host in hosts
        ]
        certificate = _sign(name, key, self.name, self.key, names, is_ca=False)
        cert = self.directory / f"{name}.pem"
        cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = self.directory / f"{name}.key"
        private.write_bytes(private_bytes(key, serialization.NoEncryption()))
        return TlsFiles(str(cert), str(private))


def private_bytes(key: Key, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _sign(
    name: str,
    key: Key,
    issuer: str,
    issuer_key: Key,
    names: Sequence[x509.GeneralName],
    *,
    is_ca: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def new_authority(directory: Path, name: str = "ca") -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(name, key, name, key, [], is_ca=True)
    authority = Authority(directory, name, key, certificate)
    Path(authority.file).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return authority
