"""A catalogue of image files (folder, glob, zip, table), and its cutouts in batches, in order."""

import collections
import concurrent.futures
import csv as python_csv
import glob
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from gz_jax.data import archive, images
from gz_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz")

MAX_ROWS = 100_000_000  # of a table
MAX_ID = 1_000  # characters; NumPy gives every id as much room as the longest


class Catalogue(NamedTuple):
    """Image files in a fixed order. `ids`: int64 or str [n], unique; `read(i)`: bytes, or a path to read."""

    ids: np.ndarray
    read: Callable[[int], bytes | pathlib.Path]
    where: str


def list_inputs(spec: str | os.PathLike[str], *, id_column: str = "id", file_column: str = "file") -> Catalogue:
    """The images that `spec` names; none is opened yet.

    Args:
      spec: a folder (searched through), a glob, a zip (Kaggle's images_test_rev1.zip), or a CSV or Parquet
        table with `id_column` and `file_column`, whose relative paths start at the table's folder.

    Returns:
      The catalogue, in the table's order, else sorted by id. Without a table the id is the path below the
      files' common folder, without suffix. Ids that are all whole numbers are int64.

    Raises:
      UserError: nothing there, no images, a column missing, an id missing or used twice.
    """
    path, text = pathlib.Path(spec), os.fspath(spec)
    if path.is_dir():
        return _of_files([p for p in path.rglob("*") if _is_image(p)], text)
    if not path.exists():
        found = [pathlib.Path(p) for p in glob.glob(text, recursive=True)] if glob.has_magic(text) else []
        if not found:
            raise UserError(f"no such input: {text}; give a folder, a glob, a zip, or a CSV or Parquet table")
        return _of_files([p for p in found if _is_image(p)], text)
    if path.suffix.lower() == ".zip":
        return _of_zip(path)
    if path.suffix.lower() in (".csv", ".parquet"):
        return _of_table(path, id_column, file_column)
    if _is_image(path):
        return _of_files([path], text)
    raise UserError(f"{text} is no folder, zip, CSV, Parquet or image file")


