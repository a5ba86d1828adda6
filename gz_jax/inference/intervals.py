"""Intervals of a prediction for one galaxy: where the vote fraction of each answer probably lies.

There are two kinds, and every table says which it has. 'dirichlet': a network that was trained with the loss
'dirichlet' predicts a distribution of each fraction, and the interval is its central part. For several networks or
test-time views it is the central part of their mixture, with equal weights (see `posterior`). The size of this part is
calibrated on the votes of validation galaxies (see `conformal.Levels`). 'conformal': the intervals of any other network
are as wide as its errors on validation galaxies were (split-conformal prediction: Lei et al. 2018, J. Am. Stat. Assoc.
113, 1094). Both are valid for galaxies like the validation galaxies.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from gz_jax.inference import tables
from gz_jax.inference.conformal import Calibration, Levels, calibrate
from gz_jax.inference.manifest import networks_of, same_networks
from gz_jax.inference.trained import Trained
from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError

Kind = Literal["dirichlet", "conformal"]
TEXTS: dict[Kind, str] = {
    "dirichlet": "of a galaxy's own vote fractions, from the network's Dirichlet distributions",
    "conformal": "as wide as the errors on the validation galaxies; they hold for as many votes as those galaxies have",
}


def kind_of(networks: Sequence[Trained]) -> Kind:
    """The kind of the networks' intervals. Raises UserError: there are networks of both kinds."""
    kinds: set[Kind] = {"dirichlet" if n.config.model.activation == "dirichlet" else "conformal" for n in networks}
    if len(kinds) > 1:
        raise UserError("--interval: networks with Dirichlet outputs and others cannot be averaged: give one kind.")
    return kinds.pop()


def identity(networks: Sequence[Trained]) -> dict[str, Any]:
    """Settings that all parts of a folder of predictions must share."""
    kind = kind_of(networks)
    return {"interval_kind": kind, "interval_calibrated": kind == "conformal" or levels_of(networks) is not None}


def text(networks: Sequence[Trained]) -> str:
    """What the intervals mean and how they are calibrated, in words."""
    kind = kind_of(networks)
    if kind == "conformal":
        return TEXTS[kind]
    if levels_of(networks):
        return f"{TEXTS[kind]}, calibrated on the votes of validation galaxies"
    return f"{TEXTS[kind]}, not calibrated: there is no table of validation galaxies with as many views"


def check(level: float) -> float:
    """The level, which must be 0.01 to 0.99 in steps of 0.01, rounded. Raises UserError: it is not such a level."""
    if not (0.005 < level < 0.995 and abs(level - round(level, 2)) < 1e-9):
        raise UserError(f"--interval={level:g} must be a level from 0.01 to 0.99 in steps of 0.01, such as 0.9.")
    return round(level, 2)


def of_concentrations(
    concentrations: Sequence[np.ndarray], tree: Tree, level: float, levels: Levels | None = None
) -> np.ndarray:
    """Ends of the central intervals and the standard deviation, float32 [n, 5, answers], in the order of `tables.ENDS`.

    Args:
      concentrations: of each network, positive [views, n, answers]. All networks have the same weight, and so have the
        views of a network.
      levels: the calibrated levels of each question; None uses `level` itself.
    """

    from gz_jax import posterior  # loads scipy.special, which takes a second

    def together(moments: Callable[[np.ndarray, Tree], posterior.Moments]) -> posterior.Moments:
        each = [posterior.mixture(moments(one, tree)) for one in concentrations]
        return posterior.Moments(*(np.mean(part, 0) for part in zip(*each, strict=True)))

    joint, conditional = together(posterior.joint_moments), together(posterior.conditional_moments)
    asked = np.float64(level) if levels is None else levels.central[round(100 * level) - 1][list(tree.question_of)]
    ends = [*posterior.interval(joint, asked), *posterior.interval(conditional, asked)]
    deviation = np.sqrt(np.maximum(joint.square - joint.mean**2, 0))
    return np.stack([*ends, deviation], 1).astype(np.float32)


def levels_of(networks: Sequence[Trained]) -> Levels | None:
    """The calibration of Dirichlet intervals: the mean of the levels of all networks.

    None if one of them has no table of validation galaxies with as many views.
    """
    found = [_levels_of(network) for network in networks]
    known = [one.central for one in found if one is not None]
    return Levels(np.mean(known, 0)) if len(known) == len(found) else None


def _levels_of(network: Trained) -> Levels | None:
    if isinstance(network.calibration, Levels):
        return network.calibration if network.views == 1 else None
    path = _table(network)
    return tables.levels_of(path) if _is_of(path, network) else None


def calibration_of(networks: Sequence[Trained]) -> Calibration:
    """The calibration from the networks' tables of validation galaxies, or from a shared network's folder.

    Raises:
      UserError: a network has no such table with as many views; the tables are of different galaxies.
    """
    if len(networks) == 1 and isinstance(given := networks[0].calibration, Calibration):
        if networks[0].views == 1:
            return given
        raise UserError(
            f"{networks[0].workdir} has the calibration of its intervals only for one view: use --views=1, or the "
            "workdir of the training run."
        )
    found = [_read(network) for network in networks]
    ids, truth, _ = found[0]
    if any(not np.array_equal(one[0], ids) for one in found):
        raise UserError("--interval: the networks were validated on different galaxies; name one network.")
    return calibrate(truth, np.mean([predicted for *_, predicted in found], 0), networks[0].tree)


def _table(network: Trained) -> pathlib.Path:
    """The network's table of the validation galaxies, predicted with as many views."""
    name = "validation.parquet" if network.views == 1 else f"validation_{network.views}_views.parquet"
    return network.workdir / "report" / name


def _is_of(path: pathlib.Path, network: Trained) -> bool:
    return path.is_file() and same_networks(networks_of(tables.manifest(path)), [network.identity])


def _read(network: Trained) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    path = _table(network)
    if not _is_of(path, network):
        raise UserError(
            f"--interval: there is no {path.name} of this network in {os.fspath(path.parent)}, from which the "
            f"intervals' width is taken: --mode=evaluate --workdir={network.workdir} --views={network.views} writes it."
        )
    return tables.read_validation(path)
