"""How good the predictions are: scores, intervals over galaxies, calibration, failures.

Every score is a function of sums over galaxies. The terms of these sums are computed once for each galaxy. The
bootstrap multiplies them by a matrix of multinomial weights, so that a thousand resamples of all scores take seconds.
Sums are float64. Arguments are `truth` and `predicted`, both [N, answers].

Some labels may be unknown (NaN). They are left out of all scores. A galaxy's mean squared error is the mean over its
known answers.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gz_jax.labels import Tree, tree_violation
from gz_jax.runtime.errors import UserError

Sums = Mapping[str, np.ndarray]


APPLIES = 0.5  # a question applies to a galaxy if the answers that lead to it have at least this share together


class Estimate(NamedTuple):
    """A score and its bootstrap interval; each a float or an array of the same shape. NaN where undefined."""

    value: Any
    low: Any
    high: Any

    def at(self, i: int) -> "Estimate":
        """One of an array of scores."""
        return Estimate(*(part[i] for part in self))


def check(truth: np.ndarray, predicted: np.ndarray, tree: Tree) -> None:
    """Both must be [N, answers]; every prediction finite, every galaxy with a known label, the others NaN.

    Raises:
      UserError: shapes differ, there is no galaxy, or there are other values.
    """
    answers = len(tree.columns)
    if truth.shape != predicted.shape or truth.shape[1:] != (answers,):
        raise UserError(f"true {truth.shape} and predicted {predicted.shape} fractions must both be [N, {answers}]")
    if not len(truth):
        raise UserError("there is no galaxy to evaluate")
    wrong = {
        "true vote fractions that are infinite": np.isinf(truth).any(1),
        "no label": np.isnan(truth).all(1),
        "predicted vote fractions that are not finite numbers": ~np.isfinite(predicted).all(1),
    }
    for what, rows in wrong.items():
        if bad := int(rows.sum()):
            raise UserError(
                f"{bad} of {len(truth)} galaxies have {what}; "
                "evaluate galaxies that have labels, with a model whose training did not diverge"
            )


def agreement(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Keras' `categorical_accuracy` per galaxy, bool [N]: the largest of the known answers is the same one."""
    first, second = (np.where(np.isnan(truth), -np.inf, values).argmax(-1) for values in (truth, predicted))
    return first == second


