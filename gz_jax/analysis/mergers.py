"""Mergers: the galaxies above a threshold of the merger fraction, how pure and complete that choice is."""

from typing import Any

import numpy as np

from gz_jax.analysis.evaluate import Sums, bootstrap
from gz_jax.labels import MERGER


def average_precision(relevant: np.ndarray, score: np.ndarray) -> float:
    """Area under the purity-completeness steps (scikit-learn's definition, ties share a step).

    NaN without positives.
    """
    order = np.argsort(-score, kind="stable")
    hits, last = np.cumsum(relevant[order]), np.r_[np.diff(score[order]) != 0, True]
    if not hits[-1]:
        return float("nan")
    purity = (hits / np.arange(1, len(hits) + 1))[last]
    return float(np.sum(np.diff(hits[last], prepend=0) * purity) / hits[-1])


def mergers(
    predicted: np.ndarray, truth: np.ndarray | None, threshold: float = 0.3, resamples: int = 1000
) -> tuple[dict[str, Any], np.ndarray]:
    """Galaxies whose predicted merger fraction (Class8.6, joint) is above a threshold (paper, section 5.6).

    Args:
      predicted: [N, 37].
      truth: [N, 37], or None where there are no labels (the test set).
      threshold: of both the predicted and, for purity and completeness, the true fraction.
      resamples: of the bootstrap.

    Returns:
      (scores, rows): `selected`, `fraction` and, with labels, `true_fraction`, `purity`, `completeness` (with
      intervals) and `average_precision`; and the selected rows, highest prediction first.
    """
    score = predicted[:, MERGER]
    chosen = score > threshold
    sums = {"n": np.ones((len(score), 1)), "chosen": chosen[:, None]}
    if truth is not None:
        real = truth[:, MERGER] > threshold
        sums |= {"real": real[:, None], "both": (real & chosen)[:, None]}

    def shares(s: Sums) -> dict[str, np.ndarray]:
        pairs = {"fraction": ("chosen", "n")}
        if truth is not None:
            pairs |= {
                "true_fraction": ("real", "n"),
                "purity": ("both", "chosen"),
                "completeness": ("both", "real"),
            }
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: (s[a] / s[b])[..., 0] for name, (a, b) in pairs.items()}

    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(-score[rows], kind="stable")]
    result = {"threshold": threshold, "galaxies": len(score), "selected": len(rows)}
    result |= bootstrap(sums, shares, resamples)
    if truth is not None:
        result["average_precision"] = average_precision(real, score)
    return result, rows


def merger_curve(truth: np.ndarray, predicted: np.ndarray, thresholds: np.ndarray, real: float = 0.3) -> np.ndarray:
    """Purity and completeness above each predicted threshold: [2, len(thresholds)], NaN where undefined."""
    positive = truth[:, MERGER] > real
    chosen = predicted[:, MERGER] > np.asarray(thresholds)[:, None]
    both = (chosen & positive).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([both / chosen.sum(1), both / np.float64(positive.sum())])
