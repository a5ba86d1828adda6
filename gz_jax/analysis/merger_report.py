"""Everything on a fraction's page, from arrays: estimates, curves, published values and caveats."""

from typing import Any

import numpy as np

from gz_jax.analysis import merger_fraction as mf
from gz_jax.analysis.evaluate import Estimate
from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError

# Fractions published for the local Universe, as the abstracts state them; NaN where only a range is given. Definitions
# differ (pairs or disturbed shapes, major mergers, limits of mass): compare orders of magnitude.
PUBLISHED = {
    "De Propris+ 2007 (arXiv 0705.2528)": Estimate(0.02, 0.02, 0.02),  # "about 2%"
    # 1 to 3 per cent of major mergers, times 1.5 for pairs that spectroscopy missed.
    "Darg+ 2010 (MNRAS 401, 1043)": Estimate(float("nan"), 0.015, 0.045),
    # "Galaxies in truly interacting pairs", of more than 10^9.5 solar masses, mass ratio below 4.
    "Casteels+ 2013 (MNRAS 429, 1051)": Estimate(float("nan"), 0.004, 0.027),
    "De Propris+ 2014 (arXiv 1407.4996)": Estimate(0.015, 0.015, 0.015),  # "about 1.5%"
    # Between 10^9.5 and 10^11.5 solar masses.
    "Casteels+ 2014 (arXiv 1409.1358)": Estimate(float("nan"), 0.013, 0.02),
    # The major close pair fraction at z = 0: A of A (1 + z)^m.
    "Robotham+ 2014 (MNRAS 444, 3986)": Estimate(0.021, 0.020, 0.022),
    "Thibert+ 2021 (arXiv 2106.04266)": Estimate(0.010, 0.008, 0.012),  # at z = 0
    "a CNN on SDSS, 2024 (MNRAS 528, 6915)": Estimate(0.0296, 0.0276, 0.0322),
}

CAVEATS = (
    "The catalogue is usually limited by apparent size and brightness, not by volume. The fraction is that of these "
    "galaxies, not of the local Universe.",
    "Votes are not truth: a galaxy is positive where enough volunteers gave this answer, rightly or wrongly.",
    "(c) and (d) assume that galaxies of one kind get the same scores in validation and catalogue. That needs the same "
    "survey, depth, seeing and pixel scale. They also assume that the validation galaxies took no part in training. "
    "If these were used to choose the best epoch, the network looks slightly better than it is.",
    "(b) is the mean vote fraction, not a share of galaxies above a threshold. It keeps the network's own bias, and "
    "its interval shows only the scatter of a finite sample.",
)
OF_MERGERS = (
    "A chance alignment of two galaxies can get a merger's votes.",
    "A fraction is not a rate: a rate needs the observability time, over which a merger can be recognised "
    "(--observability).",
)


