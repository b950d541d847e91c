"""Certificates made in memory are taken by those who are told to, and by nobody else."""

import datetime
import hashlib
import ssl

import pytest
from aioquic import tls
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from rawquic.selfsigned import MAX_DAYS, certificate_sha256, self_signed

# What is asked for, and the name that a client then verifies.
NAMES = [
    ("localhost", "localhost"),
    ("localhost.", "localhost"),
    ("127.0.0.1", "127.0.0.1"),
    ("::1", "::1"),
    ("fe80::1%eth0", "fe80::1"),
    ("*.example.org", "www.example.org"),
    ("bücher.example", "xn--bcher-kva.example"),
]


@pytest.mark.parametrize(("host", "name"), NAMES)
def test_is_its_own_trust_anchor(host, name):
    certificate, _ = self_signed([host])
    parsed = x509.load_pem_x509_certificate(certificate)
    tls.verify_certificate(parsed, server_name=name, cadata=certificate)


def test_holds_for_each_of_its_hosts():
    hosts = ["localhost", "example.org", "192.0.2.1"]
    certificate, _ = self_signed(hosts)
    parsed = x509.load_pem_x509_certificate(certificate)
    for host in hosts:
        tls.verify_certificate(parsed, server_name=host, cadata=certificate)


def test_does_not_hold_for_another_name():
    certificate, _ = self_signed(["localhost"])
    with pytest.raises(tls.AlertBadCertificate, match="doesn't match"):
        tls.verify_certificate(
            x509.load_pem_x509_certificate(certificate),
            server_name="example.org",
            cadata=certificate,
        )


@pytest.mark.parametrize("trusted", ["another one", "the system's"])
def test_is_not_trusted_by_others(trusted):
    certificate, _ = self_signed(["localhost"])
    cadata = self_signed(["localhost"])[0] if trusted == "another one" else None
    with pytest.raises(tls.AlertBadCertificate):
        tls.verify_certificate(
            x509.load_pem_x509_certificate(certificate), server_name="localhost", cadata=cadata
        )


def test_key_belongs_to_the_certificate(tmp_path):
    certificate, key = self_signed(["localhost"])
    (tmp_path / "pair.pem").write_bytes(certificate + key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "pair.pem")


def test_each_has_its_own_key():
    assert self_signed(["localhost"])[1] != self_signed(["localhost"])[1]


@pytest.mark.parametrize("days", [1, 14, MAX_DAYS])
def test_is_valid_for_that_many_days(days):
    certificate = x509.load_pem_x509_certificate(self_signed(["localhost"], days)[0])
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    assert end - start == datetime.timedelta(days=days)
    assert start < datetime.datetime.now(datetime.UTC) < end


def test_is_no_authority():
    certificate = x509.load_pem_x509_certificate(self_signed(["localhost"])[0])
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_sha256_is_that_of_the_der_form():
    certificate, _ = self_signed(["localhost"])
    der = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)
    assert certificate_sha256(certificate) == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("hosts", [[], [""], ["a b"], ["https://x"], ["x:1"], ["*"], ["a..b"]])
def test_a_host_that_cannot_be(hosts):
    with pytest.raises(ValueError, match="host"):
        self_signed(hosts)


def test_one_string_is_no_list_of_hosts():
    with pytest.raises(ValueError, match="not one string"):
        self_signed("localhost")


@pytest.mark.parametrize("days", [0, -1, MAX_DAYS + 1])
def test_days_out_of_range(days):
    with pytest.raises(ValueError, match=f"1 to {MAX_DAYS}"):
        self_signed(["localhost"], days)