def _is_image(path: pathlib.Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _without_suffix(name: str) -> str:
    return name[: -max(len(s) for s in SUFFIXES if name.lower().endswith(s))]


def _of_names(names: list[str], where: str) -> tuple[np.ndarray, pa.Array]:
    """Ids and names, sorted by id."""
    if not names:
        raise UserError(f"{where}: no image files ({', '.join(SUFFIXES)})")
    common = os.path.commonpath([os.path.dirname(name) for name in names])
    ids = _ids([_without_suffix(os.path.relpath(name, common or ".")) for name in names], where)
    order = np.argsort(ids, kind="stable")
    return ids[order], pa.array(map(os.fsencode, names)).take(pa.array(order))  # not all names are Unicode


def _of_files(files: list[pathlib.Path], where: str) -> Catalogue:
    ids, names = _of_names([os.path.abspath(p) for p in files], where)
    return Catalogue(ids, lambda i: pathlib.Path(os.fsdecode(names[i].as_py())), where)


def _of_zip(path: pathlib.Path) -> Catalogue:
    source = archive.from_zip(path, SUFFIXES)
    ids, names = _of_names(list(source.sizes), str(path))

    def read(i: int) -> bytes:
        return source.read(os.fsdecode(names[i].as_py()))

    return Catalogue(ids, read, str(path))


def _of_table(path: pathlib.Path, id_column: str, file_column: str) -> Catalogue:
    wanted = [id_column, file_column]
    try:
        is_csv = path.suffix.lower() == ".csv"
        there = _header(path) if is_csv else parquet.read_schema(path).names
        if missing := [name for name in wanted if name not in there]:
            names = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
            raise UserError(f"{path} has no column {' and '.join(map(repr, missing))}; it has {names}")
        if is_csv:
            # As text: an id of 007 is not 7, and an empty file name is a missing one.
            types = dict.fromkeys(wanted, pa.string())
            options = csv.ConvertOptions(column_types=types, include_columns=wanted, strings_can_be_null=True)
            table = csv.read_csv(path, convert_options=options)
        else:
            rows = parquet.read_metadata(path).num_rows  # a few kilobytes can repeat one value for ever
            if rows > MAX_ROWS:
                raise UserError(f"{path} says it has {rows} rows; more than {MAX_ROWS} are refused")
            table = parquet.read_table(path, columns=wanted, read_dictionary=wanted)
        ids, files = (_texts(table.column(name)) for name in wanted)
    except (pa.ArrowException, python_csv.Error, OSError, KeyError, ValueError, MemoryError) as error:
        raise UserError(f"cannot read {path} as a table: {error}") from error
    if not len(ids) or ids.null_count:
        raise UserError(f"{path}: {'no rows' if not len(ids) else f'{ids.null_count} rows without an id'}")
    longest = pc.max(pc.utf8_length(ids)).as_py()
    if longest > MAX_ID:
        raise UserError(f"{path}: the longest id has {longest} characters; more than {MAX_ID} are refused")

    def read(i: int) -> pathlib.Path:
        name = files[i].as_py()
        if not name:
            raise ValueError("the table names no file")
        return path.parent / name

    return Catalogue(_ids(ids.to_pylist(), str(path)), read, str(path))


def _header(path: pathlib.Path) -> list[str]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return next(python_csv.reader([file.readline(1 << 20)]), [])


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """A column as text, unless its texts would fill the memory."""
    if pa.types.is_dictionary(column.type):
        lengths = (pc.take(pc.binary_length(part.dictionary), part.indices) for part in column.chunks)
        total = sum(pc.sum(part).as_py() or 0 for part in lengths)
        if total > 2**31:
            raise ValueError(f"its texts take {total} bytes")
    texts = column.cast(pa.string()).combine_chunks()
    texts.validate(full=True)  # UTF-8
    return texts


def _ids(texts: list[str], where: str) -> np.ndarray:
    """int64 where every text is a whole number as one would print it, else str; each may come once only."""
    texts = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
    whole = all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in texts)
    ids = np.array(texts, np.int64) if whole else np.array(texts)
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        twice = values[counts > 1]
        raise UserError(f"{where}: {len(twice)} ids are used more than once, the first is {twice[0]}")
    return ids


def read_batches(
    catalogue: Catalogue,
    batch_size: int,
    *,
    size: int,
    turned: bool = False,
    start: int = 0,
    stop: int | None = None,
    workers: int | None = None,
    **how: Any,
) -> Iterator[dict[str, np.ndarray]]:
    """Cutouts of rows start..stop-1, decoded in threads, in order; the last batch may be smaller.

    Args:
      size, turned: see `images.read_cutout`; workers: threads; None takes one per processor.
      how: further arguments of `images.read_cutout`.

    Yields:
      {'index': int64 [B], 'image': uint8 [B, size, size, 3] or [B, 2, size, size, 3], 'flag': uint8 [B],
      'reason': object [B]}, reasons as str.
    """
    workers = workers or os.cpu_count() or 4

    def one(index: int) -> tuple[np.ndarray, int, str]:
        try:
            source = catalogue.read(index)
        except Exception as error:
            return images.black(size, turned), images.BAD, f"cannot be read: {error}"[:200]
        return images.read_cutout(source, size=size, turned=turned, **how)

    rows = iter(range(start, len(catalogue.ids) if stop is None else min(stop, len(catalogue.ids))))
    pending: collections.deque[tuple[int, concurrent.futures.Future]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for index in rows:
                    pending.append((index, pool.submit(one, index)))
                    if len(pending) >= 2 * batch_size + 2 * workers:
                        break
                batch = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
                if not batch:
                    return
                pictures, flags, reasons = zip(*(future.result() for _, future in batch), strict=True)
                yield {
                    "index": np.array([index for index, _ in batch], np.int64),
                    "image": np.stack(pictures),
                    "flag": np.array(flags, np.uint8),
                    "reason": np.array(reasons, object),
                }
        finally:
            for _, future in pending:
                future.cancel()
