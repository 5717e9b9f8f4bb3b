"""What holds for all tests."""

import signal

from hypothesis import settings

# How long an example takes says how busy the machine is, nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# What a shell runs in the background ignores SIGINT, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
