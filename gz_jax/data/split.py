"""The interface of every source of galaxies: records that can be read in any order."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gz_jax.labels import GALAXY_ZOO_2, Tree, differences

Records = dict[str, np.ndarray]


class Split(NamedTuple):
    """One side of a data set.

    `read(indices)` takes int64 [n] in 0..size-1 and returns a dict of arrays with leading axis n:
      galaxy_id: int64 [n];
      vote_fractions: float32 [n, answers], joint; NaN where unknown (throughout in an unlabelled test set);
      votes: float32 [n, answers], votes of each answer in units of a nominal number of volunteers; 0 where nobody was
        asked or nothing is known;
      image: object [n] of JPEG bytes or of `image_file.ImageFile`, or uint8 [n, S, S, 3] already at the cutout's size.

    `names`: str [n], the galaxies' ids where they are texts; `galaxy_id` is then a hash of each.
    """

    size: int
    read: Callable[[np.ndarray], Records]
    names: np.ndarray | None = None


class Dataset(NamedTuple):
    """Splits by name ('train', 'validation', 'test'), with what is known of the whole.

    `fingerprint` changes when the files, the split or the tree do, `labelled` when those with labels do ('' where there
    are no others): a run may get test images later. `statistics` is JSON-ready (counts, per-answer means,
    Kolmogorov-Smirnov distances between train and validation). `tree` has the columns of the vote fractions. `skipped`
    lists (galaxy_id, file, reason). `cache` names the folder of decoded cutouts.
    """

    splits: dict[str, Split]
    fingerprint: str
    statistics: dict[str, Any]
    tree: Tree
    skipped: tuple[tuple[str, str, str], ...] = ()
    labelled: str = ""
    cache: str = ""

    @property
    def identity(self) -> str:
        """Fingerprint of the galaxies that a network is trained and validated on."""
        return self.labelled or self.fingerprint


def fraction_records(vote_fractions: np.ndarray) -> Records:
    """Labels of galaxies of which only joint fractions are known: every galaxy has the same nominal volunteers, 1."""
    return {"vote_fractions": vote_fractions, "votes": np.nan_to_num(vote_fractions)}


def tree_mark(tree: Tree) -> str:
    """'_' and a hash of a tree's questions, answers, columns and what leads to what; '' for Galaxy Zoo 2."""
    if not differences(GALAXY_ZOO_2, tree):
        return ""
    questions = [(q.name, q.answers, q.columns, sorted(q.after)) for q in tree.questions]
    return "_" + hashlib.sha256(json.dumps(questions).encode()).hexdigest()[:16]


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Steele, Lea & Flood 2014: a bijective function of uint64 [...] whose outputs look random."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
