"""The parameters of synthetic galaxies, and the votes of simulated volunteers.

A galaxy has random physical parameters. They give the probability of every answer in the trees of Galaxy Zoo 2 and
Galaxy Zoo DECaLS 5, and simulated volunteers answer the questions down the tree. Everything about a galaxy depends only
on (seed, galaxy_id) and the tree. So any subset, in any order, has the same galaxies, bit for bit.
"""

from typing import Generic, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from scipy.special import expit, ndtri

from gz_jax import labels
from gz_jax.labels import GALAXY_ZOO_2, Tree
from gz_jax.runtime.errors import UserError
from gz_jax.trees.tree import listed

KINDS = ("elliptical", "disk", "irregular", "merger", "star or artifact")
ELLIPTICAL, DISK, IRREGULAR, MERGER, ARTIFACT = range(len(KINDS))
# Of the galaxies that do not merge.
_KIND_SHARES = {ARTIFACT: 0.007, IRREGULAR: 0.04, ELLIPTICAL: 0.385}
_NUM_DRAWS = 48
_DECALS = labels.load("galaxy_zoo_decals")
_KNOWN = [(q.name, q.answers) for tree in (GALAXY_ZOO_2, _DECALS) for q in tree.questions]
R = TypeVar("R")
N = TypeVar("N")


class GalaxyParameters(NamedTuple, Generic[R, N]):
    """Physical parameters of n galaxies: arrays [n], float32 unless said; or numbers, of one. Lengths are pixels of
    the 424 px image, angles radians counter-clockwise from the x axis with y upwards."""

    galaxy_id: N  # int64
    seed: N  # int64: of the noise and the background sources
    kind: N  # int64, index into KINDS
    is_merger: N  # bool
    radius: R  # exponential scale length of a disk, half-light radius of an elliptical
    axis_ratio: R  # apparent, minor over major; for a disk it follows from inclination and thickness
    position_angle: R  # of the major axis
    bulge_fraction: R  # of the total flux
    bulge_radius: R  # half-light
    sersic: R  # index of the bulge or elliptical
    boxiness: R  # exponent of the bulge's superellipse: 2 is an ellipse, more is boxy
    surface_brightness: R  # mean flux within the scale length; sky noise is 0.0007
    lateness: R  # stellar population, 0 old and red to 1 young and blue
    bar: R  # strength, 0..1
    arms: N  # int64: 0 none, 1..4, 6 for "more than 4"
    arm_strength: R  # contrast, 0..1
    pitch: R  # pitch angle; small is tight. The sign is the winding
    phase: R  # azimuth of the bar and the arms in the disk's plane
    ring: R  # strength, 0..1
    ring_radius: R  # in scale lengths
    dust: R  # optical depth of a lane in an inclined disk
    arc: R  # strength of a lensed arc, 0..1
    disturbed: R  # lopsidedness and warping, 0..1
    clumps: R  # patchiness and star-forming knots, 0..1
    companion_separation: R
    companion_angle: R
    companion_flux: R  # relative to the galaxy; 0 where there is none
    tails: R  # strength of the tidal tails, 0..1
    artifact: N  # int64: 0 saturated star, 1 satellite trail, 2 edge of the survey frame; else -1
    pixel: R  # the camera's pixel in pixels of the image: sets PSF (FWHM 1.3 arcsec) and noise grain
    sources: R  # expected number of background stars and galaxies in the 424 px field


Galaxies = GalaxyParameters[np.ndarray, np.ndarray]
Galaxy = GalaxyParameters[float, int]


def generator(seed: int, galaxy_id: int, stream: int) -> np.random.Generator:
    """Counter-based random numbers of one galaxy; `stream` keeps parameters, votes, sky and so on apart."""
    return np.random.Generator(np.random.Philox(key=[seed % 2**32 + (stream << 32), int(galaxy_id)]))


class _Dice:
    """Random numbers of n galaxies, one contiguous row [n] a call: NumPy then takes the same code path whatever
    n is, and a galaxy's bits do not depend on its neighbours."""

    def __init__(self, ids: np.ndarray, seed: int):
        draws = [generator(seed, i, 0).random(_NUM_DRAWS) for i in ids]
        self._rows = iter(np.ascontiguousarray(np.reshape(draws, (len(ids), _NUM_DRAWS)).T))

    def uniform(self, low=0.0, high=1.0):
        return low + (high - low) * next(self._rows)

    def normal(self, mean, std, low=-np.inf, high=np.inf):
        return np.clip(mean + std * ndtri(np.clip(next(self._rows), 1e-12, None)), low, high)

    def sometimes(self, probability, low, high):
        return np.where(next(self._rows) < probability, self.uniform(low, high), 0.0)


