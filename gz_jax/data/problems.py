"""Problems of single galaxies of a data set: found in threads, kept for the next time, and reported together."""

import collections
import csv
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import atomic, harmless, write_json
from gz_jax.runtime.progress import Bar

MAX_PROBLEMS = 100_000  # with more, the table is probably another one, and is refused
_SHOWN = (10, 5, 2, 1)  # galaxies named per kind of problem: fewer where there are many kinds, ...
_LONGEST = 7_000  # ... so that a message has at most so many characters
_KINDS = 50  # kinds in a message
_KEPT = "checked.json"


class Problem(NamedTuple):
    """A problem of one galaxy (`galaxy_id` is the file's name where that is not a number)."""

    galaxy_id: str
    file: str
    kind: str
    detail: str = ""

    @property
    def reason(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


def in_threads(
    check: Callable[[Sequence[Any]], Any], chunks: Iterable[Sequence[Any]], total: int, workers: int | None
) -> Iterator[Any]:
    """What `check` finds in each chunk of the `total` images, in order, by `workers` threads (None: one per core)."""
    bar = Bar("Checking images", total, "images", first=0.0)
    with bar, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            for chunk, found in zip(chunks, pool.map(check, chunks), strict=True):
                yield found
                bar.advance(len(chunk))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def kept(folder: pathlib.Path) -> list[Problem] | None:
    """What an earlier check kept in `folder`; None where there was none. Raises UserError: it cannot be read."""
    path = folder / _KEPT
    try:
        return [Problem(*problem) for problem in json.loads(path.read_text())]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it, and the files are checked again") from error


def keep(folder: pathlib.Path, problems: Iterable[Sequence[str]]) -> None:
    """Keep what a check found, since a check takes a while. Raises UserError: the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _KEPT, list(map(list, problems)))
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): set --config.data.store") from error


def report(problems: Sequence[Problem], where: object, what: str = "Kaggle's files") -> str:
    """One message: each kind of problem with its count and the first few galaxies."""
    kinds = collections.defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    head = f"{len(problems)} problem{'s' * (len(problems) > 1)} in {what} at {where}:"
    tail = [f"  and {len(kinds) - _KINDS} more kinds"] if len(kinds) > _KINDS else []
    for most in _SHOWN:
        text = "\n".join([head, *(_line(*one, most) for one in list(kinds.items())[:_KINDS]), *tail])
        if len(text) < _LONGEST:
            break
    return text


def _line(kind: str, group: Sequence[Problem], most: int) -> str:
    shown = ", ".join(p.galaxy_id + (f" ({p.detail})" if p.detail else "") for p in group[:most])
    more = f" and {len(group) - most} more" if len(group) > most else ""
    return f"  {kind}: {len(group)}: {shown}{more}"


def write_skipped_csv(path: str | os.PathLike, skipped: Iterable[tuple[str, str, str]]) -> None:
    """Write (galaxy_id, file, reason) rows whole or not at all; texts as `files.harmless` writes them."""
    with atomic(path, newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([map(harmless, row) for row in [("galaxy_id", "file", "reason"), *skipped]])