def merger_report(
    predicted: np.ndarray,
    validation_predicted: np.ndarray,
    validation_votes: np.ndarray,
    training_votes: np.ndarray | None = None,
    *,
    tree: Tree,
    answer: str,
    probabilities: np.ndarray | None = None,
    crossed: bool = False,
    threshold: float = 0.3,
    observability: tuple[float, float] | None = None,
    merging: float = 1.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """All results on the fraction of galaxies with one answer: texts, numbers, `Estimate`s, dicts and lists.

    Args:
      predicted: [n] or [seeds, n], the answer's joint fraction for the catalogue, by one network or several.
      validation_predicted: [m] or [seeds, m], the same of labelled galaxies outside training.
      validation_votes: [m], their volunteers' fractions; training_votes: [t], for the labels' own fraction.
      answer: of `tree`, as its column or as '<question>_<answer>'.
      probabilities: [n], each galaxy's own probability of a fraction above `threshold`, by networks that know it.
      crossed: `validation_predicted` [m] is by another network for each fold of the labelled galaxies, the one that was
        not trained on them, and `predicted` [networks, n] by all of these.
      threshold: of predictions and of votes: a galaxy is positive where its vote fraction is above.
      observability: (time, standard error) in Gyr, to turn the fraction into a rate; `merging` is C_merg.

    Galaxies with a NaN (unreadable image, no votes) are left out and counted. Several networks are averaged,
    and each one's own estimates show their spread.

    Raises:
      UserError: unknown answer, shapes that do not fit, values outside 0..1, or no galaxy left.
    """
    place = tree.index(answer)
    if not 0 <= threshold < 1:
        raise UserError(f"threshold {threshold} must be a vote fraction from 0 to below 1")
    catalogue, _ = _clean("the catalogue", predicted)
    if not np.isfinite(validation_votes).any():
        raise UserError(
            f"none of the {len(validation_votes)} validation galaxies has a known vote fraction of "
            f"{tree.columns[place]}, so the predictions of it cannot be judged: name another answer or another table"
        )
    tables, votes = _clean("the validation table", validation_predicted, validation_votes)
    if len(catalogue) != len(tables) and not crossed:
        raise UserError(f"{len(catalogue)} prediction tables of the catalogue, {len(tables)} of the validation")
    given = {"validation": votes}
    if training_votes is not None:
        given["training"] = _clean("the training labels", training_votes)[1]
    truth, scores = votes > threshold, tables.mean(0)
    judged = catalogue if crossed else catalogue.mean(0)
    calibrated, details = mf.calibrated_fraction(judged, scores, truth, confidence, seed)
    held_out = details.pop("held_out", None)
    found = {
        "count": mf.threshold_count(catalogue.mean(0), threshold, confidence),
        "sum": mf.probability_sum(catalogue.mean(0), confidence, seed=seed),
        "corrected": mf.corrected_count(judged, scores, truth, threshold, confidence),
        "calibrated": calibrated,
    }
    own: dict[str, float] = {}
    if probabilities is not None:
        known = probabilities[np.isfinite(probabilities)]
        found["posterior"], spread = mf.posterior_share(known, confidence)
        own = {"galaxies": len(known), "expected": float(known.sum()), "standard_deviation": spread}
    seeds = _seeds(catalogue, tables, truth, threshold, seed) if len(tables) > 1 else {}
    curves = {"calibrated": mf.reliability(held_out, truth.astype(float), confidence)} if held_out is not None else {}
    rates: dict[str, Estimate] = {}
    if observability is not None:
        kept = {k: found[k] for k in ("corrected", "calibrated")}
        rates = {k: mf.merger_rate(e, *observability, merging, confidence) for k, e in kept.items()}
    return {
        "answer": tree.columns[place],
        "meaning": tree.texts[place],
        "threshold": threshold,
        "confidence": confidence,
        "catalogue": {"galaxies": catalogue.shape[1], "left_out": np.shape(predicted)[-1] - catalogue.shape[1]},
        "validation": {"galaxies": len(votes), "left_out": len(validation_votes) - len(votes)},
        "estimates": found,
        "labels": {k: mf.threshold_count(v, threshold, confidence) for k, v in given.items()},
        "confusion": mf.confusion(scores, truth, threshold, confidence),
        "calibration": details,
        "posterior": own,
        "seeds": seeds,
        "seed_scatter": {k: float(np.std(v, ddof=1)) for k, v in seeds.items()},
        "curve": _curve(judged, scores, votes, given, confidence),
        "reliability": {"votes": mf.reliability(scores, votes, confidence)} | curves,
        "rate_per_gyr": rates,
        "published": PUBLISHED if tree.keys[place] == tree.merger else {},
        "caveats": [
            *CAVEATS,
            *(OF_MERGERS if tree.keys[place] == tree.merger else ()),
            *_warnings(
                found,
                int(truth.sum()),
                int((scores[truth] > threshold).sum()),
                int((~np.isfinite(validation_votes)).sum()),
            ),
            *_of_posterior(own),
        ],
    }


def _of_posterior(own: dict[str, float]) -> list[str]:
    if not own:
        return []
    return [
        f"(e) adds up the probabilities that the networks themselves give: {own['expected']:,.1f} of these "
        f"{own['galaxies']:,} galaxies. If they are right, the share among these galaxies has a standard deviation of "
        f"{own['standard_deviation']:.2g}. No labelled galaxy corrects (e): the report of --mode=evaluate shows "
        "whether the networks' intervals hold."
    ]


def _seeds(
    catalogue: np.ndarray, tables: np.ndarray, truth: np.ndarray, threshold: float, seed: int
) -> dict[str, list[float]]:
    """Each network's own estimates."""
    pairs = list(zip(catalogue, tables, strict=True))
    return {
        "count": [float((c > threshold).mean()) for c in catalogue],
        "sum": [float(c.mean()) for c in catalogue],
        "corrected": [mf.corrected_count(c, s, truth, threshold).value for c, s in pairs],
        "calibrated": [mf.calibrated_fraction(c, s, truth, seed=seed)[0].value for c, s in pairs],
    }


def _curve(
    catalogue: np.ndarray, scores: np.ndarray, votes: np.ndarray, given: dict[str, np.ndarray], confidence: float
) -> dict[str, Any]:
    """At each threshold, of scores and votes alike: the count, its correction, and the labels' own share."""
    thresholds = np.round(np.linspace(0.05, 0.95, 19), 2)
    return {
        "threshold": thresholds.tolist(),
        "count": [mf.threshold_count(np.atleast_2d(catalogue).mean(0), t, confidence) for t in thresholds],
        "corrected": [mf.corrected_count(catalogue, scores, votes > t, t, confidence) for t in thresholds],
        "labels": {k: [float((v > t).mean()) for t in thresholds] for k, v in given.items()},
    }


def _clean(name: str, scores: np.ndarray, votes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """([seeds, n] float64, [n]) of the galaxies that have every number."""
    table = np.atleast_2d(np.asarray(scores, np.float64))
    votes = table[0] if votes is None else np.asarray(votes, np.float64)
    if table.ndim != 2 or votes.shape != table.shape[1:]:
        raise UserError(f"{name}: predictions {np.shape(scores)} and votes {votes.shape} do not fit together")
    known = np.isfinite(table).all(0) & np.isfinite(votes)
    table, votes = table[:, known], votes[known]
    if not known.any():
        raise UserError(f"{name}: none of {len(known)} galaxies has both a prediction and a vote fraction")
    # Slightly above 1 is float32 rounding.
    if min(table.min(), votes.min()) < -1e-5 or max(table.max(), votes.max()) > 1 + 1e-5:
        raise UserError(f"{name}: fractions outside 0..1")
    # Seven decimals: a float32 of 0.3 must not count as above a threshold of 0.3.
    return np.clip(table, 0, 1).round(7), np.clip(votes, 0, 1).round(7)


def _warnings(found: dict[str, Estimate], positives: int, hits: int, unknown: int) -> list[str]:
    """Caveats that depend on the data."""
    corrected, calibrated = found["corrected"], found["calibrated"]
    texts = []
    if unknown:
        texts.append(
            f"The votes of {unknown:,} validation galaxies for this answer are unknown: they are left out. (c) and (d)"
            " hold only if they are like the others."
        )
    if positives < 30:
        texts.append(f"Only {positives} validation galaxies are positive: (c) and (d) depend on these few.")
    if positives and not hits:
        texts.append(
            f"The network puts none of the {positives} positive validation galaxies above the threshold: (a) and (c) "
            "say nothing."
        )
    if corrected.low > calibrated.high or calibrated.low > corrected.high:
        texts.append("(c) and (d) disagree: the scores mean different things in the catalogue and in validation.")
    return texts
