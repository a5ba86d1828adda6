"""Keras' rules for when to lower the rate, when to stop and which epoch is best, as pure state transitions.

They follow `keras.callbacks` (3.15) exactly: `ReduceLROnPlateau` (absolute min_delta 1e-4), `EarlyStopping`
(min_delta 0, strict) and `ModelCheckpoint(save_best_only=True)` (strict). The states are plain Python numbers in
float64, as in Keras, so they survive a checkpoint in JSON exactly; the rate is rounded to float32 and losses are
compared in float32, as Keras' optimiser and backend do.
"""

import math
from typing import NamedTuple

import numpy as np


class PlateauRule(NamedTuple):
    """When and how far the rate falls: after `patience` epochs without improvement, by `factor`, down to `min_rate`."""

    patience: int
    factor: float
    cooldown: int = 0
    min_delta: float = 1e-4
    min_rate: float = 0.0


class Plateau(NamedTuple):
    """State of `ReduceLROnPlateau`: `rate` is the learning rate of the next epoch."""

    rate: float
    best: float = math.inf
    wait: int = 0
    cooldown: int = 0


class EarlyStop(NamedTuple):
    """State of `EarlyStopping` and `ModelCheckpoint`: the best loss so far, its 0-based epoch, and the epochs since."""

    best: float = math.inf
    best_epoch: int = -1
    wait: int = 0
    stop: bool = False


def _less(loss: float, best: float) -> bool:
    """Whether `loss` is less than `best` in float32, in which Keras' backend compares."""
    return bool(np.float32(loss) < np.float32(best))


def start_plateau(rate: float) -> Plateau:
    """State before the first epoch, at learning rate `rate`."""
    return Plateau(rate=float(np.float32(rate)))


def update_plateau(state: Plateau, loss: float, rule: PlateauRule) -> Plateau:
    """State after an epoch with validation loss `loss`."""
    rate, best, wait, cooldown = state
    if cooldown > 0:
        cooldown, wait = cooldown - 1, 0
    if _less(loss + rule.min_delta, best):
        return Plateau(rate, loss, 0, cooldown)
    if cooldown > 0:
        return Plateau(rate, best, wait, cooldown)
    wait += 1
    if wait >= rule.patience and rate > np.float32(rule.min_rate):
        rate = float(np.float32(max(rate * rule.factor, rule.min_rate)))
        return Plateau(rate, best, 0, rule.cooldown)
    return Plateau(rate, best, wait, cooldown)


def update_early_stop(state: EarlyStop, epoch: int, loss: float, patience: int) -> EarlyStop:
    """State after 0-based `epoch` with validation loss `loss`; it is the best epoch if `best_epoch == epoch`."""
    if _less(loss, state.best):
        return EarlyStop(loss, epoch, 0, False)
    wait = state.wait + 1
    return EarlyStop(state.best, state.best_epoch, wait, wait >= patience and epoch > 0)
