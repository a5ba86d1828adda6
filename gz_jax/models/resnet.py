"""ResNet50 (He et al. 2015) in the two variants that share its name, and the paper's heads on top of it.

'keras' is `keras.applications.ResNet50` (v1): the stride is in a stage's first 1x1 convolution, convolutions
have biases, batch normalisation has momentum 0.99 and epsilon 1.001e-5. 'torchvision' is torchvision's and
timm's v1.5: the stride is in the 3x3 convolution, no biases, momentum 0.9 (PyTorch's 0.1), epsilon 1e-5, and
the running variance is the unbiased one. The paper used Keras'.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gz_jax.models.groups import in_groups
from gz_jax.models.layers import BatchNorm, Conv, Dropout, Preprocess, max_pool, preprocess
from gz_jax.runtime.errors import UserError

Variant = Literal["keras", "torchvision"]
Pooling = Literal["flatten", "average"]

STAGES: tuple[int, ...] = (3, 4, 6, 3)
PREPROCESS: dict[str, Preprocess] = {"keras": "keras", "torchvision": "torch"}
EPSILON = {"keras": 1.001e-5, "torchvision": 1e-5}  # of batch normalisation


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, which is itself a 1x1 convolution where `project`.

    `every` is 2 if the next stage reads only every second row and column of the output: no others are computed then.
    """

    features: int
    stride: int
    project: bool
    variant: Variant
    dtype: DTypeLike
    momentum: float | None = None
    folded: bool = False
    every: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        first, second = (self.stride, 1) if self.variant == "keras" else (1, self.stride)
        conv_bn = functools.partial(_conv_bn, self, use_running_average)
        shortcut = conv_bn(x, "shortcut", 4 * self.features, stride=self.stride) if self.project else x
        shortcut = shortcut[:, :: self.every, :: self.every]
        x = nn.relu(conv_bn(x, "1", self.features, stride=first))
        x = nn.relu(conv_bn(x, "2", self.features, size=3, stride=second))
        x = x[:, :: self.every, :: self.every]  # a 3x3 convolution with stride 2 took longer
        return nn.relu(conv_bn(x, "3", 4 * self.features) + shortcut)


def _conv_bn(
    owner: "Bottleneck | ResNet50",
    use_running_average: bool,
    x: jax.Array,
    name: str,
    features: int,
    size: int = 1,
    stride: int = 1,
) -> jax.Array:
    """A convolution, padded by size // 2, and unless folded its batch normalisation, inside the module `owner`."""
    keras = owner.variant == "keras"
    init = nn.initializers.glorot_uniform() if keras else nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    momentum, epsilon = 0.99 if keras else 0.9, EPSILON[owner.variant]
    momentum = momentum if owner.momentum is None else owner.momentum
    dtype = owner.dtype
    with_bias = keras or owner.folded
    conv = Conv(features, size, stride, size // 2, with_bias, kernel_init=init, dtype=dtype, name=f"{name}_conv")
    if owner.folded:
        return conv(x)
    x, bias = conv.apart(x)
    return BatchNorm(momentum, epsilon, not keras, dtype=dtype, name=f"{name}_bn")(x, use_running_average, bias)


class ResNet50(nn.Module):
    """The body: preprocessed images [B, S, S, 3] in, the last feature map [B, S/32, S/32, 2048] out.

    Blocks are named stage<1-4>_block<n>, so `capture_intermediates=True` gives every block's output by name.
    """

    variant: Variant = "keras"
    dtype: DTypeLike = jnp.float32
    momentum: float | None = None
    folded: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        side = -(-x.shape[1] // 4)
        x = in_groups(self, ResNet50._stem, x, side * side * 256, use_running_average)
        x = in_groups(self, ResNet50._stage, x, side * side * 256, 1, use_running_average)
        x = in_groups(self, ResNet50._stage, x, side * side * 128, 2, use_running_average)
        for stage in (3, 4):  # their kernels are larger than their maps
            x = self._stage(x, stage, use_running_average)
        return x

    def _stem(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        x = _conv_bn(self, use_running_average, x, "stem", 64, size=7, stride=2)
        return max_pool(nn.relu(x), 3, 2, padding=1)

    def _stage(self, x: jax.Array, stage: int, use_running_average: bool) -> jax.Array:
        ahead = self.folded and self.variant == "keras"  # whether the stage before has left out what is not read
        for block in range(1, STAGES[stage - 1] + 1):
            x = Bottleneck(
                features=32 * 2**stage,
                stride=2 if block == 1 and stage > 1 and not ahead else 1,
                project=block == 1,
                variant=self.variant,
                dtype=self.dtype,
                momentum=self.momentum,
                folded=self.folded,
                every=2 if ahead and block == STAGES[stage - 1] and stage < len(STAGES) else 1,
                name=f"stage{stage}_block{block}",
            )(x, use_running_average)
        return x


class ResNet50Classifier(nn.Module):
    """ResNet50 with a head: pooling, hidden dense layers with ReLU and dropout, then the outputs' logits.

    Attributes:
      num_outputs: answers of the decision tree.
      variant: 'keras' or 'torchvision'; must be that of any weights put in.
      hidden: widths of the dense layers before the outputs; the paper's default model has (), its optimised
        one (200, 100).
      dropout: rate after each hidden layer.
      pooling: 'flatten' (the paper) or 'average' over the map.
      preprocess: None for what the variant was trained with, or see `layers.preprocess`.
      freeze_statistics: normalise with the running statistics in training too, and leave them as they are.
      momentum: weight of the old value in the running statistics; None for the variant's own, 0.99 or 0.9.
      folded: without batch normalisation, which `folding.fold` has put into the convolutions; for inference alone.
      dtype: what is computed in; parameters, statistics and logits are float32.
    """

    num_outputs: int
    variant: Variant = "keras"
    hidden: Sequence[int] = ()
    dropout: float = 0.1
    pooling: Pooling = "flatten"
    preprocess: Preprocess | None = None
    freeze_statistics: bool = False
    momentum: float | None = None
    folded: bool = False
    dtype: DTypeLike = jnp.float32

    def setup(self):
        if self.variant not in PREPROCESS:
            raise UserError(f"variant {self.variant!r} is not one of {', '.join(map(repr, PREPROCESS))}")
        if self.pooling not in ("flatten", "average"):
            raise UserError(f"pooling {self.pooling!r} is not one of 'flatten', 'average'")
        init = nn.initializers.glorot_uniform()
        self.body = ResNet50(self.variant, self.dtype, self.momentum, self.folded)
        self.dense = [nn.Dense(width, kernel_init=init, dtype=self.dtype) for width in self.hidden]
        self.drop = Dropout(self.dropout)
        self.head = nn.Dense(self.num_outputs, kernel_init=init, dtype=jnp.float32)

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """The body's output, float32: [B, 2048] if averaged, [B, (S/32)^2 * 2048] if flattened."""
        x = preprocess(images, self.preprocess or PREPROCESS[self.variant])
        x = self.body(x, use_running_average=not train or self.freeze_statistics).astype(jnp.float32)
        return x.mean((1, 2)) if self.pooling == "average" else x.reshape(x.shape[0], -1)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits, float32 [B, num_outputs], of images [B, S, S, 3]: uint8 0..255 or float 0..1.

        `train` needs an rng named 'dropout' (where there are hidden layers) and `mutable=['batch_stats']`.
        """
        return self.answers(self.features(images, train), train)

    def embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits as in evaluation, and the body's last map averaged over its positions, float32 [B, 2048]."""
        x = self.features(images)
        return self.answers(x), x.reshape(x.shape[0], -1, 2048).mean(1)

    def answers(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits, float32 [B, num_outputs], of what `features` gives."""
        for dense in self.dense:
            x = self.drop(nn.relu(dense(x)), train)
        return self.head(x.astype(jnp.float32))
