"""Certificates, keys, trust anchors and pins: what is taken, and what the errors name."""

import traceback
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from pair import Pair, certificate, is_open, ours

from rawquic.certificates import (
    Identity,
    fingerprint,
    load_identity,
    load_trust_anchors,
    parse_pins,
)
from rawquic.config import Config
from rawquic.connection.plain import PlainConnection
from rawquic.endpoint.routing import Routes
from rawquic.errors import ConfigError
from rawquic.selfsigned import self_signed
from rawquic.tls import client_configuration

CERT, KEY = self_signed(["localhost"])
OTHER_CERT, OTHER_KEY = self_signed(["localhost"])
DER = x509.load_pem_x509_certificate(CERT).public_bytes(serialization.Encoding.DER)
OTHER_DER = x509.load_pem_x509_certificate(OTHER_CERT).public_bytes(serialization.Encoding.DER)


def encrypted(password: bytes, form: serialization.PrivateFormat) -> bytes:
    key = serialization.load_pem_private_key(KEY, None)
    return key.private_bytes(
        serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(password)
    )


PKCS8 = encrypted(b"secret", serialization.PrivateFormat.PKCS8)
TRADITIONAL = encrypted(b"secret", serialization.PrivateFormat.TraditionalOpenSSL)


def key_pem(key: object) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(CERT)
    key.write_bytes(KEY)
    return cert, key


def is_ours(identity: Identity) -> bool:
    return (
        identity.certificate == x509.load_pem_x509_certificate(CERT)
        and identity.private_key.public_key() == identity.certificate.public_key()
    )


# -- certificate and key ---------------------------------------------------------------------------


def test_from_paths(files: tuple[Path, Path]) -> None:
    cert, key = files
    assert is_ours(load_identity(cert, key))
    assert is_ours(load_identity(str(cert), str(key)))
    assert load_identity(cert, key).chain == ()


def test_from_bytes_and_mixed(files: tuple[Path, Path]) -> None:
    cert, key = files
    assert is_ours(load_identity(CERT, KEY))
    assert is_ours(load_identity(CERT, key))
    assert is_ours(load_identity(cert, KEY))


def test_both_in_one(tmp_path: Path) -> None:
    for both in (CERT + KEY, KEY + CERT):
        assert is_ours(load_identity(both))
        (tmp_path / "both.pem").write_bytes(both)
        assert is_ours(load_identity(tmp_path / "both.pem"))


def test_a_chain() -> None:
    identity = load_identity(CERT + OTHER_CERT, KEY)
    assert is_ours(identity)
    assert identity.chain == (x509.load_pem_x509_certificate(OTHER_CERT),)


def test_carriage_returns_and_text_around() -> None:
    assert is_ours(load_identity(CERT.replace(b"\n", b"\r\n"), KEY.replace(b"\n", b"\r\n")))
    assert is_ours(load_identity(b"subject=/CN=x\n\n" + CERT, b"# a key\n" + KEY))


def test_ec_parameters_before_the_key() -> None:
    key = serialization.load_pem_private_key(KEY, None)
    traditional = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    before = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    assert is_ours(load_identity(CERT, before + traditional))


@pytest.mark.parametrize("pem", [PKCS8, TRADITIONAL], ids=["PKCS #8", "traditional"])
def test_an_encrypted_key(pem: bytes) -> None:
    assert is_ours(load_identity(CERT, pem, "secret"))
    assert is_ours(load_identity(CERT, pem, b"secret"))
    assert is_ours(load_identity(CERT + pem, None, "secret"))


@pytest.mark.parametrize("pem", [PKCS8, TRADITIONAL], ids=["PKCS #8", "traditional"])
def test_an_encrypted_key_without_its_password(pem: bytes) -> None:
    with pytest.raises(ConfigError, match=r"keyfile .*encrypted, give its password"):
        load_identity(CERT, pem)


@pytest.mark.parametrize("password", ["wrong", b"wrong", ""])
@pytest.mark.parametrize("pem", [PKCS8, TRADITIONAL], ids=["PKCS #8", "traditional"])
def test_a_wrong_password(pem: bytes, password: str | bytes) -> None:
    with pytest.raises(ConfigError, match=r"keyfile .*password"):
        load_identity(CERT, pem, password)


def test_a_password_of_another_type() -> None:
    with pytest.raises(ConfigError, match="password must be str or bytes, not int"):
        load_identity(CERT, PKCS8, 5)  # type: ignore[arg-type]


def test_a_password_that_is_not_needed_is_ignored() -> None:
    assert is_ours(load_identity(CERT, KEY, "secret"))


def test_a_key_of_another_certificate(files: tuple[Path, Path]) -> None:
    cert, _ = files
    with pytest.raises(ConfigError) as caught:
        load_identity(cert, OTHER_KEY)
    assert "does not match" in str(caught.value) and str(cert) in str(caught.value)


