"""What the modes say at their end: the numbers with their meaning, and commands that can be pasted."""

import shlex
import types

import pytest

from gz_jax.analysis import merger_report
from gz_jax.analysis.evaluate import Estimate
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.modes import summary
from gz_jax.modes.help import program
from gz_jax.training import log

LINES = 13  # of a summary at most
STATISTICS = {"guess_the_means_rmse": 0.2, "majority_share": 0.5}


def row(epoch=1, loss=0.03, val_loss=0.02):
    return {"epoch": epoch, "loss": loss, "val_loss": val_loss, "val_accuracy": 0.75}


def commands(text):
    """The commands after 'next:', as a shell splits them."""
    lines = text.partition("next:\n")[2].splitlines()
    assert lines
    assert len(text.splitlines()) <= LINES
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    ("script", "start"),
    [
        ("/usr/bin/gz-jax", "gz-jax"),
        ("launch.py", "python launch.py"),
        ("/my code/launch.py", "python '/my code/launch.py'"),
        ("/lib/gz_jax/__main__.py", "python -m gz_jax"),
    ],
)
def test_the_next_command_is_started_as_this_one_was(script, start):
    assert program(script) == start


def test_training_is_told_with_what_guessing_gives():
    text = summary.trained("gz-jax", "my runs/a", row(3), 5, 600, STATISTICS, "my runs/a/report/report.html")
    assert "best epoch (3 of 5) on 600 validation galaxies" in text
    assert "mean squared error 0.020000; always answering the mean fractions: 0.040000" in text
    assert "accuracy 75.0%; always naming the commonest answer: 50.0%" in text
    assert "worse than guessing" not in text
    for found in commands(text):
        assert found[0] == "gz-jax"
        assert "--workdir=my runs/a" in found
    worse = summary.trained("gz-jax", "a", row(val_loss=0.05), 1, 600, STATISTICS, "page")
    assert "worse than guessing: train for more epochs" in worse


def test_evaluation_is_told_by_number_of_views():
    score = Estimate(0.02, 0.01, 0.03)
    numbers = {"galaxies": 600, "guess_rmse": Estimate(0.2, 0.1, 0.3), "majority_share": Estimate(0.5, 0.4, 0.6)}
    numbers["test scores"] = {"galaxies": 1234, "mse": score, "accuracy": Estimate(0.7, 0.6, 0.8)}
    views = [(1, 0.04, 0.7), (8, 0.01, 0.8)]
    text = summary.evaluated("gz-jax", "run", numbers, views, True, "page", ["validation.parquet"], True)
    rows = [line.split() for line in text.splitlines() if line.startswith("  ")]
    assert rows[1:4] == [
        ["1", "view", "0.040000", "0.20000", "70.0%"],
        ["8", "views", "0.010000", "0.10000", "80.0%"],
        ["guessing", "0.040000", "0.20000", "50.0%"],
    ]
    assert "1,234 test galaxies, which took no part in training: MSE 0.02" in text
    predict, mergers = commands(text)
    assert {"--mode=predict", "--views=8", "--workdir=run"} < set(predict)
    assert "--mode=mergers" in mergers
    alone = summary.evaluated("gz-jax", "run", numbers, views[:1], False, "page", [], False)
    assert "too good" not in alone
    assert [found[1] for found in commands(alone)] == ["--mode=evaluate", "--mode=predict"]


def test_after_prediction_evaluation_comes_first_where_mergers_need_it():
    how = {"merger": True, "embeddings": True}
    modes = [found[1] for found in commands(summary.predicted("gz-jax", "a,b", "out", 8, judged=False, **how))]
    assert modes == ["-c", "--mode=evaluate", "--mode=evaluate", "--mode=mergers", "--mode=similar"]
    modes = [found[1] for found in commands(summary.predicted("gz-jax", "a,b", "out", 8, judged=True, **how))]
    assert modes == ["-c", "--mode=mergers", "--mode=similar"]


