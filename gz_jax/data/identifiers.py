"""Identifiers of galaxies from any table or file name: int64 where all of them are whole numbers, else text.

SDSS objIDs have 19 digits and need all of int64, so no digit may be lost. Numbers stored as floating point are exact
only up to 2^53. Larger ones are refused.
"""

import contextlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gz_jax.runtime.errors import UserError

LARGEST = 2**63 - 1
MAX_LENGTH = 1_000  # characters; NumPy gives every id as much room as the longest
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}  # bits of a floating point number: whole numbers up to this are exact
_CHUNK = 100_000  # rows turned from Arrow to Python at a time


def parse(text: str) -> tuple[int | None, str]:
    """A whole number of int64 in decimal digits, and ''; or None and what is wrong with the text.

    Leading zeros are ignored. Floating point notation is refused, since digits may have been lost when it was written.
    """
    if short := re.fullmatch(r"(-?)0*([0-9]{1,19})", text):
        value = int("".join(short.groups()))
        if -(2**63) <= value <= LARGEST:
            return value, ""
    if re.fullmatch(r"-?[0-9]+", text):
        return None, f"is too large for 64 bits (at most {LARGEST})"
    if re.fullmatch(r"-?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+", text):
        return None, "is floating point, which loses digits"
    return None, "is not a whole number"


def as_text(column: pa.ChunkedArray, name: str) -> pa.Array:
    """A table's column of ids as text (string [n]), '' as null; of numbers the digits, without spaces around.

    Floating point numbers, and texts in its notation if all are numbers, become whole ones: '7.0' (what pandas makes
    of 7 in a column with gaps) is 7.

    Raises:
      UserError: floating point numbers that have lost digits; numbers that are not whole; a text of more than
        `MAX_LENGTH` characters.
      pa.ArrowException, ValueError: a type that has no text; texts that are no UTF-8, or would fill the memory.
    """
    if pa.types.is_floating(column.type):
        column = _of_floats(column, name)
    found = texts(column)
    found = pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)
    longest = pc.max(pc.utf8_length(found)).as_py() or 0
    if longest > MAX_LENGTH:
        raise UserError(f"the longest id has {longest} characters; more than {MAX_LENGTH} are refused")
    trimmed = pc.utf8_trim_whitespace(found)
    if not _all(trimmed, r"^-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"):
        return found
    if len(short := pc.filter(trimmed, pc.match_substring_regex(trimmed, "[eE]"))):
        raise UserError(_lost(name, short[0].as_py()))
    floating = pc.filter(trimmed, pc.match_substring(trimmed, "."))
    if not len(floating):
        return trimmed
    if not _all(floating, r"\.0*$"):  # '1.5', '1.10': names of their own
        return found
    if len(large := pc.filter(floating, pc.greater(pc.abs(floating.cast(pa.float64())), float(_EXACT[64])))):
        raise UserError(_lost(name, large[0].as_py()))
    return pc.replace_substring_regex(trimmed, r"\.0*$", "")


def texts(column: pa.ChunkedArray) -> pa.Array:
    """A column as string [n], unless its texts would fill the memory."""
    kinds = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    if pa.types.is_dictionary(column.type) and column.type.value_type in kinds:
        lengths = (pc.take(pc.binary_length(part.dictionary), part.indices) for part in column.chunks)
        total = sum(pc.sum(part).as_py() or 0 for part in lengths)
        if total > 2**31:
            raise ValueError(f"its texts take {total} bytes")
    found = column.cast(pa.string()).combine_chunks()
    found = found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)
    found.validate(full=True)  # UTF-8
    return found


def _of_floats(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Floating point numbers as int64, NaN as null."""
    exact = _EXACT[column.type.bit_width]
    numbers = column.cast(pa.float64())
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    large = pc.filter(numbers, pc.greater(pc.abs(numbers), float(exact)))
    if len(large):
        raise UserError(_lost(name, f"{large[0].as_py():.17g}"))
    broken = pc.filter(numbers, pc.not_equal(pc.round(numbers), numbers))
    if len(broken):
        raise UserError(f"column {name!r} holds {broken[0].as_py():g}: an id must be a whole number or a text")
    return numbers.cast(pa.int64())


def _lost(name: str, value: str) -> str:
    return (
        f"column {name!r} is stored as floating point and has lost digits ({value}): write it again from the complete "
        "ids, as whole numbers or text"
    )


def from_texts(found: pa.Array) -> np.ndarray:
    """int64 [n] if every text (string [n], no null) is a whole number of 64 bits without leading zeros, else str [n].

    One text such as '007' or '9223372036854775808' keeps all of them as text.
    """
    if _all(found, r"^(0|-?[1-9][0-9]{0,18})$"):
        with contextlib.suppress(pa.ArrowInvalid):  # beyond int64
            return found.cast(pa.int64()).to_numpy()
    values = np.empty(len(found), f"<U{pc.max(pc.utf8_length(found)).as_py()}")
    for start in range(0, len(found), _CHUNK):
        values[start : start + _CHUNK] = found.slice(start, _CHUNK).to_pylist()
    return values


def _all(found: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(found, pattern)).as_py())


def repeated(values: np.ndarray) -> tuple[int, np.ndarray]:
    """How many ids are used more than once, and the rows of the first of them (ascending; none: empty)."""
    ordered = np.sort(values)  # a set of 10^7 would take gigabytes
    if not (ordered[1:] == ordered[:-1]).any():
        return 0, np.zeros(0, np.int64)
    distinct, counts = np.unique(values, return_counts=True)
    twice = distinct[counts > 1]
    return len(twice), np.nonzero(values == twice[0])[0]
