"""The reports of a run and of several runs compared. Each is a function from arrays to files."""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gz_jax.analysis import compare, evaluate, mergers, noise, plots, plots_calibration, plots_labels, plots_predictions
from gz_jax.analysis.calibration import Judged
from gz_jax.analysis.evaluate import Estimate
from gz_jax.analysis.page import Picture, Section, Table, note_on, publish, text
from gz_jax.analysis.plots_noise import error_budget
from gz_jax.analysis.plots_words import galaxies_in_words
from gz_jax.inference.words import beside
from gz_jax.labels import GALAXY_ZOO_2, Tree
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import atomic
from gz_jax.runtime.progress import Bar

Images = Callable[[np.ndarray], np.ndarray]  # int64 [n] rows -> uint8 [n, S, S, 3]
GRID = 24  # galaxies in a picture of mergers or examples
VARIED = 8  # galaxies described in words
THRESHOLDS = np.linspace(0.01, 0.99, 99)


class TestSet(NamedTuple):
    """Test galaxies: ids int64 or str [M], predicted [M, answers], images by row, and labels [M, answers] if any.

    A test galaxy may have no known label.
    """

    galaxy_id: np.ndarray
    predicted: np.ndarray
    images: Images | None = None
    truth: np.ndarray | None = None


class EvaluationInputs(NamedTuple):
    """A run's predictions for labelled galaxies and what is known of it.

    `galaxy_id` is int64 or str [N]; `truth` and `predicted` are [N, answers] of `tree`, `truth` NaN where unknown, each
    galaxy with a known label. `images(rows)` reads galaxies by row of these arrays; without it the pictures are left
    out. `history` are the log's rows with Keras' names. `views` maps a text such as '16 views' to predictions
    [N, answers]; the others are compared with the first. `judged`: how well the network's intervals hold. `context` may
    hold config, versions, commit, data fingerprint, timings: anything JSON-ready. `chosen_here`: the best epoch was
    chosen on these galaxies.
    """

    name: str
    galaxy_id: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    tree: Tree
    history: Sequence[Mapping[str, Any]] = ()
    images: Images | None = None
    views: Mapping[str, np.ndarray] | None = None
    test: TestSet | None = None
    context: Mapping[str, Any] | None = None
    chosen_here: bool = True
    merger_threshold: float = 0.3
    resamples: int = 1000
    judged: Judged | None = None
    volunteers: np.ndarray | None = None


OPTIMISM = (
    "The best epoch was chosen by its error on these same galaxies, which is partly chance. So the scores are slightly "
    "too good. Galaxies that took no part in training or in this choice give unbiased scores."
)
PARTLY = (
    "Labels are partly unknown. Every score is over the known ones; the error of a galaxy is the mean over its known "
    "answers."
)
FRESH = "They took no part in training, nor in the choice of the best epoch."
SCORES = {
    "mse": "mean squared error of the vote fractions, over galaxies and answers",
    "rmse": "its root, the metric of Kaggle's competition",
    "guess_rmse": "RMSE of always predicting the mean fractions of these galaxies",
    "r2": "share of the labels' variance explained",
    "accuracy": "share of galaxies whose largest predicted answer, of all {answers}, is the volunteers' (as in Keras)",
    "majority_share": "the accuracy of always naming the commonest of these answers",
}


