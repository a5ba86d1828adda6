"""Split-conformal calibration: intervals as wide as a network's errors on galaxies outside training were.

Source: Lei et al. 2018, J. Am. Stat. Assoc. 113, 1094. For other galaxies of the same kind, with as many volunteers, an
interval of 90 % contains the volunteers' fraction in at least 90 % of the cases. This is true for any network.
"""

from typing import Any, NamedTuple

import numpy as np

from gz_jax.labels import Tree

PERCENT = np.arange(1, 100)
_ASKED = 0.1  # of all volunteers: if fewer are asked, their fractions are too uncertain
_LEAST = 0.01  # added to p (1 - p), so that the unit of errors is not 0 for a prediction of 0 or 1


class Calibration(NamedTuple):
    """How large errors were: float64 [99, answers], at levels of 1 to 99 %; infinite where too few are known.

    An error is |votes - p| / sqrt(p (1 - p) + 0.01) for a prediction p, of joint and of conditional fractions.
    """

    joint: np.ndarray
    conditional: np.ndarray


class Levels(NamedTuple):
    """Levels at which central intervals of Dirichlet outputs contain the votes as often as they should.

    Attributes:
      central: float64 [99, questions], the level of the distribution's central interval that held 1, 2, ... 99 % of the
        votes; 1 where too few were asked. Correct distributions have 0.01, 0.02, ... 0.99.
    """

    central: np.ndarray


def calibrate(truth: np.ndarray, predicted: np.ndarray, tree: Tree) -> Calibration:
    """Calibrate on galaxies outside training: joint fractions [n, answers], NaN where unknown, and predictions."""
    both = ((truth, predicted), (conditional(truth, tree), conditional(predicted, tree, 0)))
    return Calibration(*(_levels(_errors(*pair)) for pair in both))


def central_levels(pit: np.ndarray, tree: Tree) -> Levels:
    """Calibrate Dirichlet outputs on the places of the votes in their predicted distributions.

    A network trained with dropout predicts better than its distributions say, so its levels become lower. For a network
    trained for too long they become higher.

    Args:
      pit: [n, answers], the predicted cumulative distribution at the votes, 0..1 (probability integral transform); NaN
        where unknown.
    """
    off = np.abs(2 * pit - 1)
    # The answers of one question count together. Columns are as long as the longest one, filled up with NaN.
    width = max(s.stop - s.start for s in tree.slices) * len(pit)
    columns = [np.pad(off[:, s].ravel(), (0, width - off[:, s].size), constant_values=np.nan) for s in tree.slices]
    return Levels(np.minimum(_levels(np.stack(columns, 1)), 1))


def of_calibration(fractions: np.ndarray, conditional: np.ndarray, found: Calibration, level: float) -> np.ndarray:
    """Intervals about predictions [n, answers]: float32 [n, 4, answers], in 0..1, as `tables.ENDS`."""
    ends = []
    for predicted, errors in zip((fractions, conditional), found, strict=True):
        half = errors[round(100 * level) - 1] * scale(predicted)
        ends += [np.maximum(predicted - half, 0), np.minimum(predicted + half, 1)]
    return np.stack(ends, 1).astype(np.float32)


def packed(found: Calibration | Levels) -> list[list[list[float | None]]]:
    """JSON-ready, with None for infinite."""
    return [[[x if np.isfinite(x) else None for x in row] for row in part.tolist()] for part in found]


def unpacked(values: Any, tree: Tree) -> Calibration | Levels | None:
    """What `packed` made; None for anything else."""
    try:
        parts = [np.array([[np.inf if x is None else x for x in row] for row in part], float) for part in values]
        shapes = [part.shape for part in parts]
    except (TypeError, ValueError):
        return None
    if not all((part >= 0).all() for part in parts):
        return None
    if shapes == [(len(PERCENT), len(tree.columns))] * 2:
        return Calibration(*parts)
    return Levels(*parts) if shapes == [(len(PERCENT), len(tree.questions))] and (parts[0] <= 1).all() else None


def conditional(fractions: np.ndarray, tree: Tree, least: float = _ASKED) -> np.ndarray:
    """Fractions among those who were asked, float64; NaN where they are fewer than `least` of all."""
    fractions = np.asarray(fractions, np.float64)
    asked = np.stack([fractions[:, own].sum(1) for own in tree.slices], 1)[:, list(tree.question_of)]
    return np.where(asked >= least, fractions / np.maximum(asked, 1e-9), np.nan)


def scale(predicted: np.ndarray) -> np.ndarray:
    """The unit of errors, sqrt(p (1 - p) + 0.01) for predictions p."""
    return np.sqrt(np.clip(predicted * (1 - predicted), 0, None) + _LEAST)


def _errors(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(truth, np.float64) - predicted) / scale(np.asarray(predicted, np.float64))


def _levels(errors: np.ndarray) -> np.ndarray:
    """[99, answers]: of each answer's n known errors the ceil((n + 1) level)-th smallest; infinite if there is none."""
    out = np.full((len(PERCENT), errors.shape[1]), np.inf)
    for j, column in enumerate(errors.T):
        known = np.sort(column[np.isfinite(column)])
        rank = -(-(len(known) + 1) * PERCENT // 100)
        inside = rank <= len(known)
        out[inside, j] = known[rank[inside] - 1]
    return np.vectorize(lambda x: float(f"{x:.6g}"))(out)  # rounded as in a shared network's config.json
