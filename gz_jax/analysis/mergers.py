"""Mergers: the galaxies above a threshold of the merger fraction, and the purity and completeness of this choice."""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from gz_jax.analysis.merger_fraction import Estimate, confusion, threshold_count


def mergers(
    predicted: np.ndarray, truth: np.ndarray | None, threshold: float = 0.3
) -> tuple[dict[str, Any], np.ndarray]:
    """Galaxies whose predicted merger fraction (joint) is above a threshold (paper, section 5.6).

    Args:
      predicted: [N], the fraction of the answer that means a merger.
      truth: [N], NaN where unknown; None where there are no labels (the test set).
      threshold: of both the predicted and, for purity and completeness, the true fraction.

    Returns:
      (scores, rows): `selected`, `fraction` and, with labels, `true_fraction`, `purity`, `completeness` (with
      Wilson intervals) and `average_precision` (see there) over the galaxies with a label, of which there are
      `labelled` where some have none; and the selected rows, highest prediction first.
    """
    rows = np.flatnonzero(predicted > threshold)
    rows = rows[np.argsort(-predicted[rows], kind="stable")]
    result: dict[str, Any] = {"threshold": threshold, "galaxies": len(predicted), "selected": len(rows)}
    result["fraction"] = threshold_count(predicted, threshold)
    known = np.zeros(len(predicted), bool) if truth is None else np.isfinite(truth)
    if truth is not None and not known.all():
        result["labelled"] = int(known.sum())
    if truth is not None and known.any():
        predicted, truth = predicted[known], truth[known]
        real = truth > threshold
        shares = confusion(predicted, real, threshold)
        result["true_fraction"] = threshold_count(truth, threshold)
        result |= {name: shares[name] for name in ("purity", "completeness")}
        result["average_precision"] = average_precision(predicted, real)
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
    """Purity and completeness above each predicted threshold: [2, len(thresholds)], NaN where undefined.

    Args:
      truth, predicted: [N], fractions of the answer that means a merger; galaxies without a label do not count.
      real: true fraction above which a galaxy is a merger.
    """
    known = np.isfinite(truth)
    positive, predicted = truth[known] > real, predicted[known]
    chosen = predicted > np.asarray(thresholds)[:, None]
    both = (chosen & positive).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([both / chosen.sum(1), both / np.float64(positive.sum())])
