"""The fraction of a catalogue's galaxies with an answer (mergers, or any other), with confidence intervals.

A count of predictions above a threshold (paper, section 5.6) includes the network's mistakes. Therefore there are
several estimates: (a) that count; (b) the sum of the predicted vote fractions; (c) the count
corrected with the completeness and the false positives measured on labelled galaxies (Rogan & Gladen 1978,
Am. J. Epidemiol. 107, 71); (d) the same correction of isotonic, cross-fitted probabilities, which uses
every score; (e) for networks with Dirichlet outputs the sum of each galaxy's own probability to lie above
the threshold.

(a), (c), (d) and (e) ask for the share of galaxies whose *volunteers'* vote fraction lies above the threshold;
(b) for the mean vote fraction. (c) and (d) hold for a catalogue richer or poorer in mergers than the
validation sample (label shift); they assume that a merger, and a galaxy that is none, gets the same scores
in both.
"""

from typing import Any

import numpy as np
from scipy import optimize, stats
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedKFold

from gz_jax.analysis.evaluate import Estimate
from gz_jax.runtime.errors import UserError

UNKNOWN = Estimate(float("nan"), 0.0, 1.0)  # where the data do not determine the fraction


def threshold_count(scores: np.ndarray, threshold: float, confidence: float = 0.95) -> Estimate:
    """(a) The share of `scores` [n] above `threshold`, with its Wilson (1927) interval."""
    test = stats.binomtest(int((scores > threshold).sum()), len(scores))
    interval = test.proportion_ci(confidence, method="wilson")
    return Estimate(float(test.statistic), float(interval.low), float(interval.high))


