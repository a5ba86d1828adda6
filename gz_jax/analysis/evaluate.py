"""How good the predictions are: scores, intervals over galaxies, calibration, failures.

Every score is a function of sums over galaxies. The sums are taken per galaxy once; the bootstrap then
resamples galaxies by multiplying a matrix of multinomial weights with them, so that a thousand resamples of
all scores take seconds. Sums are float64. Arguments are `truth` and `predicted`, both [N, answers].
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
    """Both must be [N, answers] and finite.

    Raises:
      UserError: shapes differ, there is no galaxy, or a value is not finite.
    """
    answers = len(tree.columns)
    if truth.shape != predicted.shape or truth.shape[1:] != (answers,):
        raise UserError(f"true {truth.shape} and predicted {predicted.shape} fractions must both be [N, {answers}]")
    if not len(truth):
        raise UserError("there is no galaxy to evaluate")
    for name, array in (("true", truth), ("predicted", predicted)):
        if bad := int((~np.isfinite(array)).any(axis=1).sum()):
            raise UserError(
                f"{bad} of {len(array)} galaxies have {name} vote fractions that are not finite numbers; "
                "evaluate galaxies that have labels, with a model whose training did not diverge"
            )


def agreement(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Keras' `categorical_accuracy` per galaxy, bool [N]: the largest of all answers is the same one."""
    return truth.argmax(-1) == predicted.argmax(-1)


