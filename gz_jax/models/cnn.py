"""The paper's convolutional network (table of the first model): 1,963,749 parameters at 68 x 68 pixels.

That count fixes what the paper leaves open: convolutions without padding and no pooling in the third block.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gz_jax.models.groups import in_groups
from gz_jax.models.layers import BatchNorm, Conv, Dropout, Preprocess, max_pool, preprocess
from gz_jax.runtime.errors import UserError

EPSILON = 1e-3  # of batch normalisation, Keras' default


class CNN(nn.Module):
    """Three unpadded convolutions, then dense layers; logits out. Initialised as Keras does by default.

    Attributes:
      num_outputs: answers of the decision tree.
      features: channels of the 3x3, 3x3 and 6x6 convolutions.
      hidden: widths of the dense layers before the outputs.
      dropout: rates after each convolution block and after each hidden layer.
      momentum: weight of the old value in batch normalisation's running statistics; Keras' default is 0.99.
      preprocess: see `layers.preprocess`; the paper's pixels are 0..1.
      folded: without batch normalisation, which `folding.fold` has put into the convolutions; for inference alone.
      dtype: what is computed in; parameters and logits are float32.
    """

    num_outputs: int
    features: tuple[int, int, int] = (32, 64, 128)
    hidden: Sequence[int] = (128, 64)
    dropout: tuple[float, float] = (0.1, 0.15)
    momentum: float = 0.99
    preprocess: Preprocess = "unit"
    folded: bool = False
    dtype: DTypeLike = jnp.float32

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits, float32 [B, num_outputs], of images [B, S, S, 3]: uint8 0..255 or float 0..1.

        `train` needs an rng named 'dropout' and `mutable=['batch_stats']`.

        Raises:
          UserError: images smaller than 30 pixels a side.
        """
        return self._both(images, train)[0]

    def embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits as in evaluation, and what the last hidden layer gets, float32 [B, 128] (see `hidden`)."""
        return self._both(images, False)

    @nn.compact
    def _both(self, images: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        if min(images.shape[1:3]) < 30:
            raise UserError(f"the CNN needs images of 30 x 30 pixels or more, not {images.shape[1:3]}")
        glorot = nn.initializers.glorot_uniform()
        numbers = images.shape[1] * images.shape[2] * self.features[0]
        x = in_groups(self, CNN._first, images, numbers, train)
        x = nn.relu(Conv(self.features[2], 6, dtype=self.dtype, name="conv3")(x))
        x = Dropout(self.dropout[0])(x, train)
        x = x.reshape(x.shape[0], -1)
        embedding = x
        for i, width in enumerate(self.hidden, 1):
            embedding = x
            x = nn.relu(nn.Dense(width, kernel_init=glorot, dtype=self.dtype, name=f"dense{i}")(x))
            x = Dropout(self.dropout[1])(x, train)
        head = nn.Dense(self.num_outputs, kernel_init=glorot, dtype=jnp.float32, name="head")
        return head(x.astype(jnp.float32)), embedding.astype(jnp.float32)

    def _first(self, images: jax.Array, train: bool) -> jax.Array:
        x = preprocess(images, self.preprocess)
        conv1 = Conv(self.features[0], 3, dtype=self.dtype, name="conv1")
        if self.folded:
            x = conv1(x)
        else:
            x, bias = conv1.apart(x)
            x = BatchNorm(momentum=self.momentum, epsilon=EPSILON, dtype=self.dtype, name="bn1")(x, not train, bias)
        x = max_pool(nn.relu(x), 2, 2)
        x = Dropout(self.dropout[0])(x, train)
        x = nn.relu(Conv(self.features[1], 3, dtype=self.dtype, name="conv2")(x))
        return Dropout(self.dropout[0])(max_pool(x, 2, 2), train)
