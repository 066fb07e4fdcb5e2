"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# Each run of a developer tries other examples; a landing is judged on the same ones every time. No deadline: the
# machine's load is no property of the code.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
