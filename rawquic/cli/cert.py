"""`rawquic cert`: a self-signed certificate and its key, in two files."""

import os
from pathlib import Path

import click

from rawquic.cli.options import verbose_option
from rawquic.selfsigned import MAX_DAYS, certificate_sha256, self_signed

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PRIVATE = 0o600
PUBLIC = 0o644


@click.command()
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=LOOPBACK,
    show_default="localhost, 127.0.0.1, ::1",
    help="A DNS name or IP address that the certificate is for; repeat it for more.",
)
@click.option(
    "--days", type=click.IntRange(1, MAX_DAYS), default=14, show_default=True, help="Valid for."
)
@click.option(
    "--out-cert",
    type=click.Path(path_type=Path),
    default="cert.pem",
    show_default=True,
    help="Where the certificate goes, PEM.",
)
@click.option(
    "--out-key",
    type=click.Path(path_type=Path),
    default="key.pem",
    show_default=True,
    help="Readable by its owner only (mode 0600).",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@verbose_option
def cert(hosts: tuple[str, ...], days: int, out_cert: Path, out_key: Path, force: bool) -> None:
    """Write a self-signed certificate.

    The private key goes to a file of its own.

    \b
    Examples:
      rawquic cert
      rawquic cert --host example.org --host 192.0.2.7 --days 30
      rawquic cert --out-cert server.pem --out-key server.key --force
    """
    if out_cert.absolute() == out_key.absolute():
        raise click.UsageError("--out-cert and --out-key are the same file")
    existing = [str(path) for path in (out_cert, out_key) if os.path.lexists(path)]
    if existing and not force:
        raise click.ClickException(f"already there: {', '.join(existing)} (--force overwrites)")
    try:
        certificate, key = self_signed(hosts, days)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _replace({out_key: (key, PRIVATE), out_cert: (certificate, PUBLIC)})
    click.echo(f"{out_cert}: certificate for {', '.join(hosts)}, {days} days")
    click.echo(f"{out_key}: private key")
    click.echo(f"sha256 {certificate_sha256(certificate)}")


def _replace(files: dict[Path, tuple[bytes, int]]) -> None:
    """Put a new file, with its own mode, in the place of each path: all of them, or none."""
    new = {path.with_name(f"{path.name}.{os.getpid()}.new"): path for path in files}
    try:
        for path in new:
            content, mode = files[new[path]]
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
        for path in new:
            path.replace(new[path])
    except OSError as error:
        failed = new[path]
        raise click.ClickException(f"cannot write {failed}: {error.strerror}") from None
    finally:
        for path in new:
            path.unlink(missing_ok=True)
