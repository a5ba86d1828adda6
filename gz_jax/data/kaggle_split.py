"""The split into training and validation galaxies by a hash, and a test whether the two have similar labels."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from gz_jax.data.split import splitmix64
from gz_jax.labels import Tree

_SIGNIFICANCE = 0.001  # of a Kolmogorov-Smirnov test; divided by the number of answers (Bonferroni)


Fold = tuple[int, int]  # a fold's number, from 0, and the number of folds


def side(galaxy_id: np.ndarray, seed: int, validation_fraction: float, fold: Fold | None = None) -> np.ndarray:
    """Which galaxies are for validation: bool [n] from (seed, galaxy_id) alone.

    A galaxy is on the same side on every machine and in every set of galaxies. A larger fraction only adds galaxies to
    validation.

    Args:
      galaxy_id: int64 [n].
      seed: any integer.
      validation_fraction: expected share, 0..1.
      fold: (k, K) instead: the k-th of K parts of about the same size, each galaxy in exactly one.
    """
    key = splitmix64(np.array([seed % 2**64], np.uint64))
    hashed = splitmix64(np.asarray(galaxy_id).astype(np.uint64) ^ key)
    place = (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    low, high = (0.0, validation_fraction) if fold is None else (fold[0] / fold[1], (fold[0] + 1) / fold[1])
    return (low <= place) & (place < high)


def mark(seed: int, validation_fraction: float, fold: Fold | None) -> str:
    """Text that identifies a split in the name of a data set."""
    return f"seed{seed}_" + (f"val{float(validation_fraction)}" if fold is None else "fold{}of{}".format(*fold))


def compare_splits(train: np.ndarray, validation: np.ndarray, tree: Tree) -> dict[str, Any]:
    """Compare the distributions of both sides. (The paper, section 3, compares histograms.)

    Args:
      train: vote fractions [n, answers], NaN where unknown.
      validation: vote fractions [m, answers], NaN where unknown; at least one is known.
      tree: whose answers they are.

    Returns:
      JSON-ready: mean vote fraction per answer and side; per answer the two-sample Kolmogorov-Smirnov distance and its
      critical value (99.9 %, Bonferroni over the answers, asymptotic); the answers beyond it; RMSE of guessing the
      training means for validation, a galaxy's squared error being the mean over its known answers; the most common
      largest answer of validation, its share. None where there is no known value.
    """
    from scipy import stats  # takes two seconds, and prediction does not need it

    train, validation = np.asarray(train, np.float64), np.asarray(validation, np.float64)
    samples = [[column[~np.isnan(column)] for column in x.T] for x in (train, validation)]
    n, m = (np.array([len(x) or np.nan for x in columns]) for columns in samples)
    means = [np.array([x.mean() if len(x) else np.nan for x in columns]) for columns in samples]
    distances = np.array(
        [
            stats.ks_2samp(a, b, method="asymp").statistic if len(a) and len(b) else np.nan
            for a, b in zip(*samples, strict=True)
        ]
    )
    critical = np.sqrt(-np.log(_SIGNIFICANCE / len(tree.columns) / 2) / 2 * (n + m) / (n * m))
    squared = np.square(validation - means[0])
    squared = np.nanmean(squared[~np.isnan(squared).all(1)], axis=1)
    labelled = validation[~np.isnan(validation).all(1)]
    largest = np.bincount(np.nanargmax(labelled, 1), minlength=len(tree.columns))

    def by_answer(values: Iterable[float]) -> dict[str, float | None]:
        return {c: None if np.isnan(x) else float(x) for c, x in zip(tree.columns, values, strict=True)}

    return {
        "train_mean": by_answer(means[0]),
        "validation_mean": by_answer(means[1]),
        "ks_distance": by_answer(distances),
        "ks_critical": by_answer(critical),
        "ks_exceeded": [c for c, beyond in zip(tree.columns, distances > critical, strict=True) if beyond],
        "guess_the_means_rmse": float(np.sqrt(squared.mean())) if len(squared) else None,
        "majority_share": float(largest.max() / len(labelled)),
        "majority_column": tree.columns[int(largest.argmax())],
    }
