"""Galaxy shapes from images: Galaxy Zoo vote fractions with JAX and Flax.

`train` a network, `load` one, `predict` with it, `describe` a galaxy in words. A mistake in what they are given raises
`UserError`, of one line.
JAX and the other large libraries are loaded when the first of these functions is called.
"""

from gz_jax.api import Run, describe, load, predict, train
from gz_jax.runtime.errors import UserError

__all__ = ["Run", "UserError", "describe", "load", "predict", "train"]
