"""Scores against hand-computed values, Keras and scikit-learn; intervals against simulation."""

import numpy as np
import pytest
from galaxies import ONE_QUESTION, fractions, holes, pair, wide_tree

from gz_jax.analysis import evaluate, mergers
from gz_jax.labels import GALAXY_ZOO_2, load
from gz_jax.runtime.errors import UserError


def scored(truth, predicted, tree=GALAXY_ZOO_2):
    sums = evaluate.galaxy_sums(truth, predicted, tree)
    return evaluate.scores({name: values.sum(0) for name, values in sums.items()}, tree)


def test_by_hand():
    truth, predicted = np.zeros((3, 37)), np.zeros((3, 37))
    truth[:3, 0] = [1.0, 0.0, 0.2]  # smooth
    truth[:3, 1] = [0.0, 1.0, 0.8]  # features or disk
    predicted[:3, 0] = [0.5, 0.0, 0.6]
    predicted[:3, 1] = [0.0, 1.0, 0.4]
    got = scored(truth, predicted)
    # Errors: -0.5 | none | 0.4 and -0.4.
    assert got["mse"] == pytest.approx((0.25 + 0.16 + 0.16) / (3 * 37))
    assert got["rmse"] == pytest.approx(np.sqrt(0.57 / 111))
    assert got["accuracy"] == pytest.approx(2 / 3)
    assert got["majority_share"] == pytest.approx(2 / 3)
    assert got["answer_rmse"][0] == pytest.approx(np.sqrt(0.41 / 3))
    assert got["answer_bias"][0] == pytest.approx(-0.1 / 3)
    assert got["answer_bias"][1] == pytest.approx(-0.4 / 3)
    # The mean of 1, 0, 0.2 is 0.4: squared deviations 0.36 + 0.16 + 0.04.
    assert got["answer_std"][0] == pytest.approx(np.sqrt(0.56 / 3))
    assert got["answer_r2"][0] == pytest.approx(1 - 0.41 / 0.56)
    assert np.isnan(got["answer_r2"][2:]).all()
    assert got["guess_rmse"] == pytest.approx(np.sqrt(2 * 0.56 / 111))
    # Question 1 is asked of all, right for two; question 7 follows 'smooth', at least half for one galaxy only.
    assert got["question_accuracy"][0] == pytest.approx(2 / 3)
    assert got["question_majority"][0] == pytest.approx(2 / 3)
    sums = evaluate.galaxy_sums(truth, predicted, GALAXY_ZOO_2)
    np.testing.assert_array_equal(sums["asked"].sum(0), [3, 2, 0, 0, 0, 3, 1, 0, 0, 0, 0])
    assert np.isnan(got["question_accuracy"][2])


def test_scores_equal_the_plain_formulas():
    truth, predicted = pair(300)
    got = scored(truth, predicted)
    error = predicted.astype(np.float64) - truth
    assert got["mse"] == pytest.approx((error**2).mean(), rel=1e-12)
    assert got["guess_rmse"] == pytest.approx(np.sqrt(truth.var(0, dtype=np.float64).mean()), rel=1e-9)
    np.testing.assert_allclose(
        got["answer_r2"], 1 - (error**2).sum(0) / ((truth - truth.mean(0, dtype=np.float64)) ** 2).sum(0), rtol=1e-6
    )
    for i, (answers, parents) in enumerate(zip(GALAXY_ZOO_2.slices, GALAXY_ZOO_2.parents, strict=True)):
        asked = truth[:, parents[0]] >= 0.5 if parents else np.ones(300, bool)
        right = truth[asked][:, answers].argmax(1) == predicted[asked][:, answers].argmax(1)
        np.testing.assert_allclose(got["question_accuracy"][i], right.mean() if asked.any() else np.nan)


@pytest.mark.peers
def test_accuracy_and_mse_are_keras():
    keras = pytest.importorskip("keras")
    truth, predicted = pair(257, noise=2.0)
    accuracy = keras.metrics.CategoricalAccuracy()
    for rows in (slice(0, 128), slice(128, 256), slice(256, 257)):
        accuracy.update_state(truth[rows], predicted[rows])
    got = scored(truth, predicted)
    assert got["accuracy"] == pytest.approx(float(accuracy.result()), abs=1e-6)
    assert 0.1 < got["accuracy"] < 0.95
    loss = keras.losses.MeanSquaredError()(truth, predicted)
    assert got["mse"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("tree", [GALAXY_ZOO_2, wide_tree()], ids=["Galaxy Zoo 2", "45 answers"])
def test_scores_where_labels_are_unknown_are_those_of_plain_loops_over_the_known(tree):
    truth, predicted = pair(400, tree=tree)
    truth = holes(truth, tree)
    known, answers = np.isfinite(truth), range(len(tree.columns))
    assert 0.3 < known.mean() < 0.8
    got = scored(truth, predicted, tree)
    squares = (predicted.astype(np.float64) - truth) ** 2
    galaxies = [np.mean([squares[i, j] for j in answers if known[i, j]]) for i in range(400)]
    assert got["mse"] == pytest.approx(np.mean(galaxies), rel=1e-12)
    np.testing.assert_allclose(evaluate.squared_error(truth, predicted), galaxies, rtol=1e-12)
    best = [
        [max((j for j in answers if known[i, j]), key=lambda j: v[i, j]) for i in range(400)]
        for v in (truth, predicted)
    ]
    assert got["accuracy"] == np.mean([a == b for a, b in zip(*best, strict=True)])
    assert got["majority_share"] == max(np.bincount(best[0])) / 400
    for j in answers:
        t, p = truth[known[:, j], j].astype(np.float64), predicted[known[:, j], j].astype(np.float64)
        if not len(t):
            assert all(np.isnan(got[name][j]) for name in ("answer_rmse", "answer_bias", "answer_std", "answer_r2"))
            continue
        assert got["answer_rmse"][j] == pytest.approx(np.sqrt(np.mean((p - t) ** 2)), rel=1e-9)
        assert got["answer_bias"][j] == pytest.approx(np.mean(p - t), rel=1e-9)
        assert got["answer_std"][j] == pytest.approx(np.std(t), rel=1e-9)
        assert got["answer_r2"][j] == pytest.approx(1 - np.mean((p - t) ** 2) / np.var(t), rel=1e-9)
    for i, (s, parents) in enumerate(zip(tree.slices, tree.parents, strict=True)):
        right = [
            truth[g, s].argmax() == predicted[g, s].argmax()
            for g in range(400)
            if known[g, s].all() and (not parents or np.nansum(truth[g, list(parents)]) >= 0.5)
        ]
        np.testing.assert_allclose(got["question_accuracy"][i], np.mean(right) if right else np.nan)
        assert evaluate.galaxy_sums(truth, predicted, tree)["asked"].sum(0)[i] == len(right)
    # The guess: no other constant answer has a smaller error, measured in the same way.
    weight = known / known.sum(1, keepdims=True)
    mean = np.nansum(weight * truth, axis=0) / np.maximum(weight.sum(0), 1e-9)
    errors = [evaluate.squared_error(truth, np.tile(mean + d, (400, 1))).mean() for d in (0, -1e-3, 1e-3)]
    assert got["guess_rmse"] == pytest.approx(np.sqrt(errors[0]), rel=1e-6)
    assert errors[0] < min(errors[1:])
    assert got["r2"] == pytest.approx(1 - np.mean(galaxies) / errors[0], rel=1e-6)


def test_what_is_predicted_where_a_label_is_unknown_does_not_matter():
    truth, predicted = pair(150)
    truth = holes(truth)
    other = np.where(np.isnan(truth), 1 - predicted, predicted)
    for statistic in (scored, evaluate.agreement, evaluate.squared_error, evaluate.reliability, evaluate.density):
        a, b = statistic(truth, predicted), statistic(truth, other)
        for name in a if isinstance(a, dict) else [...]:
            np.testing.assert_array_equal(a[name], b[name])
    found = evaluate.views_gain(truth, {"1 view": predicted, "2 views": other}, 20)[1]["gain in rmse"]
    assert found == (0, 0, 0)
    assert evaluate.worst_failures(truth, predicted, 3)[1][0] == np.sqrt(evaluate.squared_error(truth, predicted).max())


def test_intervals_with_unknown_labels_hold_their_score_and_none_is_drawn_for_an_unknown_answer():
    truth, predicted = pair(150)
    truth = holes(truth)
    truth[:, 5] = np.where(np.arange(150) == 3, 0.5, np.nan)  # known once: absent from a third of the resamples
    sums = evaluate.galaxy_sums(truth, predicted, GALAXY_ZOO_2)
    found = evaluate.bootstrap(sums, lambda s: evaluate.scores(s, GALAXY_ZOO_2), resamples=100)
    for name in ("mse", "rmse", "accuracy", "guess_rmse", "answer_rmse"):
        value, low, high = found[name]
        assert ((low <= value) & (value <= high) | np.isnan(value)).all(), name
    assert found["answer_rmse"].low[5] == pytest.approx(found["answer_rmse"].high[5])
    assert np.isnan([part[-6:] for part in found["answer_rmse"]]).all()
    rows = evaluate.answer_table(found, np.zeros(37), GALAXY_ZOO_2, sums["known"].sum(0))
    assert [row["galaxies"] for row in rows] == np.isfinite(truth).sum(0).tolist()


def test_reliability_and_density_of_each_answer_are_those_of_its_known_galaxies():
    truth, predicted = pair(300)
    truth = holes(truth)
    diagrams, cells = evaluate.reliability(truth, predicted), evaluate.density(truth, predicted)
    for j in range(30):
        rows = np.isfinite(truth[:, j])
        alone = truth[rows][:, [j]], predicted[rows][:, [j]]
        expected = evaluate.reliability(*alone)
        for name in diagrams:
            np.testing.assert_allclose(diagrams[name][j], expected[name][0])
        np.testing.assert_array_equal(cells[j], evaluate.density(*alone)[0])
    assert cells[-1].sum() == diagrams["count"][-1].sum() == 0
    assert np.isnan(diagrams["error"][-1])


def test_accuracy_on_ties_takes_the_first_answer():
    truth, predicted = np.zeros((2, 37)), np.zeros((2, 37))
    truth[:, [3, 9]] = 0.5
    predicted[0, [3, 20]] = 0.5
    predicted[1, [9, 20]] = 0.5
    np.testing.assert_array_equal(evaluate.agreement(truth, predicted), [True, False])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, p: (t[:0], p[:0]), "no galaxy"),
        (lambda t, p: (t, p[:-1]), r"must both be \[N, 37\]"),
        (lambda t, p: (np.where(np.arange(9)[:, None] < 2, np.nan, t), p), "2 of 9 galaxies have no label"),
        (lambda t, p: (t, p * np.inf), "9 of 9 galaxies have predicted"),
        (lambda t, p: (np.where(np.arange(9)[:, None] < 1, np.inf, t), p), "1 of 9 galaxies have true"),
        (lambda t, p: (t, np.where(p == p[3, 3], np.nan, p)), "1 of 9 galaxies have predicted"),
    ],
)
def test_bad_arrays_are_refused(change, message):
    with pytest.raises(UserError, match=message), np.errstate(invalid="ignore"):
        evaluate.check(*change(*pair(9)), GALAXY_ZOO_2)


