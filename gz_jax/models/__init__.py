"""Networks that turn galaxy images into the logits of vote fractions.

`create` makes one by name. Call `module.init(key, images)` for its variables, {'params', 'batch_stats'}, and
`module.apply(variables, images)` for logits, float32 [B, num_outputs]; in training add `train=True`, `rngs={'dropout':
key}` and `mutable=['batch_stats']`. `gz_jax.labels.activate` makes vote fractions of logits.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gz_jax.models.cnn import CNN
from gz_jax.models.layers import Preprocess
from gz_jax.models.resnet import Pooling, ResNet50Classifier, Variant
from gz_jax.runtime.errors import UserError

NAMES = ("cnn", "resnet50")


def create(
    name: str,
    *,
    num_outputs: int,
    hidden: Sequence[int] | None = None,
    dropout: float | None = None,
    preprocess: Preprocess | None = None,
    dtype: str = "float32",
    variant: Variant = "keras",
    pooling: Pooling = "flatten",
    freeze_statistics: bool = False,
    momentum: float | None = None,
) -> nn.Module:
    """A network by name: 'cnn' (the paper's first) or 'resnet50'.

    Args:
      name: one of `NAMES`.
      num_outputs: how many answers the decision tree has.
      hidden: widths of the dense layers before the outputs; None for the paper's: (128, 64) for the CNN,
        (200, 100) for ResNet50 (whose plain version has ()).
      dropout: rate after each hidden layer; None for the paper's, 0.15 for the CNN and 0.1 for ResNet50.
      preprocess: 'unit', 'keras' or 'torch' (see `layers.preprocess`); None for 'unit' with the CNN, and with
        ResNet50 for what the variant's ImageNet weights were trained with.
      dtype: 'float32' or 'bfloat16', what is computed in; parameters, statistics and logits stay float32.
      momentum: of batch normalisation's running statistics; None for the model's own.
      variant, pooling, freeze_statistics: of ResNet50 alone, see `resnet.ResNet50Classifier`.

    Raises:
      UserError: a name or an option that is none of those.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype {dtype!r} is not one of 'float32', 'bfloat16'")
    if preprocess not in (None, "unit", "keras", "torch"):
        raise UserError(f"preprocess {preprocess!r} is not one of None, 'unit', 'keras', 'torch'")
    if name not in NAMES:
        raise UserError(f"model {name!r} is not one of {', '.join(map(repr, NAMES))}")
    options = {"dropout": dropout, "momentum": momentum, "preprocess": preprocess}
    given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    given |= {"num_outputs": num_outputs, "dtype": jnp.dtype(dtype)}
    if hidden is not None:
        given["hidden"] = tuple(hidden)  # a module is hashed
    if name == "cnn":
        if dropout is not None:
            given["dropout"] = (CNN.dropout[0], dropout)
        return CNN(**given)
    given.setdefault("hidden", (200, 100))
    return ResNet50Classifier(variant=variant, pooling=pooling, freeze_statistics=freeze_statistics, **given)
