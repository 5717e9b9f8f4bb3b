"""The command line."""

from typing import NoReturn


def main() -> NoReturn:
    """Run the program `trioserf`."""
    from trioserf.cli.program import main as run

    run()
