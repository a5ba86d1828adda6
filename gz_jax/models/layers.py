"""Layers shared by the models: input preprocessing, convolution, batch normalisation and max pooling.

All take and return [B, H, W, C]. Parameters are float32; `dtype` is the dtype that is computed in.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gz_jax.models import fourier, pairs, winograd

MANY = 32  # images of a batch that are enough to transform kernels in each step, on CPU
Preprocess = Literal["unit", "keras", "torch"]
Initializer = Callable[..., jax.Array]

_KERAS_BGR_MEAN = (103.939, 116.779, 123.68)
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_STD = (0.229, 0.224, 0.225)
# Mean and standard deviation that pixels 0..1 are normalised by.
NORMALS: dict[Preprocess, tuple[Sequence[float], Sequence[float]]] = {
    "unit": ((0.0,) * 3, (1.0,) * 3),
    "torch": (_TORCH_MEAN, _TORCH_STD),
}


def preprocess(images: jax.Array, how: Preprocess) -> jax.Array:
    """What a network was trained to see, from RGB images [B, H, W, 3]; returns float32 of that shape.

    The dtype says the range: uint8 is 0..255, floating point 0..1. 'unit' gives RGB in 0..1; 'keras' BGR in
    0..255 minus ImageNet's mean (`keras.applications.imagenet_utils`, mode 'caffe'); 'torch' RGB in 0..1
    minus ImageNet's mean, over its standard deviation (torchvision's `ResNet50_Weights.transforms`).

    Raises:
      ValueError: unknown `how`, or a dtype that leaves the range open.
    """
    white = 255 if images.dtype == jnp.uint8 else 1
    if white == 1 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}; pass uint8 (0..255) or floating point (0..1)")
    images = images.astype(jnp.float32)
    if how == "unit":
        return images / white
    if how == "keras":
        return (images * (255 / white))[..., ::-1] - jnp.array(_KERAS_BGR_MEAN, ndmin=4)
    if how == "torch":
        return (images / white - jnp.array(_TORCH_MEAN, ndmin=4)) / jnp.array(_TORCH_STD, ndmin=4)
    raise ValueError(f"preprocess {how!r} is not one of 'unit', 'keras', 'torch'")


def preprocess_of(model: Any) -> Preprocess:
    """What the network of a config's `model` sees: as it says, or its kind's own."""
    own: dict[str, Preprocess] = {"keras": "keras", "torchvision": "torch"}
    return model.preprocess or ("unit" if model.name == "cnn" else own[model.variant])


def preprocessing(model: Any, size: int) -> dict[str, Any]:
    """What a network's pixels 0..1 are normalised by, as timm's `pretrained_cfg` says it: mean, std and input_size.

    Keras' preprocessing, which timm has no words for, is said by its name ('keras') alone.
    """
    how = preprocess_of(model)
    found = {"input_size": [3, size, size], "preprocess": how}
    return found | ({"mean": list(NORMALS[how][0]), "std": list(NORMALS[how][1])} if how in NORMALS else {})


class Conv(nn.Module):
    """Convolution with a square kernel and explicit `padding`, the same on every side ('SAME' is not).

    A 1x1 convolution is computed as one matrix product, over [B * H * W, in], which XLA does faster on CPU; its kernel
    still has the shape [1, 1, in, features]. On CPU, some go by way of transforms; see `_algorithm`.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    dtype: DTypeLike = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:
        x, bias = self.apart(x)
        return x if bias is None else x + bias.astype(self.dtype).reshape(1, 1, 1, -1)

    @nn.compact
    def apart(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The convolution without its bias, and the bias, float32 [features], or None; see `BatchNorm`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.size == 1 and self.padding == 0:
            x = x[:, :: self.stride, :: self.stride]
            x = _product(x.reshape(-1, x.shape[-1]), kernel[0, 0]).reshape(*x.shape[:-1], self.features)
        elif (convolve := self._algorithm(x)) is not None:
            x = convolve(x, kernel)
        else:
            if x.shape[-1] == 3 and jax.default_backend() == "cpu":
                # Eigen's convolution takes 4 channels at once: of 3, it took the CNN's first layer twice as long.
                x, kernel = (jnp.pad(a, [(0, int(i == axis)) for i in range(4)]) for a, axis in ((x, 3), (kernel, 2)))
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding=[(self.padding, self.padding)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return x, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None

    def _algorithm(self, x: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
        """A faster convolution of x by the kernel than XLA's own, if there is one: on CPU, in float32.

        In prediction, the kernel is transformed beforehand. In training, a batch must be large enough to share the
        kernel's transform.
        """
        side, square = x.shape[1], x.shape[1] == x.shape[2]
        if x.dtype != jnp.float32 or jax.default_backend() != "cpu":
            return None
        if self._prepared and x.shape[-1] == 3 and self.stride < 3:
            return functools.partial(self._transformed, pairs, (self.stride,), (self.stride, self.padding))
        if self.stride != 1 or not square:
            return None
        given, shape = (side, self.padding), (self.size, self.padding)
        if self._prepared and self.size == 3 and side > 5:
            return functools.partial(self._transformed, winograd, given, shape)
        if self._prepared and side <= 20:
            return functools.partial(self._transformed, fourier, given, shape)
        many = len(x) >= MANY
        # On larger maps of up to 20 pixels, Fourier transforms are as fast.
        filtered = side > 20 or (side > 9 and many and x.size <= 4 * winograd.IN_CACHE)
        if filtered and self.size == 3 and self.padding < 3 and x.shape[-1] > 3:
            images = winograd.together(len(x), x[0].size)
            return functools.partial(winograd.convolve, padding=self.padding, images=images)
        return functools.partial(fourier.convolve, padding=self.padding) if side <= 20 and many else None

    @property
    def _prepared(self) -> bool:
        """Whether the kernel's transform is in the collection 'transformed', or goes there now (`folding`)."""
        there = self.has_variable("transformed", "kernel") or self.is_mutable_collection("transformed")
        return there and not self.is_initializing()

    def _transformed(
        self, by: ModuleType, given: tuple[int, ...], shape: tuple[int, ...], x: jax.Array, kernel: jax.Array
    ) -> jax.Array:
        """x convolved by the module `by`, whose transform of the kernel is kept in the collection 'transformed'."""
        transformed = self.variable("transformed", "kernel", by.transform, kernel, *given).value
        return by.convolve_transformed(x, transformed, *shape)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [N, in] @ kernel [in, out], its gradients arranged so that XLA on CPU does not transpose the larger array.

    The kernel's gradient as [in, out] transposes x [N, in], which for in > out took as long as the product itself.
    """
    return x @ kernel


def _product_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    over_rows = (((0,), (0,)), ((), ()))
    if kernel.shape[0] <= kernel.shape[1]:
        dkernel = jax.lax.dot_general(x, dy, over_rows)
    else:  # the barrier keeps XLA from turning it into the product above
        dkernel = jax.lax.optimization_barrier(jax.lax.dot_general(dy, x, over_rows)).T
    return jax.lax.dot_general(dy, kernel, (((1,), (1,)), ((), ()))), dkernel


_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


class Dropout(nn.Module):
    """Dropout with an rng named 'dropout', as `nn.Dropout` but for 16 random bits per number instead of 64.

    Drawing them was a tenth of the CNN's train step on CPU. The rate is rounded to a multiple of 1/65,536.
    """

    rate: float

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        keep = round((1 - self.rate) * 2**16)
        if not train or keep == 2**16:
            return x
        channels = x.shape[-1]
        bits = jax.random.bits(self.make_rng("dropout"), (*x.shape[:-1], (channels + 1) // 2), jnp.uint32)
        bits = jnp.concatenate([bits & 0xFFFF, bits >> 16], -1)[..., :channels]
        return jnp.where(bits < keep, x * (2**16 / max(keep, 1)), 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [..., C] normalised by its own mean and variance over all axes but the last: times scale, plus bias.

    Args:
      x: floating point [..., C]; scale, bias: float32 [C]; epsilon: added to the variance.

    Returns:
      The normalised x in its dtype, [..., C]; the mean and the biased variance, float32 [C]. No gradient flows through
      the last two.

    Mean and variance come from one pass over x minus its first value in each channel, as x^2 alone would cancel (Chan,
    Golub & LeVeque 1983). The gradient is the textbook's (Ioffe & Szegedy 2015, section 3), from two sums taken in one
    pass. As JAX derives it, it takes four: such sums were half of ResNet50's train step on an H200.
    """
    return _normalise(x, scale, bias, epsilon)[0]


def _normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    axes, wide = tuple(range(x.ndim - 1)), x.astype(jnp.float32)
    near = wide[(0,) * (x.ndim - 1)]
    off = wide - _last(near, x)
    first, second = off.mean(axes), jnp.square(off).mean(axes)
    mean, var = near + first, jnp.maximum(second - jnp.square(first), 0)
    factor = scale * jax.lax.rsqrt(var + epsilon)
    y = (wide - _last(mean, x)) * _last(factor, x) + _last(bias, x)
    return (y.astype(x.dtype), mean, var), (x, scale, mean, var)


def _normalise_backward(
    epsilon: float, saved: tuple[jax.Array, ...], given: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    (x, scale, mean, var), dy = saved, given[0].astype(jnp.float32)
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    off, inverse = x.astype(jnp.float32) - _last(mean, x), jax.lax.rsqrt(var + epsilon)
    total, along = dy.sum(axes), (dy * off).sum(axes)
    rest = _last(total / count, x) + off * _last(along * jnp.square(inverse) / count, x)
    return ((dy - rest) * _last(scale * inverse, x)).astype(x.dtype), along * inverse, total


def _last(values: jax.Array, x: jax.Array) -> jax.Array:
    """Values [C], to be broadcast along the last axis of x."""
    return values.reshape((1,) * (x.ndim - 1) + values.shape)


normalised.defvjp(_normalise, _normalise_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with float32 statistics whatever the compute dtype.

    Flax's own layer keeps the biased variance only and by default computes it as E[x^2] - E[x]^2, which
    cancels; see `normalised`. `unbiased` selects what the running variance averages: n/(n-1) times the biased one
    (PyTorch) or itself (Keras 3). Under jit with the batch sharded over a mesh the statistics are those of the
    global batch. `momentum` is the weight of the old value (PyTorch's momentum is 1 minus it).
    """

    momentum: float
    epsilon: float
    unbiased: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool, offset: jax.Array | None = None) -> jax.Array:
        """x [..., C] normalised. What stands before it may add its bias, float32 [C], through `offset`.

        A batch's own mean takes the bias away again, and its gradient is zero: then neither is computed.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        centre = running_mean.value if offset is None else running_mean.value - offset
        x = x.astype(self.dtype)
        if use_running_average:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            x = (x.astype(jnp.float32) - _last(centre, x)) * _last(factor, x) + _last(bias, x)
            return x.astype(self.dtype)
        x, mean, var = normalised(x, scale, bias, self.epsilon)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            count = x.size // x.shape[-1]
            new = var * (count / max(count - 1, 1)) if self.unbiased else var
            mean = mean if offset is None else mean + offset
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * jax.lax.stop_gradient(mean)
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * new
        return x


def max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Maximum over `size` x `size` windows of [B, H, W, C]; the padding never wins.

    Rows, then columns, each as a maximum of strided slices: the gradient of `nn.max_pool` (a scatter) makes
    the CNN's train step a third slower on CPU. Equal maxima share the gradient.
    """
    for axis in (1, 2):
        if padding:
            edges = [(padding, padding) if i == axis else (0, 0) for i in range(4)]
            x = jnp.pad(x, edges, constant_values=-jnp.inf)
        last = (x.shape[axis] - size) // stride * stride
        slices = [jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(size)]
        x = functools.reduce(jnp.maximum, slices)
    return x
