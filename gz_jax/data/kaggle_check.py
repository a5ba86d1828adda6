"""Checks of Kaggle's files: all problems are found before anything is prepared, and reported together."""

import collections
import csv
import io
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import JpegImagePlugin

from gz_jax.data import archive, identifiers
from gz_jax.data.kaggle import Images, csv_bytes
from gz_jax.data.pictures import MAX_SCANS
from gz_jax.data.problems import MAX_PROBLEMS, Problem, in_threads, report
from gz_jax.labels import GALAXY_ZOO_2, Tree, tree_violation
from gz_jax.runtime.errors import UserError

_MAX_IMAGE = 64 << 20  # bytes; Kaggle's largest has 27 kB
_MAX_LINE = 1 << 20  # characters of a CSV's line; Kaggle's longest has 400


class Solutions(NamedTuple):
    """The valid rows of the CSV, and what is wrong with the others; `seen` are the ids of all rows."""

    galaxy_id: np.ndarray
    vote_fractions: np.ndarray
    seen: frozenset[int]
    problems: tuple[Problem, ...]


def _rows(name: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of the header and every other row; the header is checked."""
    try:
        with io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(file))
            header = [field.strip() for field in next(reader, [])]
            if not header:
                raise UserError(f"{name} is empty")
            _check_header(name, header)
            yield 1, header
            yield from ((reader.line_num, row) for row in reader if row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} is not a CSV file in UTF-8 ({error}): download it again") from error


def _lines(file: Iterable[str]) -> Iterator[str]:
    """The same lines. A line that is too long, or a quote that stays open, is refused: it could fill the memory."""
    for line in file:
        if len(line) > _MAX_LINE or line.count('"') % 2:
            raise csv.Error(f"a line of {len(line)} characters" + ", with a quote that is not closed" * ('"' in line))
        yield line


def _check_header(name: str, header: Sequence[str]) -> None:
    expected = ("GalaxyID", *GALAXY_ZOO_2.columns)
    if "" in header:
        raise UserError(
            f"{name} has a column without a name, number {header.index('') + 1}. pandas writes its index in this way: "
            "write the table without it (index=False)"
        )
    faults = {
        "lacks the column": [c for c in expected if c not in header],
        "has the unknown column": [c for c in header if c not in expected],
        "has more than once the column": [c for c, n in collections.Counter(header).items() if n > 1],
    }
    text = " and ".join(f"{what} {_few(columns)}" for what, columns in faults.items() if columns)
    if text:
        raise UserError(f"{name} {text}: it must have GalaxyID and the 37 vote fractions")


def _few(columns: Sequence[str]) -> str:
    """A list of columns for a message."""
    more = f" and {len(columns) - 40} more" if len(columns) > 40 else ""
    return ", ".join(column[:40] for column in columns[:40]) + more


def read_solutions(source: archive.Source, tree: Tree = GALAXY_ZOO_2) -> Solutions:
    """Read and check the training labels; a row must obey the tree of Galaxy Zoo 2, then `tree`.

    Args:
      tree: of some of Kaggle's columns.

    Returns:
      Solutions: galaxy_id int64 [n] and vote_fractions float32 [n, answers] of the valid rows, ordered by
      galaxy_id, columns in tree.columns order. A tree sum may be off by 1e-3, a fraction by 1e-5 (rounding;
      it is clipped).

    Raises:
      UserError: the file itself is wrong (empty, not a CSV, columns missing or unknown).
    """
    name, data = csv_bytes(source)
    rows = _rows(name, data)
    _, header = next(rows)
    problems: list[Problem] = []
    ids, lines, values, seen = [], [], [], collections.Counter[int]()

    def fault(galaxy_id: object, line: int, kind: str, detail: str = "") -> None:
        problems.append(Problem(str(galaxy_id), name, kind, f"line {line}{detail and ', '}{detail[:100]}"))
        if len(problems) > MAX_PROBLEMS:
            raise UserError(f"{report(problems, name)}\nand more after line {line}: this is not Kaggle's CSV")

    order = [header.index(column) for column in GALAXY_ZOO_2.columns]
    id_column = header.index("GalaxyID")
    for line, row in rows:
        text = row[id_column].strip() if len(row) > id_column else ""
        galaxy_id, wrong = identifiers.parse(text)
        if galaxy_id is None:
            fault(text, line, f"GalaxyID {wrong}", repr(text))
            continue
        seen[galaxy_id] += 1
        if len(row) != len(header):
            fault(galaxy_id, line, "row of the wrong length", f"{len(row)} fields instead of {len(header)}")
            continue
        try:
            values.append(np.array([float(row[i]) for i in order]))
        except ValueError:
            for i, column in zip(order, GALAXY_ZOO_2.columns, strict=True):
                try:
                    float(row[i])
                except ValueError:
                    fault(galaxy_id, line, "text where a number belongs", f"{column} = {row[i]!r}")
            continue
        ids.append(galaxy_id)
        lines.append(line)
    if not (seen or problems):
        raise UserError(f"{name} has a header but no galaxies")
    galaxy_ids, fractions = np.array(ids, np.int64), np.array(values).reshape(-1, len(GALAXY_ZOO_2.columns))

    finite = np.isfinite(fractions)
    outside = finite & ((fractions < -1e-5) | (fractions > 1 + 1e-5))
    bad = ~finite.all(1) | outside.any(1)
    for kind, where in (("NaN or infinite", ~finite), ("outside 0..1", outside)):
        for i, j in zip(*np.nonzero(where), strict=True):
            fault(ids[i], lines[i], f"vote fraction {kind}", f"{GALAXY_ZOO_2.columns[j]} = {fractions[i, j]:g}")
    columns = [GALAXY_ZOO_2.columns.index(column) for column in tree.columns]
    for of, some in ((GALAXY_ZOO_2, fractions), (tree, fractions[:, columns])):
        broken = tree_violation(np.where(bad[:, None], np.nan, some), of) > 1e-3
        for k in np.nonzero(broken.any(1))[0]:
            questions = ", ".join(of.questions[q].name for q in np.nonzero(broken[k])[0])
            fault(ids[k], lines[k], f"vote fractions break the decision tree {of.name}", f"question {questions}")
        bad |= broken.any(1)
    for i in (i for i, galaxy_id in enumerate(ids) if seen[galaxy_id] > 1):
        fault(ids[i], lines[i], "duplicate GalaxyID")
        bad[i] = True
    keep = np.nonzero(~bad)[0]
    keep = keep[np.argsort(galaxy_ids[keep])]
    valid = np.clip(fractions[keep][:, columns], 0, 1).astype(np.float32)
    return Solutions(galaxy_ids[keep], valid, frozenset(seen), tuple(problems))


def jpeg_fault(data: bytes, image_size: int) -> tuple[str, str] | None:
    """(kind, detail) of what is wrong with a JPEG of `image_size` squared RGB pixels; None if nothing is.

    The size is checked before anything is decoded, so that a decompression bomb does no harm.
    """
    if not data:
        return "image of 0 bytes", ""
    if not data.startswith(b"\xff\xd8\xff"):
        return "image is not a JPEG", ""
    if data.count(b"\xff\xda") > MAX_SCANS:
        return "image has too many scans", f"more than {MAX_SCANS}"
    try:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        if image.size != (image_size, image_size):
            return "image of the wrong size", "{} x {}, expected {} x {}".format(*image.size, *(image_size,) * 2)
        if image.mode != "RGB":
            kind = {"L": "greyscale", "CMYK": "CMYK"}.get(image.mode, image.mode)
            return f"image is {kind}, not RGB", ""
        image.load()
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError) as error:
        return "image is truncated or damaged", str(error)
    return None


def check_images(images: Images, image_size: int = 424, workers: int | None = None) -> list[Problem]:
    """Decode every image once, in threads. Memory holds only as many images as there are threads.

    Args:
      images: what `find` found.
      image_size: expected side in pixels.
      workers: number of threads; default one per core.
    """

    def check(galaxy_ids: Sequence[int]) -> list[Problem]:
        found = []
        for galaxy_id in galaxy_ids:
            try:
                size = images.sizes[galaxy_id]
                fault = ("image is too large", f"{size} bytes") if size > _MAX_IMAGE else None
                fault = fault or jpeg_fault(images.read(galaxy_id), image_size)
            except archive.READ_ERRORS as error:
                fault = ("image cannot be read", str(error))
            if fault:
                found.append(Problem(str(galaxy_id), images.names[galaxy_id], *fault))
        return found

    problems = []
    for name in images.misnamed:
        wrong = identifiers.parse(pathlib.PurePosixPath(name).stem)[1]
        detail = "" if wrong.endswith("whole number") else f"it {wrong}"
        problems.append(Problem(name, name, "image name is not a GalaxyID", detail))
    ids = sorted(images.names)
    chunks = [ids[i : i + 32] for i in range(0, len(ids), 32)]
    for found in in_threads(check, chunks, len(ids), workers):
        problems += found
    return problems


def match(images: Images, solutions: Solutions) -> list[Problem]:
    """Training images without a row, and valid rows without an image."""
    lonely = sorted(set(images.names) - solutions.seen)
    bare = [i for i in solutions.galaxy_id.tolist() if i not in images.names]
    found = [Problem(str(i), images.names[i], "image without a row") for i in lonely]
    return found + [Problem(str(i), images.source.where, "row without an image") for i in bare]
