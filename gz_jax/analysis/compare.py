"""Compare runs: table 1 with intervals, paired differences, and the spread across seeds.

Differences between runs are computed on the same galaxies, which are resampled together (a paired bootstrap). This
removes the scatter that all runs share. The interval shows the chance in the choice of galaxies, not that in training.
The latter is shown by the spread across runs that differ only in the seed.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from gz_jax.analysis.evaluate import Estimate, Sums, agreement, bootstrap, check, squared_error
from gz_jax.labels import Tree, differences
from gz_jax.runtime.errors import UserError


class Run(NamedTuple):
    """One finished run, at its best checkpoint.

    `history` are the log's rows with Keras' names (epoch, loss, accuracy, val_loss, ...); `truth` and `predicted` are
    [N, answers] for the validation galaxies `galaxy_id`, int64 or str [N], in any order; unknown labels are NaN.
    `config` has every field that decides the run, with the fingerprints of data and pretrained weights. `data` is the
    fingerprint of the data set, `weights` that of the network; None where unknown. `finished`: trained to its last
    epoch or early stopping.
    """

    name: str
    seed: int | None
    history: Sequence[Mapping[str, Any]]
    galaxy_id: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    tree: Tree
    config: Mapping[str, Any] | None = None
    data: str | None = None
    weights: str | None = None
    finished: bool = True


class Comparison(NamedTuple):
    """Tables as rows; a note if the runs' galaxies differ; statements of what is significant."""

    galaxies: int
    note: str | None
    runs: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    seeds: list[dict[str, Any]]
    statements: list[str]


def columns(history: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """A log's rows as float64 columns [epochs]; NaN where a value is absent, empty or not a number."""

    def number(value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            return float("nan")

    names = dict.fromkeys(name for row in history for name in row)
    return {name: np.array([number(row.get(name)) for row in history]) for name in names}


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The epoch, from 1, of the lowest validation loss; None where the log has none."""
    table = columns(history)
    loss = table.get("val_loss", np.array([]))
    if not np.isfinite(loss).any():
        return None
    row = int(np.nanargmin(loss))
    return int(table["epoch"][row]) if "epoch" in table else row + 1


def align(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], str | None]:
    """The galaxies all runs were validated on: (galaxy_id, truth, predicted of each run, a note or None).

    Raises:
      UserError: two runs of one name, no galaxy in common, a galaxy twice in a run, other trees or labels.
    """
    if not runs:
        raise UserError("there are no runs to compare")
    if len({run.name for run in runs}) < len(runs):
        raise UserError(f"two runs have the same name: {', '.join(run.name for run in runs)}")
    for run in runs:
        if unlike := differences(runs[0].tree, run.tree):
            raise UserError(
                f"runs {runs[0].name!r} and {run.name!r} cannot be compared: they have different decision trees "
                f"({runs[0].tree.name} and {run.tree.name}): {'; '.join(unlike)}"
            )
        if len(np.unique(run.galaxy_id)) != len(run.galaxy_id):
            raise UserError(f"run {run.name!r} has predictions for some galaxies more than once")
    common = reduce(np.intersect1d, [run.galaxy_id for run in runs])
    if not len(common):
        raise UserError("the runs share no validation galaxy, so they cannot be compared: use the same data and split")
    truth, predicted = list[np.ndarray](), list[np.ndarray]()
    for run in runs:
        _, rows, _ = np.intersect1d(run.galaxy_id, common, assume_unique=True, return_indices=True)
        true_rows, predicted_rows = run.truth[rows], run.predicted[rows]
        check(true_rows, predicted_rows, run.tree)
        if truth and not np.allclose(true_rows, truth[0], atol=1e-5, equal_nan=True):
            why = "they have different labels for the same galaxies: use the same labels for both"
            if run.data != runs[0].data:
                why = (
                    f"their validation galaxies are not the same ones. {runs[0].name!r} has {_galaxies_of(runs[0])}, "
                    f"{run.name!r} has {_galaxies_of(run)}. Compare runs that were trained on the same data"
                )
            raise UserError(f"runs {runs[0].name!r} and {run.name!r} cannot be compared: {why}.")
        truth.append(true_rows)
        predicted.append(predicted_rows)
    note = None
    if any(len(run.galaxy_id) != len(common) for run in runs):
        sizes = ", ".join(f"{run.name} {len(run.galaxy_id):,}" for run in runs)
        note = (
            f"The runs were validated on different galaxies ({sizes}). This page uses the {len(common):,} galaxies "
            "that all runs were validated on."
        )
    return common, truth[0], predicted, note


def _galaxies_of(run: Run) -> str:
    """What a run's galaxies are, as its config says."""
    known = {
        "synthetic": "synthetic galaxies",
        "galaxy_zoo": "galaxies from Kaggle's files",
        "catalogue": "galaxies from a table",
    }
    return known.get(str((run.config or {}).get("data.source")), "other galaxies")


def _verdict(first: str, second: str, difference: Estimate, lower_is_better: bool) -> str:
    if difference.low <= 0 <= difference.high:
        return "not significant"
    return f"{first if (difference.value < 0) == lower_is_better else second} is better"


def compare(runs: Sequence[Run], resamples: int = 1000, seed: int = 0) -> Comparison:
    """Table 1 of the paper for any runs, with 95 % intervals and the paired difference of every two."""
    common, truth, predicted, note = align(runs)
    squared = np.stack([squared_error(truth, p) for p in predicted], axis=1)
    right = np.stack([agreement(truth, p) for p in predicted], axis=1)
    pairs = list(itertools.combinations(range(len(runs)), 2))
    a, b = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))

    def statistics(s: Sums) -> dict[str, np.ndarray]:
        mse, accuracy = s["squared"] / len(common), s["right"] / len(common)
        return {
            "mse": mse,
            "rmse": np.sqrt(mse),
            "accuracy": accuracy,
            "mse difference": mse[..., a] - mse[..., b],
            "accuracy difference": accuracy[..., a] - accuracy[..., b],
        }

    found = bootstrap({"squared": squared, "right": right}, statistics, resamples, seed)
    table = [
        {
            "run": run.name,
            "val. MSE": found["mse"].at(i),
            "val. accuracy": found["accuracy"].at(i),
            "val. RMSE": found["rmse"].at(i),
            "best epoch": best_epoch(run.history),
            "epochs": len(run.history),
            "seed": run.seed,
        }
        for i, run in enumerate(runs)
    ]
    paired: list[dict[str, Any]] = []
    statements: list[str] = []
    for k, (i, j) in enumerate(pairs):
        first, second = runs[i].name, runs[j].name
        row: dict[str, Any] = {"first": first, "second": second}
        for name, lower_is_better in (("MSE", True), ("accuracy", False)):
            row[f"{name} difference"] = difference = found[f"{name.lower()} difference"].at(k)
            row[f"{name} verdict"] = _verdict(first, second, difference, lower_is_better)
        paired.append(row)
        statements.append(f"{first} against {second}: MSE, {row['MSE verdict']}; accuracy, {row['accuracy verdict']}.")
    spread, seed_statements = seed_spread(runs, found["mse"].value, found["accuracy"].value)
    return Comparison(len(common), note, table, paired, spread, statements + seed_statements)