def probability_sum(scores: np.ndarray, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Estimate:
    """(b) The mean of the predicted vote fractions [n], with a percentile bootstrap over the galaxies.

    Willett et al. 2013 (MNRAS 435, 2835) advise summing vote fractions, not cutting them, for whole samples.
    """
    if len(scores) < 2:
        return Estimate(float(scores.mean()), 0.0, 1.0)  # one galaxy gives no scatter
    drawn = stats.bootstrap(
        (scores,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, 4_000_000 // len(scores)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Estimate(float(scores.mean()), *map(float, drawn.confidence_interval))


def posterior_share(probabilities: np.ndarray, confidence: float = 0.95) -> tuple[Estimate, float]:
    """(e) The mean of the galaxies' own probabilities [n] to be positive, and how well it is known of these galaxies.

    Returns:
      The share of the population that these galaxies are drawn from: the Wilson interval of as many positives as are
      expected (a positive with probability p, p itself random, has the variance of one with the mean probability). And
      the standard deviation of these galaxies' own share, whose number of positives is Poisson-binomial. Neither
      includes errors that the network makes in the same way in many galaxies.
    """
    n, mean = len(probabilities), float(probabilities.mean())
    z2 = float(stats.norm.ppf((1 + confidence) / 2)) ** 2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    own = float(np.sqrt((probabilities * (1 - probabilities)).sum()) / n)
    return Estimate(mean, float(max(centre - half, 0)), float(min(centre + half, 1))), own


def corrected_mean(
    catalogue: np.ndarray, positives: np.ndarray, negatives: np.ndarray, confidence: float = 0.95
) -> Estimate:
    """The fraction of positives in a catalogue, from any score that differs on average for positives.

    mean(catalogue) = f mean(positives) + (1 - f) mean(negatives), solved for f. With 0/1 scores this is
    Rogan & Gladen (1978), and the interval that of Lang & Reiczigel (2014, Prev. Vet. Med. 113, 13; with
    1 - P in their equation 4), which adds pseudo-counts to all three samples and propagates their errors. With
    probabilities it is the probabilistic adjusted count of Bella et al. (2010, ICDM), with the scores'
    variances in the interval.

    Args:
      catalogue, positives, negatives: scores in 0..1, [n], [p], [m]; the last two of labelled galaxies.

    Returns:
      The estimate, clipped to 0..1; `UNKNOWN` where the scores do not tell positives from negatives.
    """
    if not (len(catalogue) and len(positives) and len(negatives)):
        return UNKNOWN
    z = stats.norm.ppf((1 + confidence) / 2)
    seen, v_seen = _moments(catalogue, z**2)
    hit, v_hit = _moments(positives, 2)
    false, v_false = _moments(negatives, 2)
    separation = float(np.mean(positives) - np.mean(negatives))
    if separation <= 0 or hit <= false:
        return UNKNOWN
    centre = (seen - false) / (hit - false)
    error = np.sqrt(v_seen + centre**2 * v_hit + (1 - centre) ** 2 * v_false) / (hit - false)
    centre += 2 * z**2 * (centre * v_hit - (1 - centre) * v_false)
    low, high = np.clip([centre - z * error, centre + z * error], 0, 1)
    fraction = float(np.clip((np.mean(catalogue) - np.mean(negatives)) / separation, 0, 1))
    return Estimate(fraction, float(min(low, fraction)), float(max(high, fraction)))


def _moments(scores: np.ndarray, extra: float) -> tuple[float, float]:
    """Mean, and its variance, with `extra` galaxies of which half score 0, half 1 (Agresti & Coull 1998)."""
    scores = np.asarray(scores, np.float64)
    n = len(scores) + extra
    mean = (scores.sum() + extra / 2) / n
    return mean, ((np.square(scores).sum() + extra / 2) / n - mean**2) / n


def corrected_count(
    catalogue: np.ndarray, scores: np.ndarray, truth: np.ndarray, threshold: float, confidence: float = 0.95
) -> Estimate:
    """(c) The count of `catalogue` above `threshold`, corrected by labelled `scores`, `truth` [m].

    `catalogue` is [n], or [networks, n] where each labelled galaxy has the score of one of the networks: a galaxy then
    counts by the share of networks that put it above the threshold.
    """
    chosen, counted = ((x > threshold).astype(float) for x in (scores, np.atleast_2d(catalogue)))
    return corrected_mean(counted.mean(0), chosen[truth], chosen[~truth], confidence)


def calibrate(
    scores: np.ndarray, truth: np.ndarray, catalogue: np.ndarray, folds: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Isotonic probabilities of `truth`, cross-fitted: no galaxy was used to fit the curve that it is judged by.

    Args:
      scores, truth: float [m], bool [m], the validation sample; at least `folds` galaxies of each kind.
      catalogue: float [n], or [networks, n]: the mean of their probabilities is taken.

    Returns:
      (out-of-fold probabilities [m], the catalogue's under each fold's curve [folds, n]).
    """
    catalogue = np.atleast_2d(catalogue)
    held_out, everywhere = np.empty(len(scores)), np.empty((folds, catalogue.shape[1]))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(scores, truth)
    for k, (fit, held) in enumerate(split):
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores[fit], truth[fit])
        held_out[held] = curve.predict(scores[held])
        everywhere[k] = np.mean([curve.predict(one) for one in catalogue], 0)
    return held_out, everywhere


def shift_prior(probabilities: np.ndarray, old: float, new: float) -> np.ndarray:
    """Probabilities for a population whose fraction is `new`, not `old` (Saerens et al. 2002, eq. 2.4)."""
    positive, negative = probabilities * new / old, (1 - probabilities) * (1 - new) / (1 - old)
    return positive / (positive + negative)


def likely_prior(probabilities: np.ndarray, old: float) -> float:
    """The fraction at which the catalogue's probabilities [n], calibrated at `old`, are most likely.

    This is the maximum that the EM algorithm of Saerens et al. (2002, Neural Comput. 14, 21) converges to. The
    log-likelihood is concave in the one unknown, so a root of its slope is found instead, which is exact and fast also
    for tiny fractions.
    """
    values, counts = np.unique(probabilities, return_counts=True)
    positive, negative = values / old, (1 - values) / (1 - old)

    def slope(prior: float) -> float:
        return float(counts @ ((positive - negative) / (prior * positive + (1 - prior) * negative)))

    ends = (1e-9, 1 - 1e-9)
    if slope(ends[0]) <= 0 or slope(ends[1]) >= 0:
        return ends[0] if slope(ends[0]) <= 0 else ends[1]
    return float(optimize.brentq(slope, *ends, xtol=1e-10))


def calibrated_fraction(
    catalogue: np.ndarray, scores: np.ndarray, truth: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> tuple[Estimate, dict[str, Any]]:
    """(d) The fraction from calibrated probabilities, which is right also if the catalogue's own fraction differs.

    The probabilities are moved to the catalogue's most likely prior. They have errors, since the validation sample is
    finite. `corrected_mean`, whose means are cross-fitted, removes the bias from these: its equation holds for any
    score, so an error of the isotonic curve only makes the interval wider. The interval therefore needs the errors of
    the two samples only. A bootstrap that fits the curve again might draw no positive galaxy at all.

    Args:
      catalogue: scores [n], or [networks, n] (see `calibrate`); scores, truth: float [m], bool [m], the validation
        sample.

    Returns:
      (estimate, details: fractions, Brier scores, and `held_out`, the out-of-fold probabilities [m]);
      (`UNKNOWN`, {}) with fewer than two validation galaxies of a kind.
    """
    folds = int(min(5, truth.sum(), (~truth).sum()))
    if folds < 2:
        return UNKNOWN, {}
    held_out, everywhere = calibrate(scores, truth, catalogue, folds, seed)
    old = float(truth.mean())
    new = likely_prior(everywhere.mean(0), old)
    # At a prior of exactly 0 or 1 every score would be the same, with nothing left to correct.
    edge = 1 / (np.shape(catalogue)[-1] + 1)
    used = float(np.clip(new, edge, 1 - edge))
    adjusted = shift_prior(held_out, old, used)
    moved = shift_prior(everywhere, old, used).mean(0)
    details = {
        "validation_fraction": old,
        "likely_fraction": new,
        "mean_without_shift_correction": float(everywhere.mean()),
        "brier_raw": float(np.mean((scores - truth) ** 2)),
        "brier_calibrated": float(np.mean((held_out - truth) ** 2)),
        "held_out": held_out,
    }
    return corrected_mean(moved, adjusted[truth], adjusted[~truth], confidence), details


def confusion(scores: np.ndarray, truth: np.ndarray, threshold: float, confidence: float = 0.95) -> dict[str, Any]:
    """Counts of labelled galaxies at scores > threshold, and their purity, completeness and specificity."""
    chosen = scores > threshold
    among = {"purity": truth[chosen], "completeness": chosen[truth], "specificity": ~chosen[~truth]}
    shares = {k: threshold_count(v, 0.5, confidence) if len(v) else UNKNOWN for k, v in among.items()}
    return {
        "true_positive": int((chosen & truth).sum()),
        "false_positive": int((chosen & ~truth).sum()),
        "false_negative": int((~chosen & truth).sum()),
        "true_negative": int((~chosen & ~truth).sum()),
        **shares,
    }


def merger_rate(
    fraction: Estimate, gyr: float, gyr_error: float = 0.0, merging: float = 1.0, confidence: float = 0.95
) -> Estimate:
    """Mergers per galaxy per Gyr: fraction * merging / gyr (Lotz et al. 2011, ApJ 742, 103).

    Args:
      fraction: of galaxies seen merging.
      gyr, gyr_error: observability time and its standard error, Gyr. The time is taken as log-normal; the
        errors of fraction and time are added in quadrature in the logarithm, each side by itself.
      merging: C_merg, the share of candidates that do merge.

    Raises:
      UserError: a time or a share that is not possible.
    """
    if not (gyr > 0 and gyr_error >= 0 and 0 < merging <= 1):
        raise UserError(
            f"observability time {gyr} +- {gyr_error} Gyr, merging share {merging}: the time must be"
            " positive, its error not negative and the share in 0..1"
        )
    spread = stats.norm.ppf((1 + confidence) / 2) * gyr_error / gyr
    value, low, high = np.array(fraction) * merging / gyr
    if not value > 0:
        return Estimate(float(value), 0.0, float(high * np.exp(spread)))
    below = np.hypot(np.log(value / low), spread) if low > 0 else np.inf
    above = np.hypot(np.log(high / value), spread)
    return Estimate(float(value), float(value * np.exp(-below)), float(value * np.exp(above)))


def reliability(scores: np.ndarray, target: np.ndarray, confidence: float = 0.95) -> dict[str, list[float]]:
    """Mean `target` (0..1) at the mean score of ten bins, with an interval; empty bins are left out."""
    place = np.minimum((scores * 10).astype(int), 9)
    groups = [place == k for k in np.unique(place)]
    z = stats.norm.ppf((1 + confidence) / 2)
    middle = [_moments(target[g], z**2) for g in groups]
    return {
        "predicted": [float(scores[g].mean()) for g in groups],
        "observed": [float(target[g].mean()) for g in groups],
        "low": [float(max(mean - z * np.sqrt(variance), 0)) for mean, variance in middle],
        "high": [float(min(mean + z * np.sqrt(variance), 1)) for mean, variance in middle],
        "galaxies": [int(g.sum()) for g in groups],
    }