def merger_results(found, **options):
    """A catalogue of 100 galaxies, and 40 labelled ones, 20 of them mergers, of which `found` are selected."""
    votes = [0.9] * 20 + [0.0] * 20
    scores = [0.8] * found + [0.1] * (20 - found) + [0.0] * 20
    how = {"tree": GALAXY_ZOO_2, "answer": "Class8.6"} | options
    return merger_report.merger_report([0.8] * 10 + [0.0] * 90, scores, votes, **how)


def test_mergers_are_told_with_completeness_first_and_one_estimate_recommended():
    results = merger_results(12)
    text = summary.fraction("gz-jax", "--mode=mergers --workdir=run --input=out", results, "page")
    lines = text.splitlines()
    assert lines[0].startswith("finds 12 of 20 labelled mergers (completeness 0.6")
    assert lines[1] == "of 12 labelled galaxies that it selects, 12 are right"
    (used,) = [line for line in lines if "use this one" in line]
    assert used.startswith("  (d) calibrated probabilities")
    assert "do not rely" not in text
    assert "Only 20 validation galaxies are positive" in text
    rate = "--observability=TIME,ERROR"
    assert commands(text) == [["gz-jax", "--mode=mergers", "--workdir=run", "--input=out", rate]]
    rated = summary.fraction("gz-jax", "", merger_results(12, observability=(0.5, 0.2)), "page")
    assert "(d) calibrated probabilities, per Gyr: " in rated
    assert "next:" not in rated


@pytest.mark.parametrize("found", [0, 4])
def test_a_network_that_finds_few_mergers_recommends_no_estimate(found):
    text = summary.fraction("gz-jax", "--mode=mergers", merger_results(found), "page")
    assert text.startswith(f"finds {found} of 20 labelled mergers")
    assert "do not rely on the fraction" in text
    assert "use this one" not in text
    assert "next:" not in text


def test_the_corrected_count_is_recommended_where_probabilities_cannot_be_calibrated():
    results = merger_results(12)
    unknown = Estimate(float("nan"), 0.0, 1.0)
    estimates = results["estimates"] | {"calibrated": unknown}
    assert summary.recommended(estimates, results["confusion"]) == "corrected"
    assert summary.recommended(estimates | {"corrected": unknown}, results["confusion"]) is None


def test_comparison_shows_the_best_first_and_only_its_differences():
    names = ["c", "a", "b"]
    runs = [
        {"run": name, "val. MSE": Estimate(mse, mse - 0.001, mse + 0.001), "val. accuracy": Estimate(0.5, 0.4, 0.6)}
        for name, mse in zip(names, (0.03, 0.01, 0.02), strict=True)
    ]
    pairs = [("c", "a"), ("c", "b"), ("a", "b")]
    statements = [*(f"{one} against {two}" for one, two in pairs), "Across seeds"]
    result = types.SimpleNamespace(
        runs=runs,
        galaxies=600,
        statements=statements,
        differences=[{"first": one, "second": two} for one, two in pairs],
    )
    text = summary.compared("gz-jax", {name: f"runs/{name}" for name in names}, result, "page")
    shown = [line.split()[0] for line in text.splitlines()[1:4]]
    assert shown == ["a", "b", "c"]
    assert [line.strip() for line in text.splitlines() if "against" in line] == ["c against a", "a against b"]
    assert "Across seeds" in text
    assert "--workdir=runs/a" in commands(text)[0]


def test_one_line_says_once_why_validation_is_worse_than_guessing():
    bad, good = row(1, 0.03, 0.05), row(2, 0.03, 0.03)
    assert "10 are done" in log.lag([bad], STATISTICS, 10)
    assert "(MSE 0.04000)" in log.lag([good, bad], STATISTICS, 10)
    assert log.lag([bad, bad], STATISTICS, 20) == ""  # it has been said
    assert log.lag([bad, good], STATISTICS, 20) == ""
    assert log.lag([row(1, 0.05, 0.06)], STATISTICS, 10) == ""  # training is no better
