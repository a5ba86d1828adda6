"""Which galaxies validate, decided by a hash; and whether the two sides look alike."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from gz_jax.data.split import splitmix64
from gz_jax.labels import Tree

_SIGNIFICANCE = 0.001  # of a Kolmogorov-Smirnov test; divided by the number of answers (Bonferroni)


def side(galaxy_id: np.ndarray, seed: int, validation_fraction: float) -> np.ndarray:
    """Which galaxies are for validation: bool [n] from (seed, galaxy_id) alone.

    The same galaxy falls on the same side on every machine, whatever else is in the set. A larger fraction
    only adds galaxies to validation.

    Args:
      galaxy_id: int64 [n].
      seed: any integer.
      validation_fraction: expected share, 0..1.
    """
    key = splitmix64(np.array([seed % 2**64], np.uint64))
    hashed = splitmix64(np.asarray(galaxy_id).astype(np.uint64) ^ key)
    return (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < validation_fraction


def compare_splits(train: np.ndarray, validation: np.ndarray, tree: Tree) -> dict[str, Any]:
    """Do both sides follow the same distributions? (The paper, section 3, looks at histograms.)

    Args:
      train: vote fractions [n, answers], n > 0.
      validation: vote fractions [m, answers], m > 0.
      tree: whose answers they are.

    Returns:
      JSON-ready: mean vote fraction per answer and side; two-sample Kolmogorov-Smirnov distance per answer,
      its critical value (99.9 %, Bonferroni over the answers, asymptotic) and the answers beyond it; RMSE of
      guessing the training means for validation; the most common largest answer of validation, its share.
    """
    train, validation = np.asarray(train, np.float64), np.asarray(validation, np.float64)
    distances = [stats.ks_2samp(a, b, method="asymp").statistic for a, b in zip(train.T, validation.T, strict=True)]
    n, m = len(train), len(validation)
    critical = np.sqrt(-np.log(_SIGNIFICANCE / len(tree.columns) / 2) / 2 * (n + m) / (n * m))
    largest = np.bincount(validation.argmax(1), minlength=len(tree.columns))

    def by_answer(values: Iterable[float]) -> dict[str, float]:
        return dict(zip(tree.columns, map(float, values), strict=True))

    return {
        "train_mean": by_answer(train.mean(0)),
        "validation_mean": by_answer(validation.mean(0)),
        "ks_distance": by_answer(distances),
        "ks_critical": float(critical),
        "ks_exceeded": [c for c, d in zip(tree.columns, distances, strict=True) if d > critical],
        "guess_the_means_rmse": float(np.sqrt(np.mean((validation - train.mean(0)) ** 2))),
        "majority_share": float(largest.max() / m),
        "majority_column": tree.columns[int(largest.argmax())],
    }