def squared_error(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean squared error over the known answers of each galaxy, float64 [N]."""
    known = ~np.isnan(truth)
    return np.square(np.subtract(predicted, truth, dtype=np.float64)).sum(1, where=known) / known.sum(1)


def applies(truth: np.ndarray, tree: Tree) -> np.ndarray:
    """Where a question applies: the answers that lead to it add up to APPLIES, or are none; bool [N, questions].

    An unknown answer adds nothing.
    """
    slack, truth = 1e-6, np.nan_to_num(truth)  # slack: of the sum of several float32 shares
    shares = [truth[:, list(p)].sum(1) + (slack if len(p) != 1 else 0) + (not p) for p in tree.parents]
    return np.stack(shares, axis=1) >= APPLIES


def galaxy_sums(truth: np.ndarray, predicted: np.ndarray, tree: Tree) -> dict[str, np.ndarray]:
    """The terms of all sums that the scores need, for each galaxy: name -> float64 [N, k].

    Unknown labels have 0. If there are any, there are four more sums: `known`, and those in which each galaxy has the
    same weight, so that an answer weighs more if fewer answers of the galaxy are known.
    """
    known = ~np.isnan(truth)
    mean = np.where(known, truth, 0).sum(0, dtype=np.float64) / np.maximum(known.sum(0), 1)
    error = np.where(known, np.subtract(predicted, truth, dtype=np.float64), 0)
    centred = np.where(known, np.subtract(truth, mean, dtype=np.float64), 0)
    asked = applies(truth, tree) & np.stack([known[:, s].all(1) for s in tree.slices], axis=1)
    right = np.stack([truth[:, s].argmax(1) == predicted[:, s].argmax(1) for s in tree.slices], axis=1)
    top = np.concatenate([np.eye(s.stop - s.start)[truth[:, s].argmax(1)] for s in tree.slices], axis=1)
    sums = {
        "galaxies": np.ones((len(truth), 1)),
        "agree": agreement(truth, predicted)[:, None],
        "top": np.eye(truth.shape[1])[np.where(known, truth, -np.inf).argmax(1)],
        "error": error,
        "squared": error**2,
        "label": centred,
        "label_squared": centred**2,
        "asked": asked,
        "right": asked & right,
        "question_top": top * asked[:, list(tree.question_of)],
    }
    if not known.all():
        weight = known * known.shape[1] / known.sum(1, keepdims=True)
        sums |= {"known": known, "weight": weight, "weighted_squared": weight * error**2}
        sums |= {"weighted_label": weight * centred, "weighted_label_squared": weight * centred**2}
    return {name: values.astype(np.float64, copy=False) for name, values in sums.items()}


def scores(sums: Sums, tree: Tree) -> dict[str, np.ndarray]:
    """The scores that totals of `galaxy_sums` ([..., k] each) give.

    Returns:
      Shape [...]: mse, rmse, guess_rmse (of always predicting the mean of these galaxies, where labels have the
      same weights as in the mse), r2, accuracy, majority_share (the accuracy of always naming the commonest largest
      answer). Shape [..., answers]: answer_rmse, answer_bias (predicted minus true), answer_std, answer_r2. Shape
      [..., questions]: question_accuracy, question_majority. NaN where undefined (a label that never varies or is
      known nowhere, a question that applies to nobody).
    """
    n, starts, answers = sums["galaxies"], [s.start for s in tree.slices], len(tree.columns)
    known, weight = sums.get("known", n), sums.get("weight", n)
    squared, label, label_squared = (sums.get(f"weighted_{x}", sums[x]) for x in ("squared", "label", "label_squared"))
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = sums["label_squared"] - sums["label"] ** 2 / known
        mse = squared.sum(-1) / (n[..., 0] * answers)
        guess = np.where(weight > 0, label_squared - label**2 / weight, 0).sum(-1) / (n[..., 0] * answers)
        return {
            "mse": mse,
            "rmse": np.sqrt(mse),
            "guess_rmse": np.sqrt(guess),
            "r2": np.where(guess > 0, 1 - mse / guess, np.nan),
            "accuracy": (sums["agree"] / n)[..., 0],
            "majority_share": sums["top"].max(-1) / n[..., 0],
            "answer_rmse": np.sqrt(sums["squared"] / known),
            "answer_bias": sums["error"] / known,
            "answer_std": np.sqrt(np.maximum(spread, 0) / known),
            "answer_r2": np.where(spread > 1e-12 * known, 1 - sums["squared"] / spread, np.nan),
            "question_accuracy": sums["right"] / sums["asked"],
            "question_majority": np.maximum.reduceat(sums["question_top"], starts, axis=-1) / sums["asked"],
        }


def bootstrap(
    sums: Sums,
    statistics: Callable[[Sums], dict[str, np.ndarray]],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Percentile bootstrap over galaxies of any statistics of sums.

    Args:
      sums: name -> [N, k] per galaxy.
      statistics: maps name -> [..., k] totals to name -> [...] values.
      resamples: how often N galaxies are drawn with replacement; all names share the draws, so differences
      are paired. seed: of NumPy's generator; the same seed gives the same intervals. level: of the interval.
    """
    names, widths = list(sums), np.cumsum([values.shape[1] for values in sums.values()])[:-1]
    matrix = np.concatenate(list(sums.values()), axis=1, dtype=np.float64)
    n, rng = len(matrix), np.random.default_rng(seed)
    totals = np.empty((resamples, matrix.shape[1]))
    for start in range(0, resamples, 64):  # 64 rows of weights at a time: 40 MB at 80,000 galaxies
        rows = range(start, min(start + 64, resamples))
        weights = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in rows])
        totals[rows.start : rows.stop] = weights.astype(np.float64) @ matrix

    def of(total: np.ndarray) -> dict[str, np.ndarray]:
        return statistics(dict(zip(names, np.split(total, widths, axis=-1), strict=True)))

    value, drawn = of(matrix.sum(0)), of(totals)
    tail = (1 - level) / 2
    result = {}
    for name in value:
        known = np.where(np.isfinite(drawn[name]).any(0), drawn[name], 0.0)  # no warning where all are undefined
        low, high = np.where(np.isfinite(value[name]), np.nanquantile(known, [tail, 1 - tail], axis=0), np.nan)
        result[name] = Estimate(value[name], low, high)
    return result


def reliability(truth: np.ndarray, predicted: np.ndarray, bins: int = 10) -> dict[str, np.ndarray]:
    """Calibration of every answer: the mean true fraction where a certain fraction was predicted.

    Returns:
      count, predicted and true, all [answers, bins] (the last two: means in each bin of the predicted fraction, NaN
      in empty bins), error [answers]: the root mean square of their difference over galaxies with a known label (the
      Brier score's reliability term, as a fraction).
    """
    answers, known = predicted.shape[1], ~np.isnan(truth)
    which = np.clip((predicted * bins).astype(np.int64), 0, bins - 1) + np.arange(answers) * bins

    def total(values: np.ndarray | None) -> np.ndarray:
        weights = None if values is None else values[known].astype(np.float64)
        return np.bincount(which[known], weights, answers * bins).reshape(answers, bins)

    count = total(None)
    with np.errstate(invalid="ignore"):
        p, t = total(predicted) / count, total(truth) / count
        error = np.sqrt(np.nansum(count * (p - t) ** 2, axis=1) / known.sum(0))
    return {"count": count, "predicted": p, "true": t, "error": error}


