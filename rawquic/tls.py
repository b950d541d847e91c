"""aioquic's `QuicConfiguration` out of `Config` and the TLS arguments of `serve` and `connect`.

Nothing here touches a socket; what cannot work raises `ConfigError` at the call.
"""

import os
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import CipherSuite
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from .backend import aead_providers
from .certificates import Identity
from .config import VERSIONS, Config
from .errors import ConfigError
from .qlog import QlogFolder

_SUITES = {
    "TLS_AES_128_GCM_SHA256": CipherSuite.AES_128_GCM_SHA256,
    "TLS_AES_256_GCM_SHA384": CipherSuite.AES_256_GCM_SHA384,
    "TLS_CHACHA20_POLY1305_SHA256": CipherSuite.CHACHA20_POLY1305_SHA256,
}
_CONGESTION = {"cubic": "cubic", "newreno": "reno"}
MAX_DATAGRAM_FRAME = 65535  # RFC 9221 §3 recommends it

_keylogs: dict[str, TextIO] = {}


def configuration(config: Config, *, is_client: bool, alpn: Iterable[str]) -> QuicConfiguration:
    """The parts that both sides share."""
    check_aead(config)
    takes_datagrams = config.datagram_receive_buffer_size is not None
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=check_alpn(alpn),
        cipher_suites=[_SUITES[name] for name in config.cipher_suites],
        congestion_control_algorithm=_CONGESTION[config.congestion_control],
        connection_id_length=8,
        initial_rtt=config.initial_rtt,
        max_data=config.receive_window,
        max_stream_data=config.stream_receive_window,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME if takes_datagrams else None,
        max_datagram_size=config.initial_mtu,
        quic_logger=_qlog(config),
        secrets_log_file=_keylog(config),
        supported_versions=[VERSIONS[number] for number in config.versions],
    )


def server_configuration(
    config: Config, identity: Identity, alpn: Iterable[str]
) -> QuicConfiguration:
    result = configuration(config, is_client=False, alpn=alpn)
    _set_identity(result, identity)
    return result


def client_configuration(
    config: Config,
    alpn: Iterable[str],
    *,
    server_name: str,
    anchors: dict[str, Any],
    verify: bool,
    identity: Identity | None,
) -> QuicConfiguration:
    result = configuration(config, is_client=True, alpn=alpn)
    result.server_name = server_name
    result.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    result.cafile, result.capath = anchors["cafile"], anchors["capath"]
    result.cadata = anchors["cadata"]
    if identity is not None:
        _set_identity(result, identity)
    return result


class Encoded:
    """A certificate of ours as aioquic uses it: all that it does is to send it."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._der = certificate.public_bytes(Encoding.DER)  # once, and not in each handshake

    def public_bytes(self, encoding: Encoding) -> bytes:
        assert encoding is Encoding.DER
        return self._der


def _set_identity(result: QuicConfiguration, identity: Identity) -> None:
    result.certificate = Encoded(identity.certificate)
    result.certificate_chain = [Encoded(each) for each in identity.chain]
    result.private_key = identity.private_key


def check_aead(config: Config) -> None:
    """ConfigError when the AEAD provider that was asked for is not there."""
    there = aead_providers()
    if config.aead != "auto" and config.aead not in there:
        allowed = ", ".join(map(repr, ["auto", *there]))
        raise ConfigError(f"Config.aead={config.aead!r}: here it can be {allowed}")


def check_alpn(alpn: Iterable[str]) -> list[str]:
    """A list of ALPN names, or ConfigError."""
    if not isinstance(alpn, Iterable):
        raise ConfigError(f"alpn={alpn!r}: it must be names of application protocols")
    names: Sequence[Any] = [alpn] if isinstance(alpn, str) else list(alpn)
    for name in names:
        if not isinstance(name, str) or not name.isascii() or not 1 <= len(name) <= 255:
            raise ConfigError(f"alpn {name!r}: a name is 1 to 255 ASCII characters (RFC 7301 §3.1)")
    if not names:
        raise ConfigError("alpn: QUIC needs at least one application protocol (RFC 9001 §8.1)")
    return list(names)


def _keylog(config: Config) -> TextIO | None:
    path = config.keylog_file or os.environ.get("SSLKEYLOGFILE")
    if not path:
        return None
    key = str(Path(path).absolute())
    if key not in _keylogs:  # one handle for all connections of the process
        try:
            _keylogs[key] = Path(path).open("a")  # noqa: SIM115 - open for the process's life
        except OSError as error:
            raise ConfigError(f"keylog_file {key!r} cannot be written: {error.strerror}") from error
    return _keylogs[key]


def _qlog(config: Config) -> QlogFolder | None:
    path = config.qlog_dir or os.environ.get("QLOGDIR")
    if not path:
        return None
    if not Path(path).is_dir():
        raise ConfigError(f"qlog_dir {os.fspath(path)!r} is not a folder")
    return QlogFolder(Path(path).absolute())