def draw_parameters(galaxy_ids: np.ndarray, *, seed: int, merger_fraction: float = 0.04) -> Galaxies:
    """Draw galaxies.

    Args:
      galaxy_ids: int64 [n], non-negative.
      seed: any int.
      merger_fraction: expected share of galaxies with `is_merger`. A larger one turns more galaxies into
        mergers and leaves the others as they are.

    Returns:
      GalaxyParameters of arrays [n].
    """
    ids = np.asarray(galaxy_ids, np.int64)
    dice = _Dice(ids, seed)
    uniform, normal, sometimes, where = dice.uniform, dice.normal, dice.sometimes, np.where
    merger = uniform() < merger_fraction
    kind = np.array([*_KIND_SHARES, DISK])[np.digitize(uniform(), np.cumsum([*_KIND_SHARES.values()]))]
    kind = where(merger, MERGER, kind)
    elliptical, disk, irregular = kind == ELLIPTICAL, kind == DISK, kind == IRREGULAR
    late = uniform()
    old = normal(0.0, 0.12, -0.3, 0.35)
    late = where(elliptical, old, where(irregular, 0.6 + 0.5 * late, late))
    # Random orientation: cos(inclination) is uniform; disks have a thickness.
    thickness, cosine = uniform(0.1, 0.22) - 0.05 * late, uniform()
    inclined = np.sqrt(thickness**2 + (1 - thickness**2) * cosine**2)
    oval = normal(0.78, 0.19, 0.28, 0.995)
    ratio = where(disk, inclined, where(irregular, 0.35 + 0.6 * cosine, np.minimum(oval, 2 - oval)))
    radius = where(elliptical, normal(19, 3.5, 11, 30), normal(15.5, 2.6, 9, 25) * (1.25 - 0.2 * ratio))
    bar = sometimes(0.36, 0.35, 1.0) * disk
    bulge = np.clip(0.45 * np.clip(1 - late, 0, 1) ** 1.2 + normal(0.05, 0.06), 0.01, 0.8)
    bulge = where(bar > 0, 0.6 * bulge, bulge)
    armed = sometimes(disk * (ratio > 0.16) * (0.10 + 0.88 * expit((late - 0.25) / 0.05)), 0.25, 1.0)
    arms = np.array([1, 2, 3, 4, 6])[np.digitize(uniform(), [0.06, 0.68, 0.83, 0.91])]
    arms = where(armed > 0, where(bar > 0, np.minimum(arms, 2), arms), 0)
    # Nobody could tell many tightly wound arms from a disk without arms.
    pitch = np.maximum(normal(16, 7.5, 6, 40), 4 + 3 * arms) * where(uniform() < 0.5, -1, 1)
    values = {
        "radius": radius,
        "axis_ratio": ratio,
        "position_angle": uniform(0, np.pi),
        "bulge_fraction": where(elliptical, 1.0, where(irregular, 0.0, bulge)),
        "bulge_radius": where(elliptical, radius, radius * (0.16 + 0.55 * bulge)),
        "sersic": where(elliptical, normal(2.5, 0.6, 1.2, 4.0), 1.0 + 2.5 * bulge),
        "boxiness": 2 + sometimes(0.16 * disk, 1.0, 2.4),
        "surface_brightness": np.exp(normal(-1.4, 0.45) - where(elliptical, 1.1, 0.35 * late * ~irregular)),
        "lateness": late,
        "bar": bar,
        "arm_strength": armed,
        "pitch": np.radians(pitch),
        "phase": uniform(0, 2 * np.pi),
        "ring": sometimes(where(armed > 0, 0.08, 0.16), 0.4, 1.0) * disk * (ratio > 0.25),
        "ring_radius": normal(2.1, 0.45, 1.3, 3.2),
        "dust": sometimes(0.25, 0.8, 3.0) * disk * (ratio < 0.32),
        "arc": sometimes(0.025 * elliptical, 0.4, 1.0),
        "disturbed": where(merger, uniform(0.2, 0.9), sometimes(where(elliptical, 0.02, 0.08), 0.3, 1.0)),
        "clumps": where(irregular, uniform(0.5, 1), np.clip(late + normal(-0.1, 0.2), 0, 1) * ~elliptical),
        "companion_flux": sometimes(where(merger, 1.0, 0.06), 0.08, 0.9),
        # Chance neighbours are further away than partners in a merger.
        "companion_separation": where(merger, uniform(16, 62), uniform(42, 85)),
        "companion_angle": uniform(0, 2 * np.pi),
        "tails": where(merger, uniform(-0.25, 1.0).clip(0), 0),
        "pixel": np.exp(normal(0.936, 0.33, -0.1, 1.57)),
    }
    values["sources"] = 16 / values["pixel"] * np.exp(normal(0, 0.5))
    artifact = where(kind == ARTIFACT, np.digitize(uniform(), [0.6, 0.85]), -1)
    whole = {"galaxy_id": ids, "seed": np.full(len(ids), seed, np.int64), "kind": kind, "arms": arms}
    whole |= {"is_merger": merger, "artifact": artifact}
    return GalaxyParameters(**whole, **{name: value.astype(np.float32) for name, value in values.items()})


