"""Votes drawn from their predicted distributions are calibrated, and those from others are not."""

import numpy as np
import pytest
from scipy import stats

from gz_jax import labels
from gz_jax.analysis import calibration, report
from gz_jax.labels import GALAXY_ZOO_2


def test_vote_cdf_is_scipys():
    rng = np.random.default_rng(0)
    asked = rng.integers(0, 60, 200)
    votes = rng.integers(-1, asked + 1)
    a, b = np.exp(rng.normal(0, 2, (2, 200)))
    found = calibration.vote_cdf(votes, asked, a, b)
    np.testing.assert_allclose(found, stats.betabinom(asked, a, b).cdf(votes), rtol=1e-9, atol=1e-12)


def drawn(n, seed=0):
    """Beta distributions, true fractions and votes of those who were asked; some galaxies nobody was asked about."""
    rng = np.random.default_rng(seed)
    a, b = np.exp(rng.normal(1, 1, (2, n)))
    fraction = rng.beta(a, b)
    asked = rng.integers(0, 50, n)
    return a, b, fraction, rng.binomial(asked, fraction), asked


def test_votes_of_the_predicted_distribution_have_uniform_pit_and_nominal_coverage():
    a, b, _, votes, asked = drawn(20_000)
    found = calibration.pit(votes, asked, a[None], b[None])
    assert (np.isnan(found) == (asked == 0)).all()
    assert stats.kstest(found[asked > 0], "uniform").pvalue > 0.01
    coverage = calibration.coverage(found)
    assert coverage.galaxies == (asked > 0).sum()
    np.testing.assert_allclose(coverage.share, coverage.level, atol=0.015)
    assert ((coverage.low <= coverage.share) & (coverage.share <= coverage.high)).all()


@pytest.mark.parametrize(("factor", "sign"), [(10, -1), (0.1, 1)])
def test_overconfident_networks_cover_less_and_timid_ones_more(factor, sign):
    a, b, _, votes, asked = drawn(5_000)
    share = calibration.coverage(calibration.pit(votes, asked, factor * a[None], factor * b[None])).share
    assert sign * (share[9] - 0.5) > 0.05


def test_votes_of_a_mixture_are_uniform_in_that_mixture_alone():
    a, b, _, votes, asked = drawn(5_000, seed=1)
    other = drawn(5_000, seed=2)
    second = np.arange(5_000) % 2 == 1
    votes = np.where(second, np.random.default_rng(3).binomial(asked, other[2]), votes)
    both = calibration.pit(votes, asked, np.stack([a, other[0]]), np.stack([b, other[1]]))
    assert stats.kstest(both[asked > 0], "uniform").pvalue > 0.01
    one = calibration.pit(votes, asked, a[None], b[None])
    assert stats.kstest(one[asked > 0], "uniform").pvalue < 1e-6


def test_coverage_by_hand():
    values = np.array([[0.5, 0.5], [0.3, np.nan], [0.99, np.nan], [0.01, np.nan]])
    found = calibration.coverage(values, np.array([0.5, 0.9]))
    np.testing.assert_allclose(found.share, [[0.5, 0.5], [1, 1]])
    np.testing.assert_array_equal(found.galaxies, [4, 1])


def simulated(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concentrations [count, 37], votes of 40 volunteers down the tree, and their fractions, drawn from these."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.5, 8, (count, 37))
    counts, drawn = np.zeros((count, 37)), np.zeros((count, 37))
    for question in GALAXY_ZOO_2.order:
        own, parents = GALAXY_ZOO_2.slices[question], list(GALAXY_ZOO_2.parents[question])
        asked = counts[:, parents].sum(1) if parents else np.full(count, 40)
        fractions = rng.standard_gamma(a[:, own])
        drawn[:, own] = fractions / fractions.sum(1, keepdims=True)
        counts[:, own] = rng.multinomial(asked.astype(int), drawn[:, own])
    return a, counts, drawn


def test_a_network_that_knows_is_found_right_and_one_that_claims_more_is_not():
    a, counts, drawn = simulated(3000)
    right = calibration.judge_dirichlet(counts, a[None], GALAXY_ZOO_2, drawn)
    assert right.asked[0] == 3000
    claims = calibration.judge_dirichlet(counts, 10 * a[None], GALAXY_ZOO_2)
    modest = calibration.judge_dirichlet(counts, a[None] / 10, GALAXY_ZOO_2)
    at = np.argmin(np.abs(calibration.LEVELS - 0.9))
    assert (claims.alone.share[:, at] < right.alone.share[:, at] - 0.01).all()
    assert (modest.alone.share[:, at] > right.alone.share[:, at] + 0.005).all()
    for found in (
        right.alone,
        right.coverage,
        right.true,
        claims.coverage,
        modest.coverage,
    ):  # calibrated, all are right
        assert (np.abs(found.share - found.level) < 2.5 / np.sqrt(right.asked)[:, None] + 0.01).all()
    assert (np.abs(right.levels.central[[49, 89]] - [[0.5], [0.9]]) < 0.05).all()
    assert (claims.levels.central[89] > 0.91).all()
    assert (modest.levels.central[89] < 0.88).all()
    assert claims.log_likelihood.mean() < right.log_likelihood.mean()
    assert modest.log_likelihood.mean() < right.log_likelihood.mean()


def test_log_likelihoods_are_scipys():
    a, counts, _ = simulated(5, 1)
    expected, plain = np.zeros(5), np.zeros(5)
    shares = np.zeros_like(a)
    for own in GALAXY_ZOO_2.slices:
        shares[:, own] = a[:, own] / a[:, own].sum(1, keepdims=True)
        for i in range(5):
            asked = int(counts[i, own].sum())
            if not asked:  # the probability of no votes is 1
                continue
            expected[i] += stats.dirichlet_multinomial.logpmf(counts[i, own].astype(int), a[i, own], asked)
            plain[i] += stats.multinomial.logpmf(counts[i, own], asked, shares[i, own])
    np.testing.assert_allclose(calibration.log_likelihood(counts, a[None], GALAXY_ZOO_2), expected, rtol=1e-9)
    np.testing.assert_allclose(calibration.multinomial_log_likelihood(counts, shares, GALAXY_ZOO_2), plain, rtol=1e-9)
    both = calibration.log_likelihood(counts, np.stack([a, 2 * a]), GALAXY_ZOO_2)
    twice = calibration.log_likelihood(counts, 2 * a[None], GALAXY_ZOO_2)
    np.testing.assert_allclose(np.exp(both), (np.exp(expected) + np.exp(twice)) / 2, rtol=1e-9)


def test_calibrated_intervals_hold_on_the_other_half():
    rng = np.random.default_rng(2)
    a, counts, _ = simulated(4000, 3)
    truth, guess = (
        np.asarray(labels.joint(np.float32(conditional_of(x)))) for x in (counts, a * rng.lognormal(0, 0.4, a.shape))
    )
    found = calibration.judge_conformal(truth, guess, GALAXY_ZOO_2)
    assert found.pit is None
    assert (np.abs(found.coverage.share - found.coverage.level) < 0.01 + 4 / np.sqrt(found.asked)[:, None]).all()
    assert ((found.width > 0) & (found.width <= 2)).all()


def conditional_of(values: np.ndarray) -> np.ndarray:
    """Each answer's part of its question; equal parts of nothing."""
    out = np.zeros_like(values)
    for own in GALAXY_ZOO_2.slices:
        total = values[:, own].sum(1, keepdims=True)
        out[:, own] = np.where(total > 0, values[:, own] / np.maximum(total, 1e-9), 1 / (own.stop - own.start))
    return out


@pytest.mark.parametrize("kind", ["dirichlet", "conformal"])
def test_the_page_of_a_run_says_what_its_intervals_are_worth(kind, tmp_path):
    a, counts, drawn = simulated(300, 4)
    truth, guess = (np.asarray(labels.joint(np.float32(conditional_of(x)))) for x in (counts, a))
    if kind == "dirichlet":
        judged = calibration.judge_dirichlet(counts, a[None], GALAXY_ZOO_2, drawn)
    else:
        judged = calibration.judge_conformal(truth, guess, GALAXY_ZOO_2)
    inputs = report.EvaluationInputs(
        "run", np.arange(300), truth, guess, GALAXY_ZOO_2, images=None, resamples=20, judged=judged
    )
    numbers = report.evaluation_report(inputs, tmp_path)
    assert numbers["intervals"]["kind"] == kind
    first = numbers["intervals"]["questions"][0]
    assert first["asked"] == 300
    assert ("true fraction in 90%" in first) == (kind == "dirichlet")
    assert first["in 90%"].low <= first["in 90%"].value <= first["in 90%"].high
    assert (tmp_path / "figures" / "coverage.png").exists()
    assert (tmp_path / "figures" / "transforms.png").exists() == (kind == "dirichlet")
    assert (tmp_path / "intervals.csv").exists()
    page = (tmp_path / "report.html").read_text()
    assert "How certain the predictions are" in page
    assert ("log-likelihood" in page) == (kind == "dirichlet")
