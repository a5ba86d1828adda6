"""Columns of a FITS binary table, read in blocks of rows, so that a table of many and wide rows needs little memory."""

import bz2
import contextlib
import gzip
import io
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gz_jax.data.fits import MAX_BLOCKS

_BLOCK = 2880  # bytes; the unit of which FITS files are made
_AT_ONCE = 16 << 20  # bytes of rows in memory
_MAX_SKIPPED = 1 << 33  # bytes of other extensions in a compressed file; they must be unpacked to be skipped


class Found(NamedTuple):
    """What a FITS file holds: the columns asked for, or None; the column names of its tables; whether it has an image.

    The search ends at the table, so that an image behind it does not count.
    """

    columns: list[pa.ChunkedArray] | None
    tables: list[list[str]]
    has_image: bool


def read_columns(path: str | os.PathLike[str], names: Sequence[str], max_rows: int) -> Found:
    """Columns of the first binary table that has all of them, in any extension; plain, .gz or .bz2.

    Text comes stripped of spaces, and null where TNULL says so. A file whose headers cannot be read has no table.

    Raises:
      ValueError: a column that is no scalar, a truncated or damaged table, more than `max_rows` rows.
      OSError, EOFError: the file cannot be read.
    """
    from astropy.io import (
        fits,
    )  # not at the top: importing it takes a third of a second, and many users have no FITS files

    with contextlib.closing(_open(path)) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tables: list[list[str]] = []
        has_image, blocks, skipped = False, 0, 0
        try:
            while (found := _header(file, MAX_BLOCKS - blocks)) is not None:
                blocks += len(found) // _BLOCK
                header = fits.Header.fromstring(found.decode("ascii"))
                length = _data_bytes(header)
                if header.get("XTENSION") == "BINTABLE" and not header.get("ZIMAGE"):
                    tables.append([str(header.get(f"TTYPE{i + 1}", "")) for i in range(min(header["TFIELDS"], 999))])
                    if set(names) <= set(tables[-1]):
                        break
                else:
                    has_image |= length > 0
                skipped += length
                if not _skip(file, length + -length % _BLOCK, skipped):
                    return Found(None, tables, has_image)
            else:
                return Found(None, tables, has_image)
        except Exception:  # astropy raises anything on hostile headers; the reader of images says what is wrong
            return Found(None, tables, True)
        try:
            return Found(_rows(file, header, names, max_rows), tables, has_image)
        except (ValueError, OSError, EOFError):
            raise
        except Exception as error:
            raise ValueError(f"damaged: {error}") from error


def _open(path: str | os.PathLike[str]) -> io.BufferedIOBase:
    with open(path, "rb") as file:
        start = file.read(3)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    return bz2.open(path) if start == b"BZh" else open(path, "rb")


def _header(file: io.BufferedIOBase, most: int) -> bytes | None:
    """A header's blocks; None at the end of the file or where it holds no further header."""
    blocks: list[bytes] = []
    while len(blocks) < most and len(block := file.read(_BLOCK)) == _BLOCK:
        blocks.append(block)
        if not blocks[0].startswith((b"SIMPLE  =", b"XTENSION=")):
            return None
        if any(block[i : i + 8] == b"END     " for i in range(0, _BLOCK, 80)):
            return b"".join(blocks)
    return None


def _data_bytes(header: Any) -> int:
    """Bytes of data after a header, FITS standard 4.0, equations 1 and 2."""
    axes = [header[f"NAXIS{i + 1}"] for i in range(header["NAXIS"])]
    if not axes or (len(axes) > 1 and axes[0] == 0 and header.get("GROUPS")):
        return 0
    size = abs(header["BITPIX"]) // 8 * header.get("GCOUNT", 1) * (header.get("PCOUNT", 0) + math.prod(axes))
    if min(axes) < 0 or size < 0 or size > 2**62:
        raise ValueError("a header with impossible sizes")
    return size


def _skip(file: io.BufferedIOBase, count: int, so_far: int) -> bool:
    """Go on by `count` bytes; False where that would take too long, or the file ends."""
    if not isinstance(file, gzip.GzipFile | bz2.BZ2File):
        return bool(file.seek(count, os.SEEK_CUR))
    while so_far <= _MAX_SKIPPED and count and (data := file.read(min(count, 1 << 20))):
        count -= len(data)
    return not count


def _rows(file: io.BufferedIOBase, header: Any, names: Sequence[str], max_rows: int) -> list[pa.ChunkedArray]:
    from astropy.io import fits

    total, width = header["NAXIS2"], header["NAXIS1"]
    if total > max_rows:
        raise ValueError(f"it says it has {total} rows; more than {max_rows} are refused")
    if width > _AT_ONCE:
        raise ValueError(f"a row of {width} bytes")
    parts: dict[str, list[pa.Array]] = {name: [] for name in names}
    header["PCOUNT"] = 0  # data after the rows are not read
    for start in range(0, total, step := max(1, _AT_ONCE // max(width, 1))):
        header["NAXIS2"] = count = min(step, total - start)
        data = file.read(count * width)
        if len(data) < count * width:
            raise ValueError(f"truncated: {start + len(data) // width} of {total} rows are there")
        block = header.tostring().encode("ascii") + data + bytes(-len(data) % _BLOCK)
        table = fits.BinTableHDU.fromstring(block, uint=True, character_as_bytes=True)
        for name in parts:
            parts[name].append(_column(table, name))
    return [pa.chunked_array(parts[name], type=None if total else pa.string()) for name in names]


def _column(table: Any, name: str) -> pa.Array:
    column, values = table.columns[name], np.asarray(table.data[name])
    if values.ndim != 1 or values.dtype.kind not in "Siuf":
        raise ValueError(f"column {name!r} has the format {column.format}: each row must have a text or one number")
    if values.dtype.kind == "S":  # to its first NUL, by the standard
        return pa.array([value.partition(b"\0")[0].strip() for value in values.tolist()], pa.binary())
    missing = None if column.null is None or values.dtype.kind == "f" else values == column.null
    return pa.array(values.astype(values.dtype.newbyteorder("=")), mask=missing)
