"""What a person can do about a connection that did not come to be, behind the error about it."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

import rawquic
from rawquic.connection.closing import without_advice

TRUST = (
    "to trust it: --pin SHA256, as the server prints it, or --cafile FILE; "
    "--insecure trusts any certificate"
)
NOBODY = "is a server running there?"
CIPHER = "the server must allow it too: give both ends the same --cipher"

HANDSHAKE_FAILURE = 0x128  # TLS's alert 40 (RFC 8446 §6.2) as RFC 9001 §4.8 has it


@contextmanager
def connecting() -> Iterator[None]:
    """Around what connects: errors leave it with a hint."""
    try:
        yield
    except rawquic.CertificateInvalid as error:
        raise click.ClickException(f"{without_advice(error)} ({TRUST})") from error
    except rawquic.ConnectionRefused as error:
        if error.by_peer:  # there is a server
            raise
        raise click.ClickException(f"{error} ({NOBODY})") from error
    except rawquic.HandshakeTimeout as error:
        raise click.ClickException(f"{error} ({NOBODY})") from error
    except rawquic.HandshakeFailed as error:
        if error.code != HANDSHAKE_FAILURE or "cipher" not in str(error):
            raise
        raise click.ClickException(f"{error} ({CIPHER})") from error