def squared_error(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Mean squared error over the answers of each galaxy, float64 [N]."""
    return np.square(np.subtract(predicted, truth, dtype=np.float64)).mean(1)


def applies(truth: np.ndarray, tree: Tree) -> np.ndarray:
    """Where a question applies: the answers that lead to it add up to APPLIES, or are none; bool [N, questions]."""
    slack = 1e-6  # of the sum of several float32 shares
    shares = [truth[:, list(p)].sum(1) + (slack if len(p) != 1 else 0) + (not p) for p in tree.parents]
    return np.stack(shares, axis=1) >= APPLIES


def galaxy_sums(truth: np.ndarray, predicted: np.ndarray, tree: Tree) -> dict[str, np.ndarray]:
    """Everything that the scores add up, per galaxy: name -> float64 [N, k]."""
    error = np.subtract(predicted, truth, dtype=np.float64)
    centred = np.subtract(truth, truth.mean(0, dtype=np.float64), dtype=np.float64)
    asked = applies(truth, tree)
    right = np.stack([truth[:, s].argmax(1) == predicted[:, s].argmax(1) for s in tree.slices], axis=1)
    top = np.concatenate([np.eye(s.stop - s.start)[truth[:, s].argmax(1)] for s in tree.slices], axis=1)
    sums = {
        "galaxies": np.ones((len(truth), 1)),
        "agree": agreement(truth, predicted)[:, None],
        "top": np.eye(truth.shape[1])[truth.argmax(1)],
        "error": error,
        "squared": error**2,
        "label": centred,
        "label_squared": centred**2,
        "asked": asked,
        "right": asked & right,
        "question_top": top * asked[:, list(tree.question_of)],
    }
    return {name: values.astype(np.float64, copy=False) for name, values in sums.items()}


def scores(sums: Sums, tree: Tree) -> dict[str, np.ndarray]:
    """The scores that totals of `galaxy_sums` ([..., k] each) give.

    Returns:
      Shape [...]: mse, rmse, guess_rmse (of always answering the mean of these very galaxies), r2, accuracy,
      majority_share (the accuracy of always naming the commonest largest answer). Shape [..., answers]:
      answer_rmse, answer_bias (predicted minus true), answer_std, answer_r2. Shape [..., questions]:
      question_accuracy, question_majority. NaN where undefined (a label that never varies, a question that
      applies to nobody).
    """
    n = sums["galaxies"]
    spread = sums["label_squared"] - sums["label"] ** 2 / n
    starts, answers = [s.start for s in tree.slices], len(tree.columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        mse = sums["squared"].sum(-1) / (n[..., 0] * answers)
        guess = spread.sum(-1) / (n[..., 0] * answers)
        return {
            "mse": mse,
            "rmse": np.sqrt(mse),
            "guess_rmse": np.sqrt(guess),
            "r2": np.where(guess > 0, 1 - mse / guess, np.nan),
            "accuracy": (sums["agree"] / n)[..., 0],
            "majority_share": sums["top"].max(-1) / n[..., 0],
            "answer_rmse": np.sqrt(sums["squared"] / n),
            "answer_bias": sums["error"] / n,
            "answer_std": np.sqrt(np.maximum(spread, 0) / n),
            "answer_r2": np.where(spread > 1e-12 * n, 1 - sums["squared"] / spread, np.nan),
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
      in empty bins), error [answers]: the root mean square of their difference over galaxies (the Brier
      score's reliability term, as a fraction).
    """
    answers = predicted.shape[1]
    which = np.clip((predicted * bins).astype(np.int64), 0, bins - 1) + np.arange(answers) * bins

    def total(values: np.ndarray | None) -> np.ndarray:
        weights = None if values is None else values.astype(np.float64).ravel()
        return np.bincount(which.ravel(), weights, answers * bins).reshape(answers, bins)

    count = total(None)
    with np.errstate(invalid="ignore"):
        p, t = total(predicted) / count, total(truth) / count
    return {
        "count": count,
        "predicted": p,
        "true": t,
        "error": np.sqrt(np.nansum(count * (p - t) ** 2, axis=1) / len(truth)),
    }


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
    t, p = (np.clip((values * bins).astype(np.int64), 0, bins - 1) for values in (truth, predicted))
    answers = truth.shape[1]
    cell = (np.arange(answers) * bins + p) * bins + t
    return np.bincount(cell.ravel(), minlength=answers * bins * bins).reshape(answers, bins, bins)


def most_confident(predicted: np.ndarray, galaxy_id: np.ndarray) -> np.ndarray:
    """Row of each answer's highest prediction, int64 [answers]; the lowest galaxy_id among equals (figure 11)."""
    ids = np.where(predicted == predicted.max(0), np.asarray(galaxy_id)[:, None], np.iinfo(np.int64).max)
    return ids.argmin(0)


def worst_failures(truth: np.ndarray, predicted: np.ndarray, count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Rows with the largest RMSE over the answers, worst first, and that RMSE: both [count]."""
    error = np.sqrt(squared_error(truth, predicted))
    rows = np.argsort(-error, kind="stable")[:count]
    return rows, error[rows]


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
    """What averaging predictions over rotated and flipped views gains, one row per entry of `views`.

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


def answer_table(estimates: Mapping[str, Estimate], calibration: np.ndarray, tree: Tree) -> list[dict[str, Any]]:
    """One row per answer: RMSE, bias and R2 with intervals, the labels' own spread, the calibration error."""
    return [
        {
            "column": column,
            "question": tree.questions[tree.question_of[j]].text,
            "answer": tree.texts[j],
            "rmse": estimates["answer_rmse"].at(j),
            "std of labels": estimates["answer_std"].value[j],
            "bias": estimates["answer_bias"].at(j),
            "r2": estimates["answer_r2"].at(j),
            "calibration error": calibration[j],
        }
        for j, column in enumerate(tree.columns)
    ]


def question_table(estimates: Mapping[str, Estimate], asked: np.ndarray, tree: Tree) -> list[dict[str, Any]]:
    """One row per question: galaxies it applies to, accuracy among them, the majority share beside it."""
    return [
        {
            "question": q.text,
            "galaxies": int(asked[i]),
            "accuracy": estimates["question_accuracy"].at(i),
            "majority share": estimates["question_majority"].value[i],
        }
        for i, q in enumerate(tree.questions)
    ]
