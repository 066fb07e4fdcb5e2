"""Exceptions that end a command with a message instead of a traceback."""


class UsageError(Exception):
    """Input that the user can correct: a file, a record or a setting. The command line prints it and exits with 2.

    The message names what was wrong, where, what was found and what is allowed, in one line.
    """


class RunFailed(Exception):
    """The training cannot go on, for a reason that the message says in full. The command line exits with 1."""
