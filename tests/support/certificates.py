"""Certificates: those of the world, which no test needs and which cost more than most requests of a
test wherever a context reads them, and one of our own for servers that a test starts.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from httpx._transports import default


def read_once() -> None:
    """Let all httpx clients of this process that ask for the same certificates share a context, and
    no context read those of the machine: what a test talks to has none of them.
    """
    ssl.SSLContext.load_default_certs = _none  # type: ignore[method-assign]
    default.create_ssl_context = cache(default.create_ssl_context)


def _none(self: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
    """In place of what reads them all."""


def make_certificate(folder: Path, *names: str) -> Path:
    """Write server.crt and server.key of these names, or of 127.0.0.1; the certificate is its own
    authority.
    """
    whose: list[x509.GeneralName] = [x509.DNSName(one) for one in names]
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(whose or [x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder
