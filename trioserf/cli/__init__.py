"""The command line."""

from typing import NoReturn


def main() -> NoReturn:
    """Run the program `trioserf`; an interrupted one dies of the signal."""
    try:
        from trioserf.cli.program import main as run

        run()
    except KeyboardInterrupt:
        import os
        import signal

        # Not by an exit code: shells and their loops are to see an interruption.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise
