"""Runs side by side: alignment, verdicts, spread across seeds."""

import dataclasses

import numpy as np
import pytest
from galaxies import fractions, history, holes

from gz_jax.analysis import compare
from gz_jax.labels import GALAXY_ZOO_2, load
from gz_jax.runtime.errors import UserError

TRUTH = fractions(600, seed=0)
IDS = np.arange(600) * 7 + 100_000


def run(name, noise, seed=0, order=None, config=None, truth=TRUTH):
    rng = np.random.default_rng(hash_of(name))
    predicted = np.clip(truth + rng.normal(scale=noise, size=truth.shape), 0, 1).astype(np.float32)
    order = np.arange(len(truth)) if order is None else order
    return compare.Run(name, seed, history(6), IDS[order], truth[order], predicted[order], GALAXY_ZOO_2, config)


def hash_of(name):
    return sum(map(ord, name))


def test_rows_are_matched_by_galaxy_not_by_place():
    a, b = run("a", 0.05), run("b", 0.1)
    order = np.random.default_rng(0).permutation(600)
    shuffled = b._replace(galaxy_id=b.galaxy_id[order], truth=b.truth[order], predicted=b.predicted[order])
    straight, mixed = compare.compare([a, b]), compare.compare([a, shuffled])
    assert straight.runs == mixed.runs
    assert straight.note is None
    expected = np.mean((a.predicted.astype(np.float64) - a.truth) ** 2)
    assert straight.runs[0]["val. MSE"].value == pytest.approx(expected, rel=1e-9)
    assert straight.runs[0]["best epoch"] == 3
    difference = straight.differences[0]["MSE difference"]
    assert difference.value == pytest.approx(straight.runs[0]["val. MSE"].value - straight.runs[1]["val. MSE"].value)


def test_texts_and_partly_known_labels_are_matched_by_galaxy():
    names = np.array([f"SDSS J{i}" for i in IDS])
    a, b = (run(name, noise, truth=holes(TRUTH)) for name, noise in (("a", 0.05), ("b", 0.1)))
    assert np.isfinite(a.predicted).mean() < 1
    a, b = (r._replace(predicted=np.nan_to_num(r.predicted, nan=0.3), galaxy_id=names) for r in (a, b))
    order = np.random.default_rng(0).permutation(600)
    shuffled = b._replace(galaxy_id=names[order], truth=b.truth[order], predicted=b.predicted[order])
    straight, mixed = compare.compare([a, b], 50), compare.compare([a, shuffled], 50)
    assert straight.runs[0]["val. MSE"].value == pytest.approx(
        np.nanmean((a.predicted - a.truth) ** 2, 1).mean(), rel=1e-6
    )
    for row, other in zip(straight.runs, mixed.runs, strict=True):
        assert row["val. MSE"].value == pytest.approx(other["val. MSE"].value, rel=1e-12)
    fewer = b._replace(truth=np.where(np.arange(37) == 2, np.nan, b.truth))
    with pytest.raises(UserError, match="different labels for the same galaxies"):
        compare.compare([a, fewer], 10)


def test_verdicts():
    result = compare.compare([run("good", 0.05), run("bad", 0.1), run("also good", 0.05)])
    verdicts = [row["MSE verdict"] for row in result.differences]
    assert verdicts == ["good is better", "not significant", "also good is better"]
    low_high = [(row["MSE difference"].low, row["MSE difference"].high) for row in result.differences]
    assert low_high[0][1] < 0
    assert low_high[1][0] < 0 < low_high[1][1]
    assert result.statements[1].startswith("good against also good: MSE, not significant")


def test_verdict_on_accuracy_prefers_the_higher():
    result = compare.compare([run("bad", 0.4), run("good", 0.05)])
    assert result.differences[0]["accuracy verdict"] == "good is better"


def test_identical_runs_do_not_differ():
    a = run("a", 0.1)
    row = compare.compare([a, a._replace(name="twin")]).differences[0]
    assert row["MSE difference"] == (0, 0, 0)
    assert row["MSE verdict"] == row["accuracy verdict"] == "not significant"


def test_different_validation_sets_use_the_intersection_and_say_so():
    result = compare.compare([run("a", 0.1, order=np.arange(500)), run("b", 0.1, order=np.arange(100, 600))])
    assert result.galaxies == 400
    assert "a 500, b 500" in result.note
    assert "400" in result.note


