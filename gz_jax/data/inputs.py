"""A catalogue of image files (folder, glob, zip or table), and its cutouts, in order and in batches."""

import collections
import concurrent.futures
import functools
import glob
import hashlib
import itertools
import os
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gz_jax.data import archive, identifiers, images, listing, places, tables
from gz_jax.data.sight import Sight
from gz_jax.runtime.errors import UserError

FITS_SUFFIXES = tuple(kind + packed for kind in (".fits", ".fit", ".fts") for packed in ("", ".gz", ".bz2", ".fz"))
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
SUFFIXES = (*PICTURE_SUFFIXES, *FITS_SUFFIXES)
READ = "JPEG, PNG, TIFF and FITS are read"

_SHOWN = 8  # suffixes named in a message


class Catalogue(NamedTuple):
    """Image files in a fixed order.

    Attributes:
      ids: int64 or str [n], unique.
      read: row to bytes, or a path to read, or three of them (red, green, blue). Raises UserError, OSError, ValueError.
      where: what was listed, for messages.
      files: str [n], the files' names as a table has them (three with ' + ' between), else below the listed folder;
        None for images in memory.
      stamps: str [n], size and CRC of files in a zip; None elsewhere.
      scales: float64 [n], arcsec per pixel as a table's column has them, null where it has none; None without it.
      left_out: how many files were not taken, by suffix or reason.
    """

    ids: np.ndarray
    read: Callable[[int], bytes | pathlib.Path | tuple[bytes | pathlib.Path, ...]]
    where: str
    files: pa.Array | None = None
    stamps: pa.Array | None = None
    scales: pa.Array | None = None
    left_out: Mapping[str, int] = types.MappingProxyType({})


