"""Self-signed certificates for tests, demonstrations and pinning, made in memory.

Depends on `cryptography` alone and touches no file. Such a certificate proves a name only to a
peer that was given the certificate itself (`connect(cadata=…)`) or its SHA-256
(`connect(pinned_sha256=…)`): never publish one as the identity of a public service.
"""

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["certificate_sha256", "self_signed"]

MAX_DAYS = 3650
# The peer's clock may be a little behind ours.
BACKDATED = datetime.timedelta(hours=1)


def self_signed(hosts: Sequence[str], days: int = 14) -> tuple[bytes, bytes]:
    """Make a certificate for `hosts` that is its own trust anchor.

    `hosts` are DNS names (a leading ``*.`` and non-ASCII names are fine) and IP addresses; each
    becomes a subjectAltName. The certificate is valid from one hour ago, for `days` (1 to 3,650).
    Its key is EC P-256 and new in every call; it is no CA, and serves both ends of a connection.

    Returns the certificate and its private key (PKCS #8, not encrypted), both PEM as bytes, which
    `certfile` and `keyfile` take. Raises `ValueError` for a host or a number of days that cannot be
    used.
    """
    if isinstance(hosts, str):
        raise ValueError("hosts is a sequence of names, not one string")
    if not hosts:
        raise ValueError("a certificate needs at least one host")
    if not 1 <= days <= MAX_DAYS:
        raise ValueError(f"days is {days}; allowed are 1 to {MAX_DAYS}")
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name holds 64 characters at most, so the hosts are in subjectAltName alone, where
    # RFC 9110 §4.3.4 tells a client to look.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rawquic self-signed")])
    start = datetime.datetime.now(datetime.UTC) - BACKDATED
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(h) for h in hosts]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def certificate_sha256(certificate: bytes) -> str:
    """The SHA-256 of the DER form of the first certificate in PEM bytes: 64 hex digits.

    This is what `connect(pinned_sha256=…)` takes. Raises `ValueError` when there is none.
    """
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def _general_name(host: str) -> x509.GeneralName:
    """An IP address or a DNS name, as a certificate spells it."""
    try:
        # A scope ("fe80::1%eth0") means something on one machine only.
        return x509.IPAddress(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    wildcard, name = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    try:
        ascii_name = name.removesuffix(".").encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"{host!r} is no host name: {error}") from None
    if not ascii_name or any(c.isspace() or c in "/:%*@" for c in ascii_name):
        raise ValueError(f"{host!r} is neither a host name nor an IP address")
    return x509.DNSName(wildcard + ascii_name)