def test_spread_across_seeds():
    runs = [run(f"cnn {s}", 0.1 + 0.001 * s, s, config={"model": "cnn", "seed": s}) for s in range(3)]
    runs += [run(f"resnet {s}", 0.05 + 0.001 * s, s, config={"model": "resnet", "seed": s}) for s in range(3)]
    runs.append(run("alone", 0.07, config={"model": "other", "seed": 0}))
    result = compare.compare(runs, resamples=50)
    assert [row["seeds"] for row in result.seeds] == [3, 3]
    mse = [row["val. MSE"].value for row in result.runs[:3]]
    assert result.seeds[0]["MSE mean"] == pytest.approx(np.mean(mse))
    assert result.seeds[0]["MSE std"] == pytest.approx(np.std(mse, ddof=1))
    assert "the MSE differs" in result.statements[-1]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "no runs"),
        ([run("a", 0.1), run("a", 0.1)], "same name"),
        ([run("a", 0.1, order=np.arange(10)), run("b", 0.1, order=np.arange(10, 20))], "share no validation galaxy"),
        ([run("a", 0.1, order=np.array([1, 1, 2]))], "more than once"),
        ([run("a", 0.1), run("b", 0.1, truth=fractions(600, seed=5))], "different labels"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, message):
    with pytest.raises(UserError, match=message):
        compare.compare(runs, resamples=10)


def test_a_log_read_from_a_file_is_text():
    rows = [{"epoch": "1", "val_loss": "0.5", "loss": ""}, {"epoch": "2", "val_loss": "nan", "extra": "1e-3"}]
    columns = compare.columns(rows)
    np.testing.assert_array_equal(columns["val_loss"], [0.5, np.nan])
    np.testing.assert_array_equal(columns["extra"], [np.nan, 1e-3])
    assert np.isnan(columns["loss"]).all()
    assert compare.best_epoch(rows) == 1
    assert compare.best_epoch([{"loss": 1.0}]) is None


def seeds(name, count=2, **known):
    """Runs that differ in the seed alone; `known` has a value for each."""
    each = [{key: values[i] for key, values in known.items()} for i in range(count)]
    config = {"model": "cnn"}
    return [
        run(f"{name}{i}", 0.1 + 0.001 * i, one.pop("seed", i), config=config)._replace(**one)
        for i, one in enumerate(each)
    ]


@pytest.mark.parametrize(
    ("known", "statement"),
    [
        ({"seed": [0, 0]}, "a1 does not count as another seed beside a0: both have seed 0"),
        ({"weights": ["w", "w"]}, "a1 does not count as another seed beside a0: they are the same network"),
        ({"finished": [True, False]}, "a1 does not count for the spread across seeds: its training is not finished"),
        ({"data": ["d", "e"]}, None),
    ],
)
def test_copies_repetitions_and_other_data_are_no_spread(known, statement):
    result = compare.compare(seeds("a", **known), resamples=20)
    assert result.seeds == []
    assert [text for text in result.statements if "seed" in text] == ([f"{statement}."] if statement else [])
    true_seeds = compare.compare(seeds("a", data=["d"] * 2, weights=["v", "w"]), resamples=20)
    assert [row["seeds"] for row in true_seeds.seeds] == [2]


def test_runs_on_other_data_are_told_apart_from_other_labels():
    """The message says what kind of galaxies each run has, and shows no fingerprint."""
    drawn = run("a", 0.1, config={"data.source": "synthetic"})._replace(data="1f2e")
    real = run("b", 0.1, config={"data.source": "galaxy_zoo"}, truth=fractions(600, seed=5))._replace(data="3d4c")
    with pytest.raises(UserError, match=r"not the same ones.*has synthetic galaxies, .*from Kaggle's files") as raised:
        compare.compare([drawn, real], resamples=10)
    assert not any(fingerprint in str(raised.value) for fingerprint in ("1f2e", "3d4c"))


def test_runs_with_other_trees_are_refused_by_name_of_what_differs():
    """Even where they have as many answers."""
    renamed = GALAXY_ZOO_2.questions[1]._replace(answers=("yes", "perhaps"), columns=("Class2.1", "Class2.3"))
    first, _, *others = GALAXY_ZOO_2.questions
    others = [q._replace(after=tuple(a.replace("edge-on_no", "edge-on_perhaps") for a in q.after)) for q in others]
    other = dataclasses.replace(GALAXY_ZOO_2, questions=(first, renamed, *others))
    same = dataclasses.replace(GALAXY_ZOO_2, name="another name of the same tree")
    a, b = run("a", 0.1), run("b", 0.1)
    assert compare.compare([a, b._replace(tree=same)], resamples=10).galaxies == 600
    for tree, message in (
        (load("galaxy_zoo_decals"), "the question 'smooth-or-featured' was not there"),
        (other, "edge-on"),
    ):
        with pytest.raises(UserError, match=f"'a' and 'b' cannot be compared: they have .*{message}"):
            compare.compare([a, b._replace(tree=tree)], resamples=10)
