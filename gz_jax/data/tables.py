"""Read ids, file names and other wanted columns of tables of galaxies: CSV, Parquet or FITS."""

import csv as python_csv
import difflib
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from gz_jax.data import fits_table, identifiers
from gz_jax.runtime.errors import UserError
from gz_jax.trees.tree import listed

MAX_ROWS = 100_000_000
_SHOWN = 20  # columns of a table in a message
_COMPARED = 2_000  # columns among which similar names are looked for
_NOTHING = ("", "nan", "na", "n/a", "null", "none", "--")  # texts for a number that is missing
_PLAIN = r"^-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?$"  # numbers as most are written
_TEXT = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary,
    pa.types.is_binary_view, pa.types.is_fixed_size_binary,
)  # fmt: skip


class Table(NamedTuple):
    """Rows of a table as text: `ids` string [n], `files` (one per column) string [n] with null; its columns' names."""

    ids: pa.Array
    files: tuple[pa.Array, ...]
    names: tuple[str, ...] = ()


def read(path: pathlib.Path, id_column: str, file_columns: Sequence[str]) -> Table | None:
    """The columns of a .csv, .parquet or FITS table; None for a FITS file that holds an image and no such table.

    Raises:
      UserError: it cannot be read; a column missing; no rows; an id missing; ids that have lost digits.
    """
    table = load(path, id_column, file_columns)
    if table is not None and table.ids.null_count:
        raise UserError(f"{path}: {table.ids.null_count} rows without an id")
    return table


def load(path: pathlib.Path, id_column: str, file_columns: Sequence[str]) -> Table | None:
    """As `read`, with null for an id that is missing."""
    wanted = list(dict.fromkeys([id_column, *file_columns]))
    found = _checked(path, lambda: _columns(path, wanted))
    if found is None:
        return None
    by_name = dict(zip(wanted, found[0], strict=True))
    texts = _checked(path, lambda: identifiers.as_text(by_name[id_column], id_column))
    files = tuple(_checked(path, lambda: [identifiers.texts(by_name[name]) for name in file_columns]))
    if not len(texts):
        raise UserError(f"{path}: no rows")
    return Table(texts, files, tuple(found[1]))


def names(path: pathlib.Path, wanted: Sequence[str]) -> list[str]:
    """The columns of a table. A FITS file's is the first table that has all of `wanted`, else its first one.

    Raises:
      UserError: it cannot be read, or holds no table.
    """

    def get() -> list[str]:
        if path.suffix.lower() == ".csv":
            return _csv_names(path)
        if path.suffix.lower() == ".parquet":
            return parquet.read_schema(path).names
        tables = fits_table.read_columns(path, ["\0"], MAX_ROWS).tables
        if not tables:
            raise ValueError("it holds no table")
        return next((table for table in tables if set(wanted) <= set(table)), tables[0])

    return _checked(path, get)


