"""The one exception for a user's mistake."""


class UserError(Exception):
    """Bad input. Its text says what is wrong, where, and what to do; `launch.py` prints it alone and exits 2."""