def reliability_table(table: Mapping[str, np.ndarray], tree: Tree) -> list[dict[str, Any]]:
    """The bins of `reliability` that hold galaxies, one row each."""
    return [
        {"column": column, "galaxies": int(n), "mean predicted": p, "mean true": t}
        for j, column in enumerate(tree.columns)
        for n, p, t in zip(*(table[name][j] for name in ("count", "predicted", "true")), strict=True)
        if n
    ]


def density(truth: np.ndarray, predicted: np.ndarray, bins: int = 40) -> np.ndarray:
    """Galaxies per cell of the true-predicted plane, 0..1 both ways: int64 [answers, predicted bin, true bin]."""
    t, p = (np.clip((values * bins).astype(np.int64), 0, bins - 1) for values in (np.nan_to_num(truth), predicted))
    answers = truth.shape[1]
    cell = (np.arange(answers) * bins + p) * bins + t
    return np.bincount(cell[~np.isnan(truth)], minlength=answers * bins * bins).reshape(answers, bins, bins)


def most_confident(predicted: np.ndarray, galaxy_id: np.ndarray) -> np.ndarray:
    """Row of each answer's highest prediction, int64 [answers]; the lowest id among equals (figure 11)."""
    order = np.argsort(galaxy_id, kind="stable")
    return np.asarray(order[predicted[order].argmax(0)])


def worst_failures(truth: np.ndarray, predicted: np.ndarray, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Rows with the largest RMSE over the answers, worst first, and that RMSE: both [count]."""
    error = np.sqrt(squared_error(truth, predicted))
    rows = np.argsort(-error, kind="stable")[:count]
    return rows, error[rows]


def varied(truth: np.ndarray, count: int) -> np.ndarray:
    """Rows of galaxies whose labels differ most from one another: int64 [count or fewer].

    Each is the galaxy whose nearest one among those before it is furthest, by the sum of squared differences of
    `truth`, [N, answers]; unknown labels count as 0. The first is the one furthest from the mean.
    """
    labels = np.nan_to_num(np.asarray(truth, np.float64))
    nearest, rows = np.square(labels - labels.mean(0)).sum(1), list[int]()
    for _ in range(min(count, len(labels))):
        rows.append(int(nearest.argmax()))
        distance = np.square(labels - labels[rows[-1]]).sum(1)
        nearest = distance if len(rows) == 1 else np.minimum(nearest, distance)
    return np.array(rows, np.int64)


def tree_check(predicted: np.ndarray, tree: Tree) -> list[dict[str, Any]]:
    """Per question, how far the predicted sum lies from that of the answers that lead to it: mean and maximum."""
    off = tree_violation(predicted, tree)
    return [
        {"question": q.text, "mean violation": mean, "largest violation": largest}
        for q, mean, largest in zip(tree.questions, off.mean(0), off.max(0), strict=True)
    ]


def views_gain(
    truth: np.ndarray, views: Mapping[str, np.ndarray], resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """The gain from averaging predictions over rotated and flipped views, one row for each entry of `views`.

    Args:
      truth: [N, answers].
      views: name -> predicted [N, answers]; the first is what the others are compared with.

    Returns:
      Rows with `views`, `rmse` and `gain in rmse`: RMSE of the first minus this one's (positive is better),
      paired.
    """
    squared = np.stack([squared_error(truth, predicted) for predicted in views.values()], axis=1)

    def statistics(s: Sums) -> dict[str, np.ndarray]:
        rmse = np.sqrt(s["squared"] / len(truth))
        return {"rmse": rmse, "gain": rmse[..., :1] - rmse}

    found = bootstrap({"squared": squared}, statistics, resamples, seed)
    return [
        {"views": name, "rmse": found["rmse"].at(i), "gain in rmse": found["gain"].at(i) if i else None}
        for i, name in enumerate(views)
    ]


def answer_table(
    estimates: Mapping[str, Estimate], calibration: np.ndarray, tree: Tree, known: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """One row per answer: RMSE, bias and R2 with intervals, the labels' own spread, the calibration error.

    `known`: galaxies with a label of each answer, [answers], for a column of its own.
    """
    return [
        {
            "column": column,
            "question": tree.questions[tree.question_of[j]].text,
            "answer": tree.texts[j],
            **({} if known is None else {"galaxies": int(known[j])}),
            "rmse": estimates["answer_rmse"].at(j),
            "std of labels": estimates["answer_std"].value[j],
            "bias": estimates["answer_bias"].at(j),
            "r2": estimates["answer_r2"].at(j),
            "calibration error": calibration[j],
        }
        for j, column in enumerate(tree.columns)
    ]


def question_table(estimates: Mapping[str, Estimate], asked: np.ndarray, tree: Tree) -> list[dict[str, Any]]:
    """One row per question: galaxies that it applies to, with labels; accuracy among them; the majority share."""
    return [
        {
            "question": q.text,
            "galaxies": int(asked[i]),
            "accuracy": estimates["question_accuracy"].at(i),
            "majority share": estimates["question_majority"].value[i],
        }
        for i, q in enumerate(tree.questions)
    ]
