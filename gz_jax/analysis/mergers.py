"""Mergers: the galaxies above a threshold of the merger fraction, how pure and complete that choice is."""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from gz_jax.analysis.merger_fraction import Estimate, confusion, threshold_count
from gz_jax.labels import MERGER


def mergers(
    predicted: np.ndarray, truth: np.ndarray | None, threshold: float = 0.3
) -> tuple[dict[str, Any], np.ndarray]:
    """Galaxies whose predicted merger fraction (Class8.6, joint) is above a threshold (paper, section 5.6).

    Args:
      predicted: [N, 37].
      truth: [N, 37], or None where there are no labels (the test set).
      threshold: of both the predicted and, for purity and completeness, the true fraction.

    Returns:
      (scores, rows): `selected`, `fraction` and, with labels, `true_fraction`, `purity`, `completeness` (with
      Wilson intervals) and `average_precision` (see there); and the selected rows, highest prediction first.
    """
    score = predicted[:, MERGER]
    rows = np.flatnonzero(score > threshold)
    rows = rows[np.argsort(-score[rows], kind="stable")]
    result = {"threshold": threshold, "galaxies": len(score), "selected": len(rows)}
    result["fraction"] = threshold_count(score, threshold)
    if truth is not None:
        real = truth[:, MERGER] > threshold
        shares = confusion(score, real, threshold)
        result |= {"true_fraction": threshold_count(truth[:, MERGER], threshold)}
        result |= {name: shares[name] for name in ("purity", "completeness")}
        result["average_precision"] = average_precision(score, real)
    return result, rows


def average_precision(score: np.ndarray, real: np.ndarray, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Area under purity against completeness (scikit-learn), with its 95 % percentile bootstrap over galaxies.

    Resamples that hold no merger, of which no completeness is defined, are left out.

    Args:
      score: [N], higher for likelier mergers; real: bool [N].

    Returns:
      NaN where none is real.
    """
    if not real.any():
        return Estimate(*[float("nan")] * 3)
    weights = np.random.default_rng(seed).multinomial(len(real), np.full(len(real), 1 / len(real)), resamples)
    drawn = [average_precision_score(real, score, sample_weight=w) for w in weights if w[real].any()]
    return Estimate(float(average_precision_score(real, score)), *map(float, np.quantile(drawn, [0.025, 0.975])))


def merger_curve(truth: np.ndarray, predicted: np.ndarray, thresholds: np.ndarray, real: float = 0.3) -> np.ndarray:
    """Purity and completeness above each predicted threshold: [2, len(thresholds)], NaN where undefined."""
    positive = truth[:, MERGER] > real
    chosen = predicted[:, MERGER] > np.asarray(thresholds)[:, None]
    both = (chosen & positive).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([both / chosen.sum(1), both / np.float64(positive.sum())])