@pytest.mark.parametrize("role", ["certfile", "keyfile"])
def test_files_that_cannot_be_read(role: str, tmp_path: Path, files: tuple[Path, Path]) -> None:
    arguments = dict(zip(("certfile", "keyfile"), files, strict=True))
    for path, reason in ((tmp_path / "none.pem", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load_identity(**arguments | {role: path})
        assert role in str(caught.value)
        assert repr(str(path)) in str(caught.value) and reason in str(caught.value)


def test_a_path_with_a_zero_byte() -> None:
    with pytest.raises(ConfigError, match=r"certfile .*cannot be read"):
        load_identity("a\0b")


def texts(pem: bytes) -> list[str | Path]:
    """PEM where a path belongs, in what ways there are; the last as an environment may have it."""
    text = pem.decode()
    return [text, Path(text), "\n" + text, text.split("-----\n")[1], text.replace("\n", "\\n")]


def shown(error: BaseException) -> str:
    """All that a traceback has of it, and what it hides."""
    chain: list[BaseException | None] = [error, error.__cause__, error.__context__]
    return repr(chain) + "".join(traceback.format_exception(error))


@pytest.mark.parametrize("role", ["certfile", "keyfile"])
def test_pem_text_in_place_of_a_path_is_not_shown(role: str) -> None:
    arguments = {"certfile": CERT, "keyfile": KEY}
    for text in texts(KEY):
        with pytest.raises(ConfigError) as caught:
            load_identity(**arguments | {role: text})  # type: ignore[arg-type]
        message = f"{role} is PEM text: pass it as bytes, or the path of a file"
        assert str(caught.value) == message
        assert KEY.split(b"\n")[1].decode() not in shown(caught.value)


@pytest.mark.parametrize("key", [KEY[:-60], KEY[:90] + KEY[100:], KEY.split(b"\n")[1], PKCS8])
@pytest.mark.parametrize("password", [None, "a secret"])
def test_a_bad_key_is_not_shown(key: bytes, password: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load_identity(CERT, key, password)
    for line in (*key.split(b"\n")[:2], b"a secret"):
        assert line.startswith(b"-----") or line.decode() not in shown(caught.value)


@pytest.mark.parametrize("role", ["cafile", "capath"])
def test_anchors_as_text_in_place_of_a_path_are_not_shown(role: str) -> None:
    for text in texts(KEY):
        arguments = {"cafile": None, "capath": None, "cadata": None, role: text}
        with pytest.raises(ConfigError) as caught:
            load_trust_anchors(**arguments)  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"{role} is PEM text: ")
        assert "cadata" in str(caught.value)
        assert KEY.split(b"\n")[1].decode() not in shown(caught.value)


@pytest.mark.parametrize("value", [None, 5, ["x"]])
def test_a_certfile_that_is_no_path(value: object) -> None:
    with pytest.raises(ConfigError, match="certfile must be a path, or PEM as bytes, not"):
        load_identity(value, KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        (b"", KEY, "no PEM certificate in it"),
        (KEY, KEY, "no PEM certificate in it"),
        (DER, KEY, "no PEM certificate in it"),
        (CERT[:100], KEY, "not a valid PEM certificate"),
        (CERT.replace(b"M", b"N", 3), KEY, "not a valid PEM certificate"),
        (CERT, None, "no private key in it, and no keyfile was given"),
        (CERT, b"", "keyfile .*not a valid PEM private key"),
        (CERT, CERT, "keyfile .*not a valid PEM private key"),
        (CERT, KEY[:-60], "keyfile .*not a valid PEM private key"),
        (CERT + KEY[:-60], None, "certfile .*not a valid PEM private key"),
    ],
)
def test_what_cannot_be_parsed(cert: bytes, key: bytes | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_identity(cert, key)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256K1()),
        x25519.X25519PrivateKey.generate(),
        dsa.generate_private_key(1024),
    ],
    ids=["secp256k1", "X25519", "DSA"],
)
def test_keys_that_tls_1_3_cannot_sign_with(key: object) -> None:
    with pytest.raises(ConfigError, match=r"keyfile .*TLS 1\.3 keys are"):
        load_identity(CERT, key_pem(key))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "Ed448", "RSA"],
)
def test_keys_that_tls_1_3_can_sign_with_only_have_to_match(key: object) -> None:
    with pytest.raises(ConfigError, match="does not match the certificate"):
        load_identity(CERT, key_pem(key))


# -- trust anchors ---------------------------------------------------------------------------------


def certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


BOTH = certificates(CERT) + certificates(OTHER_CERT)


