"""What every source of galaxies offers: random access to records, whatever lies behind it."""

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
      vote_fractions: float32 [n, answers], NaN where a galaxy has none (the test set);
      image: either object [n] of JPEG bytes, or uint8 [n, S, S, 3] already at the cutout's size.
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


def tree_mark(tree: Tree) -> str:
    """'_' and a hash of a tree's questions, answers, columns and what leads to what; '' for Galaxy Zoo 2."""
    if not differences(GALAXY_ZOO_2, tree):
        return ""
    questions = [(q.name, q.answers, q.columns, sorted(q.after)) for q in tree.questions]
    return "_" + hashlib.sha256(json.dumps(questions).encode()).hexdigest()[:16]


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Steele, Lea & Flood 2014: a bijective mixer of uint64 [...] whose outputs pass for random."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
