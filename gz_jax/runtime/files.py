"""Writing files whole or not at all."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

unfinished: set[str] = set()  # this process's temporary files and locks; `interrupts` deletes them at the end


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str], mode: str = "w", **kwargs: Any) -> Iterator[Any]:
    """Open a temporary file beside `path`. It is renamed to `path` when the block ends without an error."""
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
            error.filename = os.fspath(path)  # a full disk's error names no file
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    finally:
        unfinished.discard(name)


def with_home(paths: str) -> str:
    """Replace `~` and `~user` by the home folder at the start of a path, or of several with commas between."""
    return ",".join(map(os.path.expanduser, paths.split(",")))


FORMULA = "=+-@\t\r\n'"


def harmless(text: str) -> str:
    """Text for a CSV that no spreadsheet reads as a formula; `original` undoes the change.

    If the first character is one of `FORMULA`, which contains the apostrophe, an apostrophe is put in front.
    """
    return f"'{text}" if text.startswith(tuple(FORMULA)) else text


def original(text: str) -> str:
    """The text that `harmless` was given."""
    return text.removeprefix("'")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write indented JSON, whole or not at all."""
    with atomic(path) as file:
        json.dump(data, file, indent=2)
        file.write("\n")
