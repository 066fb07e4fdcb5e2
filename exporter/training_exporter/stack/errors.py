"""The one exception of this package that a command line shows to its user."""

from __future__ import annotations


class StackError(Exception):
    """Something that the user can put right: a missing program, a wrong setting, a server that does not start.

    The message is complete: what was wrong, where, and what is allowed. Command lines print it without a traceback
    and leave with exit status 2.
    """