def test_bootstrap_covers_the_truth_in_95_of_100():
    """500 surveys of 2,000 galaxies with skewed errors of known mean square: how often does the interval hold it?"""
    rng = np.random.default_rng(7)
    errors = rng.normal(size=(2000, 500)) * 0.1
    found = evaluate.bootstrap(
        {"squared": errors**2}, lambda s: {"rmse": np.sqrt(s["squared"] / 2000)}, resamples=1000, seed=1
    )["rmse"]
    covered = (found.low <= 0.1) & (found.high >= 0.1)
    assert 0.93 <= covered.mean() <= 0.97
    below, above = (found.high < 0.1).mean(), (found.low > 0.1).mean()
    assert max(below, above) < 0.05


def test_paired_interval_of_a_difference_is_narrower_than_the_single_ones():
    truth, first = pair(500, noise=1.0)
    second = np.clip(first + 0.002, 0, 1)
    rows = evaluate.views_gain(truth, {"1 view": first, "4 views": second})
    assert rows[0]["gain in rmse"] is None
    gain, rmse = rows[1]["gain in rmse"], rows[1]["rmse"]
    assert gain.value == pytest.approx(rows[0]["rmse"].value - rmse.value)
    assert gain.high - gain.low < 0.2 * (rmse.high - rmse.low)


