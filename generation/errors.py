"""The one base of all errors that a user can fix."""


class CrossviewError(ValueError):
    """Something a user can fix: says what was expected, what was found, where, and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """
