"""The one exception that reaches a user as a message instead of a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can put right: bad input, a bad setting, a file that is missing or damaged.

    The message gives the value found, what would be legal, and the remedy. The command line prints it without a
    traceback and exits with 1; from Python it is an ordinary ``ValueError``.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {matches[0]!r}?" if matches else ""
