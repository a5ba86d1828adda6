"""The one exception for a user's mistake."""

_MOST = 8_000  # characters of a message; a hostile file name must not fill the screen


class UserError(Exception):
    """Bad input. The text says what is wrong, where, and what to do; the command prints only it, with exit status 2.

    Control characters, and others that a terminal cannot show, are written as escapes. A very long text is cut.
    """

    def __init__(self, message: object):
        text = str(message)
        cut = f" ... and {len(text) - _MOST} characters more" if len(text) > _MOST else ""
        super().__init__("".join(map(_printable, text[:_MOST])) + cut)


def _printable(character: str) -> str:
    shown = character.isprintable() or character == "\n"
    return character if shown else character.encode("unicode_escape", "backslashreplace").decode()


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type's name where it has no text."""
    return next(iter(str(error).splitlines()), type(error).__name__)
