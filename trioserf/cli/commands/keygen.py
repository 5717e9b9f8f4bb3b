"""`keygen`: create an encryption key."""

import binascii
import os

import typer

from trioserf.cli.app import SerfCommand, more, new_app
from trioserf.cli.options import OwnFormat
from trioserf.cli.output import Output, check_format

KEY_BYTES = 32
"""Bytes of a key for AES-256."""

app = new_app()


class _KeygenCommand(SerfCommand):
    ignores_options = True


@app.command(
    cls=_KeygenCommand,
    epilog=more("keygen", "keygen --format=json", page="trioserf/agent/README.md, § Encryption"),
)
def keygen(ctx: typer.Context, output_format: OwnFormat = "text") -> None:
    """Create an encryption key.

    "trioserf agent -encrypt" and "trioserf keys" take such keys.
    """
    out: Output = ctx.obj
    check_format(output_format)
    key = new_key()
    out.line(key)
    out.record({"key": key})


def new_key() -> str:
    """Return a random key for AES-256, in base64."""
    return binascii.b2a_base64(os.urandom(KEY_BYTES), newline=False).decode("ascii")