@pytest.mark.parametrize(
    "data",
    [
        CERT + OTHER_CERT,
        (CERT + OTHER_CERT).decode(),
        (CERT + OTHER_CERT).replace(b"\n", b"\r\n"),
        b"# first\n" + CERT + b"\n\n# second\n" + OTHER_CERT + b"\n",
        (CERT + OTHER_CERT).rstrip(),
        DER + OTHER_DER,
    ],
    ids=["PEM", "str", "CRLF", "text around", "no last line end", "DER"],
)
def test_cadata_becomes_pem_that_aioquic_can_split(data: str | bytes) -> None:
    anchors = load_trust_anchors(None, None, data)
    assert anchors["cafile"] is None and anchors["capath"] is None
    assert certificates(anchors["cadata"]) == BOTH
    assert anchors["cadata"].count(b"-----END CERTIFICATE-----\n") == 2
    assert b"#" not in anchors["cadata"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        "",
        b"hello",
        b"\x30",
        b"\x30\x84\xff\xff\xff\xff",
        DER[:-1],
        DER + b"\0",
        KEY,
        CERT[:200],
        b"\x30\x80",
    ],
    ids=repr,
)
def test_cadata_that_is_no_certificate(data: str | bytes) -> None:
    with pytest.raises(ConfigError, match="cadata: no valid certificate in PEM or DER"):
        load_trust_anchors(None, None, data)


def test_cafile_and_capath(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(CERT)
    anchors = load_trust_anchors(tmp_path / "ca.pem", tmp_path, None)
    assert anchors == {
        "cafile": str(tmp_path / "ca.pem"),
        "capath": str(tmp_path),
        "cadata": None,
    }


@pytest.mark.parametrize("name", ["ca.pem", "ca-crlf.pem", "ca.der"])
def test_every_cafile_that_is_taken_can_be_used(name: str, tmp_path: Path) -> None:
    pem, _ = certificate()
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    content = {"ca.pem": pem, "ca-crlf.pem": pem.replace(b"\n", b"\r\n"), "ca.der": der}
    (tmp_path / name).write_bytes(content[name])
    routes = Routes(None)
    client = PlainConnection(
        config=Config(),
        configuration=client_configuration(
            Config(),
            ["h3"],
            server_name="localhost",
            anchors=load_trust_anchors(tmp_path / name, None, None),
            verify=True,
            identity=None,
        ),
        new_connection_id=routes.new_connection_id,
        reset_token=routes.reset_token,
    )
    server = ours(False, odcid=client.original_destination_connection_id)
    assert is_open(Pair(client, server).handshake().client)


def test_anchors_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cafile .*none.*cannot be read: No such file"):
        load_trust_anchors(tmp_path / "none", None, None)
    with pytest.raises(ConfigError, match=r"capath .*none.*not a folder"):
        load_trust_anchors(None, tmp_path / "none", None)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cafile .*empty.*no valid certificate"):
        load_trust_anchors(tmp_path / "empty", None, None)
    with pytest.raises(ConfigError, match=r"capath .*empty.*not a folder"):
        load_trust_anchors(None, tmp_path / "empty", None)


@pytest.mark.parametrize("role", ["cafile", "capath"])
def test_anchors_that_are_no_path(role: str) -> None:
    arguments = {"cafile": None, "capath": None, "cadata": None, role: CERT}
    with pytest.raises(ConfigError, match=f"{role} must be a path, not bytes"):
        load_trust_anchors(**arguments)  # type: ignore[arg-type]


def test_no_anchors() -> None:
    assert load_trust_anchors(None, None, None) == {"cafile": None, "capath": None, "cadata": None}


# -- pins ------------------------------------------------------------------------------------------

PIN = fingerprint(certificates(CERT)[0])


def test_fingerprint() -> None:
    import hashlib

    assert hashlib.sha256(DER).digest() == PIN


@pytest.mark.parametrize(
    "pins",
    [
        PIN,
        PIN.hex(),
        PIN.hex().upper(),
        PIN.hex(":"),
        [PIN],
        (PIN.hex(":"), PIN),
        {PIN},
        iter([f" {PIN.hex()}\n"]),
    ],
    ids=["bytes", "hex", "upper", "colons", "list", "twice", "set", "spaces"],
)
def test_pins(pins: object) -> None:
    assert parse_pins(pins) == frozenset({PIN})  # type: ignore[arg-type]


def test_no_pins() -> None:
    assert parse_pins(()) == frozenset()


@pytest.mark.parametrize(
    "pins", ["", b"", "ab", PIN[:31], PIN + b"x", PIN.hex()[:-1], "zz" * 32, [PIN, 5], ["é" * 64]]
)
def test_bad_pins(pins: object) -> None:
    with pytest.raises(ConfigError, match=r"pinned_sha256: .* is not a SHA-256"):
        parse_pins(pins)  # type: ignore[arg-type]
