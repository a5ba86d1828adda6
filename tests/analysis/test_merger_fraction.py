"""Merger fractions: published worked examples, and recovery of known truths from a biased classifier."""

import functools
import json

import numpy as np
import pytest
from scipy import stats

from gz_jax.analysis import merger_fraction as mf
from gz_jax.analysis import merger_report as reports
from gz_jax.analysis import plots_mergers
from gz_jax.analysis.evaluate import Estimate
from gz_jax.analysis.page import plain
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.runtime.errors import UserError

merger_report = functools.partial(reports.merger_report, tree=GALAXY_ZOO_2, answer="Class8.6")


def zeros_and_ones(ones: float, n: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [round(ones), n - round(ones)])


def galaxies(rng: np.random.Generator, n: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a classifier that misses a fifth of the mergers and adds 1.4 % of the rest; the truth."""
    truth = rng.random(n) < fraction
    logits = np.where(truth, rng.normal(0.3, 1.3, n), rng.normal(-3.5, 1.2, n))
    return 1 / (1 + np.exp(-logits)), truth


def volunteers(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return np.where(truth, rng.uniform(0.301, 0.9, len(truth)), 0.3 * rng.beta(0.4, 5, len(truth)))


@pytest.mark.parametrize(("count", "n"), [(0, 50), (1, 1000), (2324, 79975), (50, 50)])
def test_wilson_is_that_of_statsmodels(count, n):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    estimate = mf.threshold_count(zeros_and_ones(count, n), 0.5)
    np.testing.assert_allclose(estimate[1:], proportion.proportion_confint(count, n, 0.05, "wilson"), atol=1e-12)
    assert estimate.value == count / n


def test_wilson_of_published_example():
    # Newcombe 1998 (Stat. Med. 17, 857), table I, method 3: 81 of 263 gives 0.2553 to 0.3662; 1 of 29, 0.0061 to
    # 0.1718.
    np.testing.assert_allclose(mf.threshold_count(zeros_and_ones(81, 263), 0.5)[1:], [0.2553, 0.3662], atol=6e-5)
    np.testing.assert_allclose(mf.threshold_count(zeros_and_ones(1, 29), 0.5)[1:], [0.0061, 0.1718], atol=6e-5)


@pytest.mark.parametrize(
    ("tested", "diseased", "healthy", "interval"),
    [
        ((4060, 11284), (178, 179), (358, 359), (0.349, 0.372)),
        ((51, 2971), (32, 33), (20, 20), (0, 0.053)),
        ((0.06 * 11862, 11862), (8, 10), (12, 12), (0, 0.147)),
        ((259, 509), (84, 127), (96, 109), (0.58, 0.87)),
        ((51, 509), (23, 41), (187, 195), (0.037, 0.195)),
    ],
)
def test_corrected_interval_of_published_examples(tested, diseased, healthy, interval):
    """The examples of Lang & Reiczigel 2014, as listed with R's asht::prevSeSp."""
    negatives = 1 - zeros_and_ones(*healthy)
    estimate = mf.corrected_mean(zeros_and_ones(*tested), zeros_and_ones(*diseased), negatives)
    decimals = 2 if interval == (0.58, 0.87) else 3
    np.testing.assert_allclose(np.round(estimate[1:], decimals), interval, atol=1e-9)


def test_rogan_gladen_of_published_example():
    # R's epiR::epi.prev: 23 of 150 cows test positive at sensitivity 0.96, specificity 0.89: 5.1 in 100 are ill.
    estimate = mf.corrected_mean(zeros_and_ones(23, 150), zeros_and_ones(96, 100), zeros_and_ones(11, 100))
    assert round(100 * estimate.value, 1) == 5.1


def test_sum_of_fractions_and_its_bootstrap():
    scores = np.random.default_rng(0).beta(0.3, 5, 5000)
    estimate = mf.probability_sum(scores)
    assert estimate.value == scores.mean()
    expected = 1.96 * scores.std() / np.sqrt(len(scores))  # the central limit theorem
    np.testing.assert_allclose(np.array(estimate[1:]) - scores.mean(), [-expected, expected], rtol=0.1)
    assert estimate == mf.probability_sum(scores)


def test_prior_shift_is_bayes_and_its_maximum_that_of_em():
    # Likelihood ratio 4; at a prior of 0.5 the probability is 0.8, at 0.1 it is 4/13.
    np.testing.assert_allclose(mf.shift_prior(np.array([0.8]), 0.5, 0.1), 4 / 13)
    rng = np.random.default_rng(1)
    truth = rng.random(20000) < 0.02
    x = rng.normal(2 * truth)
    ratio = np.exp(2 * x - 2)
    calibrated = 0.3 * ratio / (0.3 * ratio + 0.7)  # exact, for a population with 30 %
    prior = 0.3
    for _ in range(2000):
        prior = mf.shift_prior(calibrated, 0.3, prior).mean()
    np.testing.assert_allclose(mf.likely_prior(calibrated, 0.3), prior, rtol=1e-5)
    assert abs(prior - truth.mean()) < 0.003


def test_out_of_fold_probabilities_know_nothing_of_their_galaxy():
    """Pure noise: an isotonic curve fitted and read on the same galaxies finds structure, a held-out one none."""
    rng = np.random.default_rng(2)
    scores, truth = rng.random(3000), rng.random(3000) < 0.05
    held_out, _ = mf.calibrate(scores, truth, scores)
    assert abs(held_out[truth].mean() - held_out[~truth].mean()) < 0.005
    assert mf.calibrated_fraction(scores, scores, truth)[0].high > 0.9  # and so the fraction is unknown


@pytest.mark.parametrize("fraction", [0.005, 0.01, 0.03, 0.1, 0.2])
def test_truth_is_recovered_from_a_biased_classifier(fraction):
    """(c) and (d) cover the truth in at least 93 of 100 repetitions; the plain count (a) fails; no bias is left."""
    rng, hits, values = np.random.default_rng(11), np.zeros(3, int), []
    for _ in range(100):
        scores, truth = galaxies(rng, 4000, 0.04)
        catalogue, _ = galaxies(rng, 20000, fraction)
        found = (
            mf.threshold_count(catalogue, 0.3),
            mf.corrected_count(catalogue, scores, truth, 0.3),
            mf.calibrated_fraction(catalogue, scores, truth)[0],
        )
        hits += [e.low <= fraction <= e.high for e in found]
        values.append([e.value for e in found])
    assert hits[0] <= 20
    assert min(hits[1:]) >= 93, hits
    mean, error = np.mean(values, 0), np.std(values, 0) / 10
    assert np.all(np.abs(mean - fraction)[1:] < 3.5 * error[1:])
    assert np.abs(mean - fraction)[0] > 20 * error[0]


def test_without_shift_correction_calibrated_probabilities_are_biased():
    rng = np.random.default_rng(4)
    scores, truth = galaxies(rng, 8000, 0.04)
    catalogue, _ = galaxies(rng, 50000, 0.2)
    estimate, details = mf.calibrated_fraction(catalogue, scores, truth)
    assert details["mean_without_shift_correction"] < 0.18 < estimate.low < 0.2 < estimate.high
    assert details["brier_calibrated"] < details["brier_raw"]


def test_useless_or_unlabelled_validation_says_so():
    scores = np.random.default_rng(5).random(200)
    assert mf.corrected_count(scores, scores, np.zeros(200, bool), 0.3)[1:] == (0, 1)
    assert mf.calibrated_fraction(scores, scores, np.zeros(200, bool))[0][1:] == (0, 1)
    truth = scores < 0.5  # scores that point the wrong way
    assert mf.corrected_count(scores, scores, truth, 0.3)[1:] == (0, 1)


def test_rate_by_hand():
    fraction = Estimate(0.03, 0.02, 0.05)
    assert mf.merger_rate(fraction, 0.5, merging=0.6) == pytest.approx((0.036, 0.024, 0.06))
    low = 0.036 * np.exp(-np.hypot(np.log(1.5), 1.959964 * 0.2))
    assert mf.merger_rate(fraction, 0.5, 0.1, 0.6).low == pytest.approx(low)
    assert mf.merger_rate(Estimate(0.0, 0.0, 0.01), 0.5) == pytest.approx((0, 0, 0.02))
    with pytest.raises(UserError, match="observability time"):
        mf.merger_rate(fraction, 0)


def test_confusion_by_hand():
    scores, truth = np.array([0.9, 0.8, 0.2, 0.1, 0.7]), np.array([True, False, True, False, True])
    found = mf.confusion(scores, truth, 0.3)
    assert [found[k] for k in ("true_positive", "false_positive", "false_negative", "true_negative")] == [
        2,
        1,
        1,
        1,
    ]
    assert found["purity"].value == found["completeness"].value == pytest.approx(2 / 3)


def test_report():
    rng = np.random.default_rng(6)
    scores, truth = galaxies(rng, 3000, 0.05)
    catalogue, _ = galaxies(rng, 5000, 0.02)
    catalogue = np.stack([catalogue, np.clip(catalogue + rng.normal(0, 0.02, 5000), 0, 1)])
    catalogue[0, :7] = np.nan  # images that could not be read
    votes = volunteers(rng, truth)
    votes[0] = np.float32(0.3)  # not above 0.3
    results = merger_report(
        catalogue.astype(np.float32), np.stack([scores, scores]), votes, votes, observability=(0.5, 0.1)
    )
    json.dumps(plain(results), allow_nan=False)
    assert results["catalogue"] == {"galaxies": 4993, "left_out": 7}
    assert results["labels"]["training"].value == pytest.approx((votes[1:] > 0.3).mean(), abs=1e-3)
    assert results["labels"]["validation"].value == (votes[1:] > 0.3).sum() / 3000
    assert [len(v) for v in results["seeds"].values()] == [2] * 4
    assert results["estimates"]["calibrated"].low < 0.02 < results["estimates"]["calibrated"].high
    assert list(results["estimates"]) == ["count", "sum", "corrected", "calibrated"]
    assert results["rate_per_gyr"]["corrected"].value == pytest.approx(2 * results["estimates"]["corrected"].value)
    for draw in plots_mergers.FIGURES.values():
        draw(results).canvas.draw()

    other = merger_report(scores, scores, np.zeros(3000), answer="Class1.3")  # nobody saw a star
    assert plain(other["estimates"]["corrected"]) == {"value": None, "low": 0.0, "high": 1.0}
    assert other["published"] == {}
    assert "Only 0 validation galaxies" in other["caveats"][-1]
    for draw in plots_mergers.FIGURES.values():
        draw(other).canvas.draw()


def test_report_refuses_nonsense():
    good = np.full(10, 0.5)
    with pytest.raises(UserError, match=r"Class8\.9"):
        merger_report(good, good, good, answer="Class8.9")
    with pytest.raises(UserError, match=r"outside 0\.\.1"):
        merger_report(good * 4, good, good)
    with pytest.raises(UserError, match="do not fit together"):
        merger_report(good, good, good[:3])
    with pytest.raises(UserError, match="1 prediction tables of the catalogue, 2"):
        merger_report(good, np.stack([good, good]), good)
    with pytest.raises(UserError, match="none of 10 galaxies"):
        merger_report(good * np.nan, good, good)


def test_over_folds_the_corrected_count_is_the_mean_networks():
    """By hand: two networks, of which the second finds every other merger that the first finds."""
    catalogue = np.array([[0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1]])
    scores, truth = np.array([0.9, 0.1, 0.1, 0.1]), np.array([True, True, False, False])
    counted = mf.corrected_mean(np.array([1, 0.5, 0, 0]), np.array([1.0, 0.0]), np.zeros(2))
    assert mf.corrected_count(catalogue, scores, truth, 0.3) == counted
    assert counted.value == 0.75  # 0.375 of the catalogue, of which half are found


@pytest.mark.slow
def test_over_folds_the_intervals_hold_the_truth():
    """Networks of different completeness, each judged on its own fold, the catalogue by their mean."""
    held, count = {"corrected": 0, "calibrated": 0}, 200
    for seed in range(count):
        rng = np.random.default_rng(seed)
        shifts = rng.normal(0, 0.4, 5)
        pairs = [galaxies(rng, 400, 0.08) for _ in shifts]
        scores = np.concatenate([_moved(s, shift) for (s, _), shift in zip(pairs, shifts, strict=True)])
        truth = np.concatenate([t for _, t in pairs])
        seen = galaxies(rng, 3000, 0.03)[0]
        catalogue = np.stack([_moved(seen, shift) for shift in shifts])
        found = {
            "corrected": mf.corrected_count(catalogue, scores, truth, 0.3),
            "calibrated": mf.calibrated_fraction(catalogue, scores, truth)[0],
        }
        for name, estimate in found.items():
            held[name] += estimate.low <= 0.03 <= estimate.high
    for name, times in held.items():
        assert 0.91 * count <= times, (name, times)


def _moved(scores: np.ndarray, shift: float) -> np.ndarray:
    """The scores of a network whose logits are larger by `shift`."""
    return 1 / (1 + (1 / scores - 1) * np.exp(-shift))


def test_the_posterior_share_is_a_wilson_interval_and_a_poisson_binomial():
    p = np.random.default_rng(0).beta(0.2, 3, 400)
    p *= 20 / p.sum()  # as many as 20 expected, which Wilson's interval of 20 of 400 must equal
    estimate, deviation = mf.posterior_share(p)
    expected = stats.binomtest(20, 400).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(estimate, (0.05, expected.low, expected.high), rtol=1e-9)
    assert deviation == pytest.approx(stats.poisson_binom(p).std() / 400)