def list_inputs(
    spec: str | os.PathLike[str],
    *,
    id_column: str = "id",
    file_column: str = "file",
    file_columns: Sequence[str] = (),
    scale_column: str | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Catalogue:
    """The images that `spec` names; none is opened yet.

    Args:
      spec: a folder (searched through, symbolic links included), a glob, a zip (Kaggle's images_test_rev1.zip), or a
        table: CSV, Parquet or FITS, with `id_column` and `file_column`. A FITS file without such a table is one image.
      file_columns: three columns instead of `file_column`: a galaxy's files of its red, green and blue band.
      folder: where a table's files are, a folder or a zip; None: beside the table.
      scale_column: of a table, the images' arcsec per pixel; ignored where `spec` is something else.

    Returns:
      The catalogue, in the table's order, else sorted by id. Without a table the id is the path below the
      files' common folder, without suffix. Ids that are all whole numbers of 64 bits are int64, others text (see
      `identifiers.from_texts`). A table's relative paths start at its folder; see `places` for what else is tried,
      and for a zip beside it.

    Raises:
      UserError: nothing there, no images, a column missing, an id missing or used twice (also by files whose names
        differ in suffix alone), ids that have lost digits.
    """
    text = os.path.expanduser(os.fspath(spec))
    path, suffix = pathlib.Path(text), os.path.splitext(text)[1].lower()
    if file_columns and len(file_columns) != 3:
        raise UserError(f"{len(file_columns)} columns of files ({', '.join(file_columns)}): one, or three, are needed")
    if os.path.isdir(text):
        found = _of_files(listing.walk(text), lambda name: pathlib.Path(text, name), text)
    elif not os.path.exists(text):
        matches = listing.matches(text) if glob.has_magic(text) else []
        if not matches:
            raise UserError(f"no such input: {text}; give a folder, a glob, a zip, or a CSV, Parquet or FITS table")
        found = _of_paths(matches, text)
    elif suffix == ".zip":
        source = archive.from_zip(path, "")
        stamps = {name: f"{size} {source.checksums[name]}" for name, size in source.sizes.items() if _is_image(name)}
        found = _of_files(((name, "") for name in source.sizes), source.read, str(path), stamps)
    elif suffix in (".csv", ".parquet") or _is_image(text):
        columns, may_be_table = file_columns or [file_column], suffix not in PICTURE_SUFFIXES
        if may_be_table and (table := tables.read(path, id_column, columns)) is not None:
            scales = scale_column and _pixel_scales(path, table, [id_column, *columns, scale_column])
            return _of_table(path, table, columns, folder)._replace(scales=scales)
        found = _of_paths([text], text)
    else:
        raise UserError(f"{text} is no folder, zip, CSV, Parquet or FITS table, or image ({READ})")
    if file_columns:
        raise UserError(
            f"{text} is not a table, so it has no columns {', '.join(file_columns)}. If each galaxy has one file, say "
            "--file_columns= (empty)."
        )
    return found


def left_out_text(catalogue: Catalogue) -> str:
    """One line on the files that were not taken, for the user; '' where there are none."""
    return f"left out: {_counts(catalogue.left_out)}; {READ}" if catalogue.left_out else ""


def _counts(numbers: Mapping[str, int]) -> str:
    ordered = sorted(numbers.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(count for _, count in ordered[_SHOWN:])
    return ", ".join(f"{count} {what}" for what, count in ordered[:_SHOWN]) + (f", {rest} others" if rest else "")


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _kind(name: str) -> str:
    return os.path.splitext(name)[1].lower()[:20] or "without a suffix"


def _of_paths(paths: Iterable[str], where: str) -> Catalogue:
    files = (path for path in map(os.path.abspath, paths) if not listing.ignored(os.path.basename(path)))
    found = ((path, listing.fault(path)) for path in files if not os.path.isdir(path))
    return _of_files(found, pathlib.Path, where)


def _of_files(
    found: Iterable[tuple[str, str]],
    read: Callable[[str], bytes | pathlib.Path],
    where: str,
    stamps: Mapping[str, str] | None = None,
) -> Catalogue:
    """The images among files, given by name and fault (see `listing.walk`), sorted by id; `stamps` of a zip's."""
    names, left_out = [], collections.Counter[str]()
    for name, fault in found:
        if fault and not name:
            raise UserError(f"cannot list {where}: {fault}")
        if not fault and _is_image(name):
            names.append(name)
        else:
            left_out[fault or _kind(name)] += 1
    if not names:
        there = f"there are {_counts(left_out)}" if left_out else "there are no files"
        raise UserError(f"{where}: no image files ({READ}); {there}")
    names.sort()
    # Zips made on Windows may have backslashes.
    shown = names if stamps is None else [name.replace("\\", "/") for name in names]
    common = os.path.commonpath([os.path.dirname(name) for name in shown])
    start = len(os.path.join(common, ""))
    ids = identifiers.from_texts(_unicode(_without_suffix(name[start:]) for name in shown))
    count, rows = identifiers.repeated(ids)
    if count:
        first, second = (names[row][start:] for row in rows[:2])
        raise UserError(
            f"{where}: {_ids(count)} used more than once, the first is {ids[rows[0]]}, by {first} and {second}: files "
            "whose names differ only in the suffix have the same id. Choose one kind by a glob, for example "
            f"'FOLDER/**/*{_kind(first)}', or use a table"
        )
    order = np.argsort(ids, kind="stable")
    names = [names[row] for row in order]
    kept = pa.array(map(os.fsencode, names))
    return Catalogue(
        ids[order],
        lambda i: read(os.fsdecode(kept[i].as_py())),
        where,
        _unicode(name[start:] for name in names),
        None if stamps is None else pa.array(map(stamps.get, names), pa.string()),
        left_out=dict(left_out),
    )


def _unicode(names: Iterable[str]) -> pa.Array:
    """Names of files as string [n]; bytes that are not Unicode are written as escapes."""
    return pa.array((name.encode("utf-8", "backslashreplace") for name in names), pa.binary()).cast(pa.string())


def _ids(count: int) -> str:
    return f"{count} ids are" if count > 1 else "1 id is"


def _without_suffix(name: str) -> str:
    return name[: -max(len(s) for s in SUFFIXES if name.lower().endswith(s))]


def _of_table(
    path: pathlib.Path, table: tables.Table, columns: Sequence[str], folder: str | os.PathLike[str] | None
) -> Catalogue:
    ids = identifiers.from_texts(table.ids)
    count, rows = identifiers.repeated(ids)
    files = table.files
    if count:
        some = " and ".join(f"{row + 1} ({files[0][row].as_py()})" for row in rows[:2].tolist())
        raise UserError(f"{path}: {_ids(count)} used more than once, the first is {ids[rows[0]]}, in rows {some}")

    place = places.find_place(path, files[0], folder)
    rows_of = functools.partial(places.row_files, files, columns)

    def read(i: int) -> bytes | pathlib.Path | tuple[bytes | pathlib.Path, ...]:
        found = [place.read(place.find(name)) for name in rows_of(i)]
        return tuple(found) if len(found) > 1 else found[0]

    pa.default_memory_pool().release_unused()  # half a gigabyte after 10^7 rows
    return Catalogue(ids, read, str(path), places.joined_files(files))


def _pixel_scales(path: pathlib.Path, table: tables.Table, columns: Sequence[str]) -> pa.Array:
    """The last of these columns, arcsec per pixel as float64 [n]; what is no positive number is null.

    Raises:
      UserError: there is no such column, or no pixel scale in it.
    """
    if text := tables.lacking(table.names, columns[-1:]):
        raise UserError(f"{path} has {text}. Give --pixel_scale=NUMBER (arcsec per pixel), or --pixel_scale=COLUMN")
    found = tables.columns(path, list(dict.fromkeys(columns)))[columns[-1]]
    values = tables.numbers(path, columns[-1], found, lambda row, text: None)
    scales = pa.array(values, mask=~((values > 0) & (values < np.inf)))
    if scales.null_count == len(scales):
        raise UserError(f"{path}: column {columns[-1]!r} holds no pixel scale, a positive number of arcsec per pixel")
    return scales


def digest(columns: Iterable[pa.Array]) -> str:
    """16 hex digits of columns of text, without a copy of them."""
    found = hashlib.sha256()
    for column in columns:
        lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False)
        found.update(np.ascontiguousarray(lengths).data)
        if column.null_count:
            column = pc.fill_null(column, "")
        if not len(column):
            continue
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        found.update(memoryview(data or b"")[ends[0] : ends[-1]])
    return found.hexdigest()[:16]


def read_row(catalogue: Catalogue, index: int, *, size: int, turned: bool, sight: Sight) -> tuple[np.ndarray, int, str]:
    """`images.read_cutout` of one row, with a flag and a reason where the catalogue lacks the file or pixel scale."""

    def opened() -> tuple[Any, dict[str, Any]]:
        scale = None if catalogue.scales is None else catalogue.scales[index].as_py()
        return catalogue.read(index), sight.arguments(scale)

    return images.read_opened(opened, size=size, turned=turned)


def read_batches(
    catalogue: Catalogue,
    batch_size: int,
    *,
    size: int,
    turned: bool = False,
    start: int = 0,
    stop: int | None = None,
    workers: int | None = None,
    sight: Sight = Sight(),  # noqa: B008 (immutable)
) -> Iterator[dict[str, np.ndarray]]:
    """Cutouts of rows start..stop-1, decoded in threads, in order; the last batch may be smaller.

    Args:
      size, turned: see `images.read_cutout`; workers: threads; None takes one per processor.
      sight: what is looked at.

    Yields:
      {'index': int64 [B], 'image': uint8 [B, size, size, 3] or [B, 2, size, size, 3], 'flag': uint8 [B],
      'reason': object [B]}, reasons as str.
    """
    workers = workers or os.cpu_count() or 4
    one = functools.partial(read_row, catalogue, size=size, turned=turned, sight=sight)
    stop = len(catalogue.ids) if stop is None else min(stop, len(catalogue.ids))
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        submitted = (pool.submit(one, index) for index in range(start, stop))
        try:
            for first in range(start, stop, batch_size):
                pending.extend(itertools.islice(submitted, 2 * batch_size + 2 * workers - len(pending)))
                batch = [pending.popleft().result() for _ in range(min(batch_size, stop - first))]
                pictures, flags, reasons = zip(*batch, strict=True)
                yield {
                    "index": np.arange(first, first + len(batch)),
                    "image": np.stack(pictures),
                    "flag": np.array(flags, np.uint8),
                    "reason": np.array(reasons, object),
                }
        finally:
            for future in pending:
                future.cancel()
