"""`version`: ours, and the protocol's."""

from trioserf import __version__
from trioserf.cli.flags import OurFormat
from trioserf.cli.output import Out, check_format

PROTOCOL = 5
OLDEST_PROTOCOL = 2


def version(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    output_format: OurFormat = "text",
) -> int:
    """Print the version of this program and of the protocol that it speaks."""
    check_format(output_format, "Invalid format: {}")
    out.line(__version__)
    out.line(f"Agent Protocol: {PROTOCOL} (Understands back to: {OLDEST_PROTOCOL})")
    out.record({"version": __version__, "protocol": {"max": PROTOCOL, "min": OLDEST_PROTOCOL}})
    return 0