def columns(path: pathlib.Path, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Further columns of a table by name; those of a CSV as text, '' as null.

    Raises:
      UserError: it cannot be read; a column is missing.
    """
    found = _checked(path, lambda: _columns(path, list(names)))
    if found is None:
        raise UserError(f"{path} has no table with the columns {', '.join(names)}")
    return dict(zip(names, found[0], strict=True))


def numbers(
    path: pathlib.Path, name: str, column: pa.ChunkedArray, no_number: Callable[[int, str], object]
) -> np.ndarray:
    """A column as float64 [n], NaN where missing; `no_number(row, text)` is called for texts that are not numbers.

    Raises:
      UserError: it holds neither numbers nor text.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not any(is_text(kind) for is_text in _TEXT):
        try:
            if pa.types.is_boolean(kind):
                raise pa.ArrowInvalid("true and false")
            values = column.cast(pa.float64(), safe=False)
        except pa.ArrowException as error:
            raise UserError(f"{path}: column {name!r} holds {kind}, not numbers ({error})") from error
        return pc.fill_null(values, np.nan).to_numpy().astype(np.float64)
    found = pc.utf8_trim_whitespace(texts(path, name, column))
    nothing = pc.is_in(pc.utf8_lower(found), pa.array(_NOTHING))
    found = pc.if_else(nothing, pa.scalar(None, pa.string()), found)
    others = np.flatnonzero(~pc.fill_null(pc.match_substring_regex(found, _PLAIN), True).to_numpy(zero_copy_only=False))
    if len(others):
        plain = np.ones(len(found), bool)
        plain[others] = False
        usual = pc.if_else(pa.array(plain), found, pa.scalar(None, pa.string()))
    else:
        usual = found
    values = pc.fill_null(usual.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
    for row in others.tolist():
        text = found[row].as_py()
        try:
            values[row] = float(text.replace("_", "x"))
        except ValueError:
            no_number(row, text)
    return values


def texts(path: pathlib.Path, name: str, column: pa.ChunkedArray) -> pa.Array:
    """A column as string [n]. Raises UserError: it holds something else."""
    try:
        return identifiers.texts(column)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path}: column {name!r} ({column.type}) cannot be read as text: {error}") from error


def _checked(path: pathlib.Path, get: Callable[[], Any]) -> Any:
    """What `get` returns, with the table's name in its errors."""
    try:
        return get()
    except UserError as error:
        raise UserError(error if str(error).startswith(str(path)) else f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path} as a table: it is not text in UTF-8 ({error.reason})") from error
    except (pa.ArrowException, python_csv.Error, OSError, EOFError, KeyError, ValueError, MemoryError) as error:
        raise UserError(f"cannot read {path} as a table: {error}") from error


def _columns(path: pathlib.Path, wanted: list[str]) -> tuple[list[pa.ChunkedArray], list[str]] | None:
    """Columns, and the names of all; None for a FITS file that holds an image and no such table."""
    if path.suffix.lower() == ".csv":
        return _csv(path, wanted)
    if path.suffix.lower() == ".parquet":
        return _parquet(path, wanted)
    found = fits_table.read_columns(path, wanted, MAX_ROWS)
    if found.columns is None:
        if found.tables and not found.has_image:
            _require(path, wanted, list(itertools.chain(*found.tables)))
        return None
    return found.columns, found.tables[-1]


def _csv_names(path: pathlib.Path) -> list[str]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return next(python_csv.reader([file.readline(1 << 20)]), [])


def _csv(path: pathlib.Path, wanted: list[str]) -> tuple[list[pa.ChunkedArray], list[str]]:
    _require(path, wanted, there := _csv_names(path))
    # As text: an id of 007 is not 7, and an empty file name is a missing one.
    types = dict.fromkeys(wanted, pa.string())
    options = csv.ConvertOptions(column_types=types, include_columns=wanted, strings_can_be_null=True)
    wrong: list[str] = []

    def keep_count(row: csv.InvalidRow) -> str:
        wrong.append(f"{row.text[:60]!r} has {row.actual_columns}")
        return "skip"

    parsing = csv.ParseOptions(invalid_row_handler=keep_count)
    found = csv.read_csv(path, parse_options=parsing, convert_options=options).columns
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        rows = f"{len(wrong)} rows do" if len(wrong) > 1 else "1 row does"
        raise UserError(f"{path}: {rows} not have {len(there)} fields, as the header: {'; '.join(wrong[:5])}{more}")
    return found, there


def _parquet(path: pathlib.Path, wanted: list[str]) -> tuple[list[pa.ChunkedArray], list[str]]:
    schema = parquet.read_schema(path)
    _require(path, wanted, there := schema.names)
    for name in wanted:
        if pa.types.is_nested(kind := schema.field(name).type):
            raise ValueError(f"column {name!r} holds {kind}: each row must have a text or one number")
    with parquet.ParquetFile(path, read_dictionary=wanted) as file:
        rows = file.metadata.num_rows  # a file of a few kilobytes can claim any number of rows
        if rows > MAX_ROWS:
            raise UserError(f"it says it has {rows} rows; more than {MAX_ROWS} are refused")
        table = file.read(columns=wanted)
        return [table.column(name) for name in wanted], there


def _require(path: pathlib.Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    """Refuse a table without a column, or with two of its name."""
    if twice := [name for name in wanted if there.count(name) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} more than once")
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    names = ", ".join(name or "a column without a name" for name in there[:_SHOWN]) or "no columns"
    names += f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    similar = {name: near for name in missing if (near := similar_names(name, there))}
    hint = "".join(f"; near {name!r}: {', '.join(map(repr, near))}" for name, near in similar.items())
    raise UserError(
        f"{path} has no column {' and '.join(map(repr, missing))}; it has {names}{hint}. "
        "Name the columns: --id_column=..., --file_column=... (or three of files: --file_columns=RED,GREEN,BLUE)"
    )


def lacking(there: Sequence[str], wanted: Sequence[str], at_most: int = 12) -> str:
    """What to say of the wanted columns that a table lacks, with the nearest that it has; '' where it has all."""
    missing = [name for name in wanted if name not in there]
    if not missing:
        return ""

    def one(name: str) -> str:
        near = similar_names(name, there)
        return repr(name) + (f" (near it: {', '.join(map(repr, near))})" if near else "")

    more = f" and {len(missing) - at_most} more" if len(missing) > at_most else ""
    return f"no column {', '.join(map(one, missing[:at_most]))}{more}; it has {listed(there, 20) or 'no columns'}"


def similar_names(name: str, there: Sequence[str]) -> list[str]:
    """Up to three columns whose names are like `name` or hold it, in any case of letters."""
    known = {other.strip().lower(): other for other in there[:_COMPARED] if other.strip()}
    name = name.strip().lower()
    holding = [other for other in known if name in other or other in name]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return [known[other] for other in dict.fromkeys([*close, *holding])][:3]