def test_bootstrap_of_undefined_scores_is_quiet():
    truth, predicted = pair(40)
    truth, predicted = truth.copy(), predicted.copy()
    truth[:, [0, 15, 16, 17]] = 0  # nobody calls them smooth
    sums = evaluate.galaxy_sums(truth, predicted, GALAXY_ZOO_2)
    found = evaluate.bootstrap(sums, lambda s: evaluate.scores(s, GALAXY_ZOO_2), resamples=50)
    assert np.isnan(found["question_accuracy"].value[6])
    assert np.isnan(found["question_accuracy"].low[6])
    assert np.isfinite(found["rmse"].low)


def test_reliability_by_hand():
    truth, predicted = np.zeros((3, 37)), np.zeros((3, 37))
    predicted[:, 0], truth[:, 0] = [0.11, 0.19, 1.0], [0.0, 0.4, 1.0]
    table = evaluate.reliability(truth, predicted, bins=10)
    np.testing.assert_array_equal(table["count"][0], [0, 2, 0, 0, 0, 0, 0, 0, 0, 1])
    assert table["predicted"][0, 1] == pytest.approx(0.15)
    assert table["true"][0, 1] == pytest.approx(0.2)
    assert table["error"][0] == pytest.approx(np.sqrt(2 / 3 * 0.05**2))
    np.testing.assert_array_equal(table["count"].sum(1), 3)


def test_density_counts_every_galaxy_once_in_its_cell():
    truth, predicted = pair(200)
    table = evaluate.density(truth, predicted, bins=20)
    np.testing.assert_array_equal(table.sum((1, 2)), 200)
    expected = np.histogram2d(predicted[:, 7], truth[:, 7], bins=20, range=[[0, 1], [0, 1]])[0]
    np.testing.assert_array_equal(table[7], expected)


def test_most_confident_and_worst():
    predicted = fractions(6, seed=1)
    predicted[[1, 4], 9] = 0.99
    ids = np.array([60, 50, 40, 30, 20, 10])
    rows = evaluate.most_confident(predicted, ids)
    assert rows[9] == 4  # id 20 stands before id 50
    assert evaluate.most_confident(predicted, np.array(list("fedcba")))[9] == 4
    assert evaluate.most_confident(predicted, np.array(["10", "9", "8", "7", "99", "6"]))[9] == 1  # as texts
    truth = predicted.copy()
    truth[2, :4] += 0.4
    truth[5, :4] += 0.2
    rows, error = evaluate.worst_failures(truth, predicted, 2)
    np.testing.assert_array_equal(rows, [2, 5])
    np.testing.assert_allclose(error, [np.sqrt(4 * 0.16 / 37), np.sqrt(4 * 0.04 / 37)], rtol=1e-6)


@pytest.mark.slow
def test_average_precision_interval_holds_its_expectation():
    """Mergers' scores a standard deviation higher: a large sample's value lies in nearly all small ones' intervals."""
    rng = np.random.default_rng(1)

    def sample(n):
        real = rng.random(n) < 0.2
        return rng.normal(size=n) + real, real

    expected = mergers.average_precision(*sample(200_000), resamples=2).value
    found = [mergers.average_precision(*sample(300), resamples=200, seed=i) for i in range(60)]
    assert sum(e.low <= expected <= e.high for e in found) >= 52
    assert 0.1 < np.mean([e.high - e.low for e in found]) < 0.4