def evaluation_report(inputs: EvaluationInputs, outdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything about one run's predictions, as files in `outdir`; returns the overall numbers.

    Raises:
      UserError: nothing to evaluate, or values that are not finite.
    """
    truth, predicted, tree = inputs.truth, inputs.predicted, inputs.tree
    ids, words = np.asarray(inputs.galaxy_id), {"answers": len(tree.columns)}
    evaluate.check(truth, predicted, tree)
    with Bar("computing scores and their intervals"):
        sums, found = _scored(truth, predicted, tree, inputs.resamples)
    numbers = {"run": inputs.name, "galaxies": len(truth), **{name: found[name] for name in SCORES}}
    optimism, partly = OPTIMISM if inputs.chosen_here else "", [PARTLY] if "known" in sums else []
    sections = [
        *_words(inputs),
        *_training(inputs),
        Section("scores", [_scores("scores", found, tree)], {"galaxies": len(truth), "optimism": optimism}, partly),
        *_answers(found, sums, inputs),
        *_noise(inputs, numbers),
        *([] if inputs.images is None else _galaxies(inputs.images, inputs, ids)),
    ]
    merger = None if tree.merger is None else tree.index(tree.merger)
    if merger is not None:
        numbers["mergers"], section = _mergers(inputs, ids, merger)
        sections.append(section)
    sections.append(_tree(predicted, tree))
    if inputs.judged is not None:
        numbers["intervals"], section = _intervals(inputs.judged, tree)
        sections.append(section)
    if inputs.views:
        with Bar("computing what the views gain"):
            gains = evaluate.views_gain(truth, inputs.views, inputs.resamples)
        sections.append(Section("views", [Table("views", gains)]))
    if inputs.test is not None:
        numbers |= _test(inputs, inputs.test, merger, sections)
    value = {name: float(found[name].value) for name in SCORES}
    low, high = found["rmse"].low, found["rmse"].high
    cards = [
        ("RMSE", f"{value['rmse']:.4f}", f"95 % interval {low:.4f} to {high:.4f}"),
        ("MSE", f"{value['mse']:.5f}", f"guessing the means: {value['guess_rmse'] ** 2:.5f}"),
        ("accuracy", f"{value['accuracy']:.1%}", f"the commonest answer: {value['majority_share']:.1%}"),
        ("galaxies", text(len(truth)), "predicted and compared"),
    ]
    context = inputs.context or {}
    note = note_on(context.get("config"))
    publish(outdir, f"{tree.name}: {inputs.name}", sections, numbers, cards, context, words, note)
    return numbers


def _intervals(judged: Judged, tree: Tree) -> tuple[dict[str, Any], Section]:
    """Coverage, sharpness and transforms, question by question."""
    found = {f"in {level:.0%}": (judged.coverage, level) for level in (0.5, 0.9)}
    found |= {"in 90%, not calibrated": (judged.alone, 0.9)} if judged.alone is not None else {}
    found |= {"true fraction in 90%": (judged.true, 0.9)} if judged.true is not None else {}
    rows = []
    for i, question in enumerate(tree.questions):
        shares = {
            name: Estimate(of.share[i, k], of.low[i, k], of.high[i, k])
            for name, (of, level) in found.items()
            for k in [int(np.argmin(np.abs(of.level - level)))]
        }
        rows.append({"question": question.text, "asked": int(judged.asked[i]), **shares, "width": judged.width[i]})
    pictures = [Picture("coverage", lambda: plots_calibration.coverage(judged, tree))]
    numbers: dict[str, Any] = {"kind": judged.kind, "questions": rows}
    if judged.pit is not None and judged.log_likelihood is not None:
        pictures.append(Picture("transforms", lambda: plots_calibration.transforms(judged, tree)))
        numbers["log_likelihood"] = float(judged.log_likelihood.mean())
    about = "intervals_dirichlet" if judged.kind == "dirichlet" else "intervals_conformal"
    return numbers, Section(about, [*pictures, Table("intervals", rows)], numbers)


def _scores(name: str, found: Mapping[str, Estimate], tree: Tree) -> Table:
    meanings = {score: words.format(answers=len(tree.columns)) for score, words in SCORES.items()}
    return Table(name, [{"score": k, "value": found[k], "meaning": meanings[k]} for k in SCORES])


def _scored(
    truth: np.ndarray, predicted: np.ndarray, tree: Tree, resamples: int
) -> tuple[evaluate.Sums, dict[str, Estimate]]:
    """Sums by galaxy, and the scores with their intervals."""
    sums = evaluate.galaxy_sums(truth, predicted, tree)
    return sums, evaluate.bootstrap(sums, functools.partial(evaluate.scores, tree=tree), resamples)


def _test(inputs: EvaluationInputs, test: TestSet, merger: int | None, sections: list[Section]) -> dict[str, Any]:
    """Append sections on the test galaxies: scores if they have labels, and mergers. Returns the numbers."""
    truth, numbers = test.truth, dict[str, Any]()
    known = np.zeros(len(test.predicted), bool) if truth is None else np.isfinite(truth).any(1)
    if truth is not None and known.any():
        evaluate.check(truth[known], test.predicted[known], inputs.tree)
        _, found = _scored(truth[known], test.predicted[known], inputs.tree, inputs.resamples)
        of = {"galaxies": int(known.sum()), "of": len(known), "fresh": FRESH if inputs.chosen_here else ""}
        sections.append(Section("test_scores", [_scores("test_scores", found, inputs.tree)], of))
        numbers["test scores"] = {"galaxies": int(known.sum()), **{name: found[name] for name in SCORES}}
    if merger is not None:
        votes = truth[:, merger] if truth is not None and known.any() else None
        given, what = test.predicted[:, merger], "galaxies without labels" if votes is None else "test galaxies"
        numbers["test"], items, values = _selection(inputs, "mergers_test", given, votes, test.galaxy_id, test.images)
        sections.append(Section("test", items, {**values, "what": what}))
    return numbers


def _training(inputs: EvaluationInputs) -> list[Section]:
    history = compare.columns(inputs.history)
    if not np.isfinite(history.get("loss", np.nan)).any():
        return []
    best = compare.best_epoch(inputs.history)
    prose = ["1 epoch." if len(inputs.history) == 1 else f"{len(inputs.history)} epochs."]
    prose += [] if best is None else [f"Epoch {best} has the lowest validation loss."]
    if "epoch_seconds" in history:
        prose.append(f"Training took {np.nansum(history['epoch_seconds']) / 60:.1f} minutes.")
    picture = Picture("loss_curve", lambda: plots.loss_curve(history, inputs.name))
    return [Section("training", [picture, Table("history", inputs.history)], text=[" ".join(prose)])]


def _answers(found: Mapping[str, Estimate], sums: evaluate.Sums, inputs: EvaluationInputs) -> list[Section]:
    truth, predicted, tree = inputs.truth, inputs.predicted, inputs.tree
    calibration, asked = evaluate.reliability(truth, predicted), sums["asked"].sum(0)
    spread, majority = found["answer_std"].value, found["question_majority"].value
    density, draw = evaluate.density(truth, predicted), functools.partial
    of_answers = draw(plots_predictions.answer_scores, *found["answer_rmse"], spread, tree)
    of_questions = draw(plots_predictions.question_scores, *found["question_accuracy"], majority, asked, tree)
    against = draw(plots_predictions.predicted_vs_true, density, found["answer_rmse"].value, tree)
    diagrams = draw(plots_predictions.reliability_diagrams, calibration, tree)
    known = sums["known"].sum(0) if "known" in sums else None
    answer_rows = evaluate.answer_table(found, calibration["error"], tree, known)
    question_rows, bins = evaluate.question_table(found, asked, tree), evaluate.reliability_table(calibration, tree)
    return [
        Section("answers", [Picture("answer_rmse", of_answers), Table("per_answer", answer_rows)]),
        Section(
            "questions",
            [Picture("question_accuracy", of_questions), Table("per_question", question_rows)],
            {"percent": 100 * evaluate.APPLIES},
        ),
        Section("predicted", [Picture("predicted_vs_true", against)]),
        Section("calibration", [Picture("reliability", diagrams), Table("reliability", bins)]),
    ]


def _words(inputs: EvaluationInputs) -> list[Section]:
    """A few galaxies beside what the network and the volunteers say of them."""
    if inputs.images is None:
        return []
    images, rows = inputs.images, evaluate.varied(inputs.truth, VARIED)
    said = [beside(inputs.predicted[row], inputs.truth[row], inputs.tree) for row in rows]
    picture = Picture("galaxies_in_words", lambda: galaxies_in_words(images(rows), said))
    return [Section("words", [picture])]


def _noise(inputs: EvaluationInputs, numbers: dict[str, Any]) -> list[Section]:
    """How much of the squared error is the votes' noise, where the number of volunteers is known; adds to `numbers`."""
    if inputs.volunteers is None:
        return []
    found = noise.budget(inputs.truth, inputs.predicted, inputs.volunteers, inputs.tree)
    if found is None:
        return []
    rows = [
        {
            "question": q.text,
            "part of the mean squared error": e,
            "noise of the votes": n,
            "share of noise": n / e if e > 0 else None,
        }
        for q, e, n in zip(inputs.tree.questions, found.error, found.noise, strict=True)
    ]
    total = {"galaxies": found.galaxies, "mse": float(found.error.sum()), "noise": float(found.noise.sum())}
    numbers["noise of the votes"] = total
    picture = Picture("error_budget", lambda: error_budget(found, inputs.tree))
    values = {**total, "share": 100 * total["noise"] / total["mse"], "volunteers": float(np.median(inputs.volunteers))}
    return [Section("noise", [picture, Table("error_budget", rows)], values)]


def _galaxies(images: Images, inputs: EvaluationInputs, ids: np.ndarray) -> list[Section]:
    truth, predicted, tree = inputs.truth, inputs.predicted, inputs.tree
    top, (worst, error) = evaluate.most_confident(predicted, ids), evaluate.worst_failures(truth, predicted)
    best_rows = [
        {"column": c, "galaxy_id": str(ids[r]), "predicted": predicted[r, j], "true": truth[r, j]}
        for j, (c, r) in enumerate(zip(tree.columns, top, strict=True))
    ]
    worst_rows = [{"galaxy_id": str(ids[r]), "rmse": e} for r, e in zip(worst, error, strict=True)]
    titles = [f"{row['galaxy_id']}, RMSE {row['rmse']:.2f}" for row in worst_rows]
    confident = Picture("most_confident", lambda: plots_labels.answer_images(images(top), predicted.max(0), tree))
    values = truth[worst], predicted[worst], titles, tree
    failures = Picture("worst_failures", lambda: plots_predictions.failures(images(worst), *values))
    return [
        Section("confident", [confident, Table("most_confident", best_rows)]),
        Section("failures", [failures, Table("worst_failures", worst_rows)]),
    ]


def _selection(
    inputs: EvaluationInputs,
    name: str,
    predicted: np.ndarray,
    truth: np.ndarray | None,
    ids: np.ndarray,
    images: Images | None,
) -> tuple[dict[str, Any], list[Picture | Table], dict[str, Any]]:
    """Galaxies above the threshold: numbers, a grid of the first with the table of them, and what their texts need."""
    found, rows = mergers.mergers(predicted, truth, inputs.merger_threshold)
    shown = rows[:GRID]
    voted = ["" if truth is None or np.isnan(truth[r]) else f" (volunteers {truth[r]:.2f})" for r in shown]
    captions = [f"{ids[r]}\n{predicted[r]:.2f}{votes}" for r, votes in zip(shown, voted, strict=True)]
    items: list[Picture | Table] = [Table(name, [{"quantity": key, "value": x} for key, x in found.items()])]
    if images is not None and len(shown):
        picture = "mergers_test" if name == "mergers_test" else "mergers_validation"
        items.insert(0, Picture(picture, lambda: plots.mosaic(images(shown), captions)))
    return found, items, {**found, "shown": len(shown)}


def _mergers(inputs: EvaluationInputs, ids: np.ndarray, merger: int) -> tuple[dict[str, Any], Section]:
    truth, predicted, column = inputs.truth[:, merger], inputs.predicted[:, merger], inputs.tree.columns[merger]
    found, items, values = _selection(inputs, "mergers", predicted, truth, ids, inputs.images)
    if not np.isfinite(truth).any():
        return found, Section("mergers", items, values, ["No validation galaxy has a label of this answer."])
    curve = mergers.merger_curve(truth, predicted, THRESHOLDS, inputs.merger_threshold)
    steps = [{"threshold": t, "purity": p, "completeness": c} for t, p, c in zip(THRESHOLDS, *curve, strict=True)]
    draw = lambda: plots_predictions.purity_completeness(THRESHOLDS, curve, inputs.merger_threshold, column)  # noqa: E731
    items += [Picture("purity_completeness", draw), Table("merger_curve", steps)]
    return found, Section("mergers", items, values)


def _tree(predicted: np.ndarray, tree: Tree) -> Section:
    rows = evaluate.tree_check(predicted, tree)
    largest = max(row["largest violation"] for row in rows)
    verdict = "They do here." if largest < 1e-3 else f"Here they differ from that by up to {largest:.3f}."
    return Section("tree", [Table("tree", rows)], {"verdict": verdict})


def compare_report(
    runs: Sequence[compare.Run],
    outdir: str | os.PathLike[str],
    context: Mapping[str, Any] | None = None,
    resamples: int = 1000,
) -> compare.Comparison:
    """Table 1 and figures 8 and 9 of the paper for any runs, as files in `outdir`; returns the tables.

    Raises:
      UserError: the runs cannot be compared (see `compare.align`).
    """
    with Bar("comparing the runs"):
        result, tree = compare.compare(runs, resamples), runs[0].tree
    histories = {run.name: compare.columns(run.history) for run in runs}
    notes = [result.note] if result.note else []
    values = {"galaxies": result.galaxies, "optimism": OPTIMISM}
    sections = [Section("runs", [Table("runs", result.runs)], values, notes)]
    if result.differences:
        table = Table("differences", result.differences)
        few = result.statements[: len(result.differences)] if len(runs) <= 3 else []
        sections.append(Section("differences", [table], text=few))
    if any("val_loss" in history for history in histories.values()):
        draw, label = plots.run_curves, f"accuracy (largest of the {len(tree.columns)} answers)"
        loss = Picture("runs_loss", lambda: draw(histories, "val_loss", "mean squared error", log=True))
        accuracy = Picture("runs_accuracy", lambda: draw(histories, "val_accuracy", label))
        sections.append(Section("curves", [loss, accuracy]))
    of_seeds = result.statements[len(result.differences) :]
    if result.seeds or of_seeds:
        sections.append(Section("seeds", [Table("seeds", result.seeds)] if result.seeds else [], text=of_seeds))
    best = min(result.runs, key=lambda row: row["val. MSE"].value)
    cards = [("lowest MSE", f"{best['val. MSE'].value:.5f}", best["run"]), ("runs", str(len(runs)), "compared")]
    numbers = {"galaxies": result.galaxies, "note": result.note, "statements": result.statements}
    note = next(filter(None, (note_on(run.config) for run in runs)), "")  # they share their galaxies
    publish(outdir, f"{tree.name}: runs compared", sections, numbers, cards, context, note=note)
    return result


def write_submission(path: str | os.PathLike[str], galaxy_id: np.ndarray, predicted: np.ndarray) -> None:
    """Kaggle's submission: header GalaxyID,Class1.1,...; a row for each galaxy, by id; whole or not at all.

    Args:
      galaxy_id: int64 [N], each once.
      predicted: [N, 37], of Galaxy Zoo 2's answers as Kaggle orders them; finite.

    Raises:
      UserError: Kaggle would refuse it.
    """
    columns = GALAXY_ZOO_2.columns
    if predicted.shape != (len(galaxy_id), len(columns)) or not len(galaxy_id):
        raise UserError(f"a submission needs {len(columns)} predictions for each galaxy, not {predicted.shape}")
    if bad := int((~np.isfinite(predicted)).any(axis=1).sum()):
        raise UserError(f"{bad} galaxies have predictions that are not finite numbers; Kaggle would refuse them")
    order = np.argsort(galaxy_id, kind="stable")
    if (np.diff(np.asarray(galaxy_id)[order]) == 0).any():
        raise UserError("some galaxies are predicted more than once; a submission has each once")
    with atomic(pathlib.Path(path), encoding="ascii", newline="") as file:
        file.write(",".join(("GalaxyID", *columns)) + "\n")
        for i in order:
            file.write(f"{galaxy_id[i]}," + ",".join(f"{x:.7g}" for x in predicted[i].tolist()) + "\n")
