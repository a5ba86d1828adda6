"""Writing files whole or not at all."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

unfinished: set[str] = set()  # this process's temporary files and locks, for who ends it (see `interrupts`)


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str], mode: str = "w", **kwargs: Any) -> Iterator[Any]:
    """Open a temporary file beside `path`; it takes that name when the block ends without an error."""
    path = pathlib.Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    unfinished.add(name)
    try:
        with os.fdopen(handle, mode, **kwargs) as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = os.fspath(path)  # a full disk does not say of which file
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    finally:
        unfinished.discard(name)


def with_home(paths: str) -> str:
    """A path, or several with commas between, with `~` and `~user` at their start as the home folder."""
    return ",".join(map(os.path.expanduser, paths.split(",")))


FORMULA = "=+-@\t\r\n'"


def harmless(text: str) -> str:
    """Text for a CSV that no spreadsheet takes for a formula; `original` gives it back.

    One apostrophe goes in front where the first character is one of `FORMULA`, the apostrophe included.
    """
    return f"'{text}" if text.startswith(tuple(FORMULA)) else text


def original(text: str) -> str:
    """What `harmless` was given."""
    return text.removeprefix("'")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """JSON with an indent, whole or not at all."""
    with atomic(path) as file:
        json.dump(data, file, indent=2)
        file.write("\n")
