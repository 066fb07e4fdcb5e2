"""What all tests share."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Each run of a developer tries other examples; a landing is judged on the same ones every time. No deadline: the
# machine's load is no property of the code.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

# Who runs the tests in the background (nohup, a shell without job control) has signals ignored, and children inherit
# that; what they do on a signal is what is tested.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