def test_mergers_by_hand():
    truth = np.array([0.5, 0.4, 0.3, 0.1, 0.9, 0.0])  # above 0.3: rows 0, 1, 4
    predicted = np.array([0.6, 0.2, 0.8, 0.3, 0.7, 0.0])  # above 0.3: rows 2, 4, 0
    found, rows = mergers.mergers(predicted, truth, 0.3)
    np.testing.assert_array_equal(rows, [2, 4, 0])
    assert found["selected"] == 3
    assert found["fraction"].value == pytest.approx(0.5)
    assert found["purity"].value == pytest.approx(2 / 3)
    assert found["completeness"].value == pytest.approx(2 / 3)
    # In falling order of prediction: no, yes, yes, no, yes, no.
    assert found["average_precision"].value == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)
    curve = mergers.merger_curve(truth, predicted, np.array([0.3, 0.95]))
    np.testing.assert_allclose(curve, [[2 / 3, np.nan], [2 / 3, 0]])
    # A galaxy without a label counts among the selected, and nowhere else.
    more = np.append(predicted, 0.9), np.append(truth, np.nan)
    wider, rows = mergers.mergers(*more, 0.3)
    assert (wider["galaxies"], wider["selected"], wider["labelled"], rows[0]) == (7, 4, 6, 6)
    assert all(wider[name] == found[name] for name in ("true_fraction", "purity", "completeness", "average_precision"))
    np.testing.assert_array_equal(mergers.merger_curve(*more[::-1], np.array([0.3, 0.95])), curve)
    assert "purity" not in mergers.mergers(predicted, truth * np.nan, 0.3)[0]
    assert np.isnan(mergers.mergers(predicted, truth * 0, 0.3)[0]["average_precision"].value)  # nothing to find
    unlabelled, rows = mergers.mergers(predicted, None, 0.65)
    assert set(unlabelled) == {"threshold", "galaxies", "selected", "fraction"}
    np.testing.assert_array_equal(rows, [2, 4])


def test_tree_check_sees_a_broken_sum():
    predicted = fractions(20, seed=2)
    assert max(row["largest violation"] for row in evaluate.tree_check(predicted, GALAXY_ZOO_2)) < 1e-6
    predicted[3, 15] += 0.25
    assert evaluate.tree_check(predicted, GALAXY_ZOO_2)[6]["largest violation"] == pytest.approx(0.25, abs=1e-6)


def test_a_question_after_several_answers_applies_where_their_shares_add_up_to_half():
    tree = load("galaxy_zoo_decals")  # merging comes after smooth and after featured or disk
    truth, merging = np.zeros((4, len(tree.columns)), np.float32), [q.name for q in tree.questions].index("merging")
    truth[:, :3] = [[0.35, 0.15, 0.5], [0.3, 0.15, 0.55], [0.1, 0.9, 0], [0.05, 0.05, 0.9]]
    np.testing.assert_array_equal(evaluate.applies(truth, tree)[:, merging], [True, False, True, False])
    np.testing.assert_array_equal(evaluate.applies(truth, tree)[:, 0], True)
    np.testing.assert_array_equal(evaluate.applies(truth, tree)[:, 1], [False, False, True, False])  # edge-on


def test_shares_that_add_up_to_half_do_so_in_float32_too():
    tree = wide_tree()
    truth = np.zeros((1, 45), np.float32)
    truth[0, list(tree.parents[2])] = 0.01, 0.39, 0.1
    assert truth.sum() < 0.5
    np.testing.assert_array_equal(evaluate.applies(truth, tree)[0], [True, True, True, True, False, True])


def test_scores_of_one_question_are_those_of_a_classification():
    truth, predicted = pair(300, tree=ONE_QUESTION, noise=2.0)
    found = scored(truth, predicted, ONE_QUESTION)
    assert found["question_accuracy"] == found["accuracy"] == (truth.argmax(1) == predicted.argmax(1)).mean()
    assert found["question_majority"] == found["majority_share"]
    assert len(evaluate.tree_check(predicted, ONE_QUESTION)) == 1


def test_varied_galaxies_by_hand():
    """On a line at 0, 1, 2 and 9 (mean 3): the furthest from the mean, from that one, and from both."""
    truth = np.array([[0.0], [1.0], [2.0], [9.0]])
    assert evaluate.varied(truth, 3).tolist() == [3, 0, 2]
    assert evaluate.varied(truth, 9).tolist() == [3, 0, 2, 1]
    assert evaluate.varied(np.array([[np.nan, 1.0], [0.0, 1.0]]), 1).tolist() == [0]
