"""What is wrong with single galaxies of a data set, and how it is reported: all at once."""

import collections
import csv
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gz_jax.runtime.files import atomic, harmless

_SHOWN = 10  # galaxies named per kind of problem


class Problem(NamedTuple):
    """A fault that concerns one galaxy (`galaxy_id` is the file's name where that is no number)."""

    galaxy_id: str
    file: str
    kind: str
    detail: str = ""

    @property
    def reason(self) -> str:
        return f"{self.kind} ({self.detail})" if self.detail else self.kind


def report(problems: Sequence[Problem], where: object, what: str = "Kaggle's files") -> str:
    """One message: each kind of problem with its count and the first few galaxies."""
    kinds = collections.defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    lines = [f"{len(problems)} problem{'s' * (len(problems) > 1)} in {what} at {where}:"]
    for kind, group in kinds.items():
        shown = ", ".join(p.galaxy_id + (f" ({p.detail})" if p.detail else "") for p in group[:_SHOWN])
        more = f" and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
        lines.append(f"  {kind}: {len(group)}: {shown}{more}")
    return "\n".join(lines)


def write_skipped_csv(path: str | os.PathLike, skipped: Iterable[tuple[str, str, str]]) -> None:
    """Write (galaxy_id, file, reason) rows whole or not at all; texts as `files.harmless` writes them."""
    with atomic(path, newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([map(harmless, row) for row in [("galaxy_id", "file", "reason"), *skipped]])
