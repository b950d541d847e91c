"""Certificates, keys and trust anchors from files or PEM, with errors that name the file.

It reads and checks; it never talks TLS. No error shows any of what may be a key, nor has another
one behind it that does.
"""

import binascii
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from .errors import ConfigError

PathOrPem = str | os.PathLike[str] | bytes
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True)
class Identity:
    """What one end proves who it is with: its certificate, the chain above it, its private key."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    private_key: Any


def load_identity(
    certfile: PathOrPem, keyfile: PathOrPem | None = None, password: str | bytes | None = None
) -> Identity:
    """Read a PEM certificate chain and its key (from `certfile` too when `keyfile` is None).

    Raises:
        ConfigError: it cannot be read or parsed, or the key does not belong to the certificate.
    """
    what = _name(certfile, "certfile")
    pem = _read(certfile, "certfile")
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError(f"{what}: there is no PEM certificate in it")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"{what}: not a valid PEM certificate: {error}") from error
    if keyfile is not None:
        key_what, key_pem = _name(keyfile, "keyfile"), _read(keyfile, "keyfile")
    else:
        key_what, key_pem = what, pem
        if b"PRIVATE KEY-----" not in pem:
            raise ConfigError(f"{what}: there is no private key in it, and no keyfile was given")
    key = _load_key(key_pem, key_what, password)
    if _spki(key.public_key()) != _spki(certificates[0].public_key()):
        raise ConfigError(f"{key_what}: the private key does not match the certificate in {what}")
    return Identity(certificates[0], tuple(certificates[1:]), key)


def load_trust_anchors(
    cafile: str | os.PathLike[str] | None,
    capath: str | os.PathLike[str] | None,
    cadata: str | bytes | None,
) -> dict[str, Any]:
    """Check the three ways to name trust anchors; PEM or DER, what aioquic gets is PEM.

    Raises:
        ConfigError: a file or folder cannot be read, or holds no certificate.
    """
    for role, path in (("cafile", cafile), ("capath", capath)):
        if path is not None and not isinstance(path, str | os.PathLike):
            kind = type(path).__name__
            raise ConfigError(f"{role} must be a path, not {kind}; certificates go into cadata")
        if path is not None and _is_text(path):
            raise ConfigError(f"{role} is PEM text: it must be a path; certificates go into cadata")
    found: list[x509.Certificate] = []
    if cafile is not None:
        raw = _read(os.fspath(cafile), "cafile")
        in_file = _parse_anchors(raw, f"cafile {os.fspath(cafile)!r}")
        if b"-----BEGIN" not in raw:  # OpenSSL reads PEM files only
            found, cafile = in_file, None
    if capath is not None and not Path(capath).is_dir():
        raise ConfigError(f"capath {os.fspath(capath)!r}: not a folder")
    if cadata is not None:
        if not isinstance(cadata, str | bytes | bytearray):
            kind = type(cadata).__name__
            raise ConfigError(f"cadata must be PEM or DER, as str or bytes, not {kind}")
        raw = cadata.encode() if isinstance(cadata, str) else bytes(cadata)
        found = found + _parse_anchors(raw, "cadata")
    # aioquic splits PEM at line feeds; write it afresh, whatever the line ends were.
    data = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in found)
    return {
        "cafile": None if cafile is None else os.fspath(cafile),
        "capath": None if capath is None else os.fspath(capath),
        "cadata": data or None,
    }


def parse_pins(pins: Iterable[str | bytes] | str | bytes) -> frozenset[bytes]:
    """SHA-256 fingerprints as 32 bytes each; hex may carry colons.

    Raises:
        ConfigError: one is not a SHA-256.
    """
    parsed = set()
    if not isinstance(pins, Iterable):
        raise ConfigError(f"pinned_sha256: {pins!r} is not a SHA-256, nor several of them")
    for pin in [pins] if isinstance(pins, str | bytes) else pins:
        raw = pin
        if isinstance(pin, str):
            try:
                raw = binascii.unhexlify(pin.replace(":", "").strip())
            except (ValueError, binascii.Error):
                raw = b""
        if not isinstance(raw, bytes) or len(raw) != 32:
            raise ConfigError(
                f"pinned_sha256: {pin!r} is not a SHA-256 (32 bytes, or 64 hex digits)"
            )
        parsed.add(raw)
    return frozenset(parsed)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """The SHA-256 of the certificate's DER form, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def _name(source: PathOrPem, role: str) -> str:
    if isinstance(source, bytes):
        return f"{role} (PEM given as bytes)"
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"{role} must be a path, or PEM as bytes, not {type(source).__name__}")
    if _is_text(source):
        raise ConfigError(f"{role} is PEM text: pass it as bytes, or the path of a file")
    return f"{role} {os.fspath(source)!r}"


def _is_text(path: str | os.PathLike[str]) -> bool:
    """True for what was meant as the content of a file: it is no name, and nothing to be shown."""
    name = os.fsdecode(path)
    return "-----BEGIN" in name or "\n" in name or "\r" in name


def _read(source: PathOrPem, role: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no path can hold a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{role} {os.fspath(source)!r} cannot be read: {reason}") from error


def _load_key(pem: bytes, what: str, password: str | bytes | None) -> Any:
    secret = password.encode() if isinstance(password, str) else password
    if not isinstance(secret, bytes | None):
        raise ConfigError(f"password must be str or bytes, not {type(password).__name__}")
    begin = pem.find(b"-----BEGIN", max(pem.find(b"PRIVATE KEY-----") - 40, 0))
    pem = pem[max(begin, 0) :]
    try:
        try:
            key = serialization.load_pem_private_key(pem, password=secret)
        except TypeError:  # it is not encrypted, or there is no password, or an empty one
            key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ConfigError(f"{what}: the private key is encrypted, give its password") from error
    except Exception as error:
        reason = "wrong password or damaged key" if secret else "not a valid PEM private key"
        raise ConfigError(f"{what}: {reason} ({error})") from error
    usable = isinstance(
        key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
    ) or (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES))
    if not usable:
        raise ConfigError(
            f"{what}: TLS 1.3 keys are RSA, EC (P-256, P-384, P-521), Ed25519 or Ed448, "
            f"not {type(key).__name__}"
        )
    return key


def _spki(public_key: Any) -> bytes:
    encoded: bytes = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _parse_anchors(data: bytes, what: str) -> list[x509.Certificate]:
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificates(data)
        # DER certificates one after the other; ssl knows how to find their ends only in PEM.
        certificates = []
        while data:
            length = _der_length(data)
            certificates.append(x509.load_der_x509_certificate(data[:length]))
            data = data[length:]
        if certificates:
            return certificates
        raise ValueError("it is empty")
    except (ValueError, IndexError, ssl.SSLError) as error:
        raise ConfigError(f"{what}: no valid certificate in PEM or DER: {error}") from error


def _der_length(data: bytes) -> int:
    """The length of the DER element at the front, header included (X.690 §8.1.3)."""
    first = data[1]
    if first < 0x80:
        return 2 + first
    count = first & 0x7F
    return 2 + count + int.from_bytes(data[2 : 2 + count], "big")