def _share(*weights: np.ndarray) -> np.ndarray:
    """Weights [n] of a question's answers -> conditional fractions [n, answers]."""
    stacked = np.stack(np.broadcast_arrays(*weights), axis=-1).astype(np.float64)
    return stacked / stacked.sum(-1, keepdims=True)


def _graded(value: np.ndarray, thresholds: tuple[float, ...], width: float) -> np.ndarray:
    """Answers in order of a quantity, a soft border `width` at each threshold: [n, len(thresholds) + 1]."""
    above = np.stack([np.ones_like(value), *(expit((value - t) / width) for t in thresholds), np.zeros_like(value)], -1)
    return above[..., :-1] - above[..., 1:]


def unanswerable(tree: Tree) -> list[str]:
    """Names of the questions of a tree for which synthetic galaxies have no votes."""
    return [q.name for q in tree.questions if (q.name, q.answers) not in _KNOWN]


def _shares(parameters: Galaxies) -> dict[tuple[str, tuple[str, ...]], np.ndarray]:
    """Conditional fractions [n, answers] of each question that can be answered, by its name and answers.

    The numbers are chosen so that the means of the answers lie near Kaggle's; mergers are a few per cent, as in
    Walmsley et al. 2022.
    """
    p = Galaxies(*(np.asarray(x, np.float64) for x in parameters))
    elliptical, disk, irregular, star = (p.kind == k for k in (ELLIPTICAL, DISK, IRREGULAR, ARTIFACT))
    # How visible a feature is, 0..1, at the galaxy's inclination, brightness and PSF.
    sharp = expit((3.6 - p.pixel) / 0.7) * expit((np.log(p.surface_brightness) + 3.0) / 0.4)
    face_on = expit((p.axis_ratio - 0.34) / 0.05)
    arms = p.arm_strength**0.5 * (0.3 + 0.7 * sharp) * (0.15 + 0.85 * face_on)
    bar = p.bar * (0.3 + 0.7 * sharp) * face_on
    ring = p.ring * (0.3 + 0.7 * sharp) * face_on
    edge = expit((0.285 - p.axis_ratio) / 0.03) * disk
    dust = np.clip(p.dust / 2, 0, 1) * expit((0.3 - p.axis_ratio) / 0.04) * sharp
    partner = 0.1 + 0.45 * p.companion_flux + 0.4 * p.tails + 0.2 * p.disturbed
    neighbour = 0.25 * np.exp(-np.maximum(p.companion_separation - 45, 0) / 18) * np.sqrt(p.companion_flux)
    merger = np.where(p.is_merger, np.clip(partner, 0, 1) * (0.55 + 0.45 * sharp), neighbour)
    featured = disk * (-1.3 + 0.8 * p.lateness + 4.2 * arms + 1.5 * bar + 1.6 * ring + 2.5 * edge)
    featured += 0.9 * irregular - 2.0 * elliptical + p.is_merger * (0.1 + 0.8 * p.tails) + 0.8 * p.disturbed
    featured = expit(0.92 * featured)
    artifact = np.where(star, 0.62, 0.012 + 0.022 * (1 - featured))
    spiral = 0.12 + 0.85 * np.clip(1.5 * arms, 0, 1)
    barred = 0.10 + 0.85 * bar
    odd = -2.15 + 3.7 * merger + 2.4 * p.disturbed + 2.6 * irregular + 3.8 * ring + 3.2 * p.arc
    odd = expit(odd + 2.2 * dust + 2 * star)
    concentration = p.bulge_fraction + 0.15 * irregular
    has_bulge = expit((p.bulge_fraction - 0.13) / 0.04)
    boxy = 0.07 + 0.6 * expit((p.boxiness - 3.0) / 0.3)
    count = np.stack([p.arms == m for m in (1, 2, 3, 4, 6)], -1)
    miscount = np.roll(count, 1, -1) * [0, 1, 1, 1, 1] + np.roll(count, -1, -1) * [1, 1, 1, 1, 0]
    count = 0.85 * count + 0.08 * miscount + [0.02, 0.08, 0.02, 0.01, 0.01]
    sure = np.clip(0.2 + 0.9 * arms, 0, 0.92)[:, None]  # of the number of arms
    galaxy_zoo_2 = (
        _share((1 - artifact) * (1 - featured), (1 - artifact) * featured, artifact),
        _share(0.012 + 0.95 * edge, 0.988 - 0.95 * edge),
        _share(barred, 1 - barred),
        _share(spiral, 1 - spiral),
        _graded(concentration, (0.02, 0.21, 0.62), 0.07),
        _share(odd, 1 - odd),
        _graded(-p.axis_ratio, (-0.78, -0.4), 0.06),
        _share(
            0.015 + 3.6 * ring,
            0.04 + 1.2 * p.arc + 0.1 * ring,
            0.09 + 0.7 * p.disturbed,
            0.05 + 1.1 * irregular + 0.2 * p.lateness.clip(0) * disk + 0.2 * p.disturbed,
            0.3 + 1.0 * star,
            0.04 + 3.4 * merger,
            0.004 + 0.8 * dust,
        ),
        _share(has_bulge * (1 - boxy), has_bulge * boxy, 1 - has_bulge),
        _graded(np.degrees(np.abs(p.pitch)), (15.5, 25.0), 3.5),
        np.concatenate([sure * count / count.sum(-1, keepdims=True), 1 - sure], -1),
    )
    smooth, edge_on, _, arms, _, _, rounded, _, bulge_shape, winding, number = galaxy_zoo_2
    bars = _graded(bar, (0.28, 0.62), 0.09)[:, ::-1]
    bulges = _graded(concentration, (0.05, 0.19, 0.36, 0.65), 0.05)[:, ::-1]
    merging = _share(
        (1 - 0.8 * merger) * (1 - 0.75 * p.disturbed),
        0.06 + 0.5 * p.disturbed + 0.2 * irregular,
        0.015 + 0.5 * p.disturbed + 0.6 * p.tails,
        0.012 + 3 * merger**1.5,
    )
    decals = (smooth, edge_on, arms, bars, bulges, rounded, bulge_shape[:, [1, 2, 0]], winding, number, merging)
    return dict(zip(_KNOWN, [*galaxy_zoo_2, *decals], strict=True))


