"""Log lines about the runs of a handler's script: cut, and limited for each script.

Other hosts cause events, so they can cause as many of these lines (see `log_limits`).
"""

import logging
from typing import Any, Final

from trioserf.agent.log_limits import LIMITED_BY
from trioserf.agent.script_runner import Result

LOGGED_ERROR: Final = 200
"""Last characters of a failed script's output, of which the last line is logged."""
LOGGED_OUTPUT: Final = 500
"""Last characters of each script's output that are logged at level DEBUG."""

_log = logging.getLogger("trioserf.agent")


def log_of(script: str) -> "logging.LoggerAdapter[Any]":
    """Return the logger of lines about a script, which are limited together."""
    return logging.LoggerAdapter(_log, {LIMITED_BY: script})


def log_run(script: str, kind: str, result: Result | None, timeout: float) -> bool:
    """Log a run with its output; return whether it failed.

    Args:
        script: the script.
        kind: the kind of the event.
        result: its result; None if it did not end within the timeout.
        timeout: the timeout in seconds.
    """
    log = log_of(script)
    if result is None:
        failure = f"killed after {timeout:g} s"
    else:
        failure = result.failure
        text = result.output.decode("utf-8", "backslashreplace")
        last = text.strip()[-LOGGED_ERROR:]
        if failure and last:
            # The last line of a failed script is most often its error.
            failure += f": {last.splitlines()[-1]}"
        if result.lost:
            log.warning("Script '%s' generated %d bytes too much output", script, result.lost)
        if result.left:
            log.warning("Script '%s' left processes with its output: %s", script, result.left)
        shown = text if len(text) <= LOGGED_OUTPUT else f"…{text[-LOGGED_OUTPUT:]}"
        log.debug("Event '%s' script output: %s", kind, shown)
    if failure:
        named = {"script": script, "reason": failure}
        log.error("Error invoking script '%(script)s': %(reason)s", named)
    return bool(failure)
