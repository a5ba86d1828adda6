"""A trained network made ready to predict: batch normalisation folded into the convolutions, kernels transformed once.

In evaluation batch normalisation is an affine function of each channel, and the convolution before it is linear. One
convolution with another kernel and bias computes both, exactly but for float32 rounding.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gz_jax.models.cnn import CNN
from gz_jax.models.cnn import EPSILON as CNN_EPSILON
from gz_jax.models.resnet import EPSILON

PIXELS = 16 * 68**2  # of all images of a batch: the kernels' transforms pay from here on, on CPU; measured
Variables = Mapping[str, Any]


def fold(module: Any, variables: Variables) -> tuple[Any, dict[str, Any]]:
    """A network without batch normalisation that gives the same logits, for inference alone.

    Args:
      module: a `CNN` or a `ResNet50Classifier`; variables: {'params', 'batch_stats'}, its own.

    Returns:
      The module with `folded=True` and its variables, {'params'}: NumPy arrays in the dtype of those given. With
      kernel k and bias b of a convolution, and scale s, bias c, mean m and variance v of the batch normalisation that
      follows it, they are k * f and (b - m) * f + c, where f = s / sqrt(v + epsilon).
    """
    epsilon = CNN_EPSILON if isinstance(module, CNN) else EPSILON[module.variant]
    params, statistics = (jax.tree.map(np.asarray, dict(variables[kind])) for kind in ("params", "batch_stats"))
    return module.clone(folded=True), {"params": _folded(params, statistics, epsilon)}


def _folded(params: Variables, statistics: Variables, epsilon: float) -> dict[str, Any]:
    """The parameters with each `bn` folded into the `conv` of the same name; other layers as they are."""
    found = {
        name: _folded(layer, statistics[name], epsilon) if name in statistics and "scale" not in layer else layer
        for name, layer in params.items()
    }
    for name in [name for name, layer in params.items() if "scale" in layer]:
        norm, seen = found.pop(name), statistics[name]
        conv = found[of := name.replace("bn", "conv")]
        factor = np.float64(norm["scale"]) / np.sqrt(np.float64(seen["var"]) + epsilon)
        bias = (conv.get("bias", 0.0) - np.float64(seen["mean"])) * factor + norm["bias"]
        dtype = conv["kernel"].dtype
        found[of] = {"kernel": conv["kernel"] * factor.astype(dtype), "bias": bias.astype(dtype)}
    return found


def pays(shape: Sequence[int]) -> bool:
    """Whether a batch of images [B, S, S, 3] is large enough that `transformed` kernels make its prediction faster."""
    return math.prod(shape[:3]) >= PIXELS


def transformed(module: nn.Module, variables: Variables, size: int) -> dict[str, Any]:
    """Transforms of the kernels of a folded network (see `layers.Conv`). They pay for some batches only: see `pays`.

    Args:
      variables: of the folded network; size: S of its images [B, S, S, 3], for any B.

    Returns:
      The variables with these transforms beside them, {'params', 'transformed'}, if there are any on this backend. They
      take 3 to 7 times the memory of a 3x3 kernel, and 13 times that of the CNN's 6x6 kernel.
    """

    def transform(variables: Variables) -> Any:  # XLA drops all but the transforms: nothing else is returned
        return module.apply(variables, jnp.zeros((1, size, size, 3), jnp.uint8), mutable=["transformed"])[1]

    return {**variables, **jax.jit(transform)(variables)}