def true_fractions(parameters: Galaxies, tree: Tree = GALAXY_ZOO_2) -> np.ndarray:
    """The probability of each answer, joint down the tree: what infinitely many volunteers would say.

    Args:
      parameters: GalaxyParameters of arrays [n].
      tree: its questions are among those of Galaxy Zoo 2 and Galaxy Zoo DECaLS 5, in any order.

    Returns:
      float32 [n, answers], in the order of tree.columns, obeying the tree.

    Raises:
      UserError: names the questions that cannot be answered.
    """
    if strange := unanswerable(tree):
        raise UserError(
            f"Synthetic galaxies have no votes for these questions of {tree.name}: {listed(strange)}. They have votes "
            f"for questions of {GALAXY_ZOO_2.name} and {_DECALS.name}, with the same answers in the same order."
        )
    shares = _shares(parameters)
    conditional = np.concatenate([shares[q.name, q.answers] for q in tree.questions], -1).astype(np.float32)
    return np.asarray(labels.joint(jnp.asarray(conditional), tree))


def draw_votes(
    truth: np.ndarray, galaxy_ids: np.ndarray, *, seed: int, tree: Tree = GALAXY_ZOO_2, volunteers: int = 44
) -> np.ndarray:
    """Vote fractions of people who each walk down the tree, answering by the true conditional fractions.

    A question is answered by those who gave one of the answers that lead to it, or by everyone where none does; where
    nobody was asked, its fractions are 0.

    Args:
      truth: float32 [n, answers] joint fractions that obey the tree (see `true_fractions`).
      galaxy_ids: int64 [n].
      seed: any int.
      tree: of the answers.
      volunteers: people per galaxy.

    Returns:
      float32 [n, answers] joint vote fractions, multiples of 1/volunteers; the tree holds exactly.
    """
    conditional = np.asarray(labels.conditional(jnp.asarray(truth, np.float32), tree))
    votes = np.zeros(conditional.shape, np.float32)
    for row, (chances, galaxy_id) in enumerate(zip(conditional, galaxy_ids, strict=True)):
        luck = generator(seed, galaxy_id, 1).random((len(tree.questions), volunteers), np.float32)
        given = np.zeros((len(tree.columns), volunteers), np.bool)
        for q in tree.order:
            columns, parents = tree.slices[q], list(tree.parents[q])
            choice = np.searchsorted(np.cumsum(chances[columns])[:-1], luck[q], side="right")
            asked = given[parents].any(0) if parents else np.True_
            given[columns] = (np.arange(len(tree.questions[q].answers))[:, None] == choice) & asked
        votes[row] = np.count_nonzero(given, -1) / np.float32(volunteers)
    return votes
