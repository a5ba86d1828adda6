"""Find the image files that a table names: beside it, in another folder, or in a zip."""

import itertools
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from gz_jax.data import archive, listing
from gz_jax.runtime.errors import UserError


def joined_files(files: Sequence[pa.Array]) -> pa.Array:
    """The files of each row as one text, string [n]: three with ' + ' between."""
    if len(files) == 1:
        return files[0]
    return pc.binary_join_element_wise(*files, " + ", null_handling="replace", null_replacement="")


def row_files(files: Sequence[pa.Array], columns: Sequence[str], i: int) -> list[str]:
    """The files that row i names. Raises ValueError: it names none."""
    found = [name[i].as_py() for name in files]
    for text, column in zip(found, columns, strict=True):
        if not text:
            raise ValueError("the table names no file" + f" in column {column!r}" * (len(files) > 1))
    return found


class Place(NamedTuple):
    """Where a table's files are: `find(name)` gives a path or a zip's entry; `read` what to open.

    `stamp` gives its version: its size and, in a zip, CRC as text; and the time of its last change in nanoseconds (0 in
    a zip), which copying a file may change.

    `find` raises UserError where there is no such file.
    """

    find: Callable[[str], Any]
    read: Callable[[Any], bytes | pathlib.Path]
    stamp: Callable[[Any], tuple[str, int]]


def find_place(table: pathlib.Path, files: pa.Array, images: str | os.PathLike[str] | None = None) -> Place:
    """The place of a table's files: the folder or zip `images`; None: beside the table.

    Where none of the first files is beside the table, and one zip is, the files are taken to be in that zip.

    Raises:
      UserError: there is no such folder or zip.
    """
    folder = table.parent if images is None else pathlib.Path(images).expanduser()
    first = list(itertools.islice(filter(None, (x.as_py() for x in files[:1000])), 20))
    if images is None and first and not any(_is_there(name, folder) for name in first):
        zips = [found for found in folder.glob("*.[zZ][iI][pP]") if not listing.ignored(found.name)]
        folder = zips[0] if len(zips) == 1 else folder
    if folder.is_dir():
        return Place(lambda name: find_file(name, folder), pathlib.Path, _stamp)
    if not folder.is_file():
        raise UserError(f"there is no folder or zip {folder} for the images of {table}")
    source = archive.from_zip(folder, "")
    known: dict[str, str] = {}
    for entry in source.sizes:  # below the zip's own folders, too; Windows' backslashes are slashes
        parts = entry.replace("\\", "/").split("/")
        known |= {name: "" if name in known else entry for k in range(1, len(parts)) if (name := "/".join(parts[k:]))}
    known |= {entry.replace("\\", "/"): entry for entry in source.sizes}

    def find(name: str) -> str:
        entry = known.get(name.strip().replace("\\", "/").removeprefix("./"))
        if not entry:
            several = "it holds several of this name" if entry == "" else "no such file"
            raise UserError(f"{several}: {name[-170:]} in {folder}")
        return entry

    return Place(find, source.read, lambda entry: (f"{source.sizes[entry]} {source.checksums[entry]}", 0))


def _stamp(path: str) -> tuple[str, int]:
    found = os.stat(path)
    return str(found.st_size), found.st_mtime_ns


def _is_there(name: str, folder: pathlib.Path) -> bool:
    try:
        return bool(find_file(name, folder))
    except UserError:
        return False


def find_file(name: str, folder: pathlib.Path) -> str:
    """A file as a table names it: below the table's folder, or absolute.

    Where there is none of exactly that name, tried are: without spaces around it, a file:// URL as its path, `~` as
    the home folder, and backslashes as slashes.

    Raises:
      UserError: there is no such file (with the full path that was looked for), or it is another URL.
    """
    if "\0" in name:
        raise UserError(f"no such file: {name[:170]!r}")
    path = os.path.join(folder, name)  # pathlib takes ten times as long, and a table may have a million rows
    if os.path.exists(path):
        return path
    text = name.strip()
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() == "file":
        text = urllib.parse.unquote(rest.removeprefix("localhost"))
    elif separator and scheme.isalnum():
        raise UserError(f"a URL, but only files can be read: {text}")
    for last in (text, os.path.expanduser(text), os.path.expanduser(text.replace("\\", "/"))):
        path = os.path.join(folder, last)
        if os.path.exists(path):
            return path
    tried = os.path.abspath(path)
    raise UserError(f"no such file: {tried if len(tried) < 180 else '...' + tried[-170:]}")