def seed_spread(runs: Sequence[Run], mse: np.ndarray, accuracy: np.ndarray) -> tuple[list[dict[str, Any]], list[str]]:
    """Spread over runs whose configs differ in the seed alone, and Welch's t-test between such groups.

    Each seed and each network counts once: copies of a run, or runs of one seed, are no repetition. Unfinished runs do
    not count. Statements say which runs were left out.
    """
    groups: dict[str, list[int]] = {}
    statements = []
    for i, run in enumerate(runs):
        if run.config is None:
            continue
        rest = {key: value for key, value in run.config.items() if key != "seed"} | {"data": run.data}
        group = groups.setdefault(json.dumps(rest, sort_keys=True, default=str), [])
        same = {
            f"both have seed {run.seed}": [j for j in group if runs[j].seed == run.seed],
            "they are the same network": [j for j in group if run.weights and runs[j].weights == run.weights],
        }
        if not run.finished:
            statements.append(f"{run.name} does not count for the spread across seeds: its training is not finished.")
        elif why := next((why for why, members in same.items() if members), None):
            beside = runs[same[why][0]].name
            statements.append(f"{run.name} does not count as another seed beside {beside}: {why}.")
        else:
            group.append(i)
    repeated = [members for members in groups.values() if len(members) > 1]
    rows: list[dict[str, Any]] = []
    for members in repeated:
        rows.append({"runs": ", ".join(runs[i].name for i in members), "seeds": len(members)})
        for what, values in (("MSE", mse[members]), ("accuracy", accuracy[members])):
            spread = {"mean": values.mean(), "std": values.std(ddof=1), "min": values.min(), "max": values.max()}
            rows[-1] |= {f"{what} {name}": float(value) for name, value in spread.items()}
    for first, second in itertools.combinations(repeated, 2):
        p = float(stats.ttest_ind(mse[first], mse[second], equal_var=False).pvalue)
        verdict = "the MSE differs" if p < 0.05 else "not significant: no difference of the MSE could be shown"
        statements.append(
            f"Across seeds, {runs[first[0]].name} ({len(first)} seeds) against {runs[second[0]].name} "
            f"({len(second)} seeds): {verdict} (Welch's t-test, p = {p:.2g})."
        )
    return rows, statements
