"""Small maps convolved by way of Fourier matrices, against XLA's convolution."""

import jax
import numpy as np
import pytest
from references import relative_error

from gz_jax.models import fourier
from gz_jax.models.layers import Conv, Dropout


def direct(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("length", "size", "padding"), [(3, 3, 1), (5, 3, 1), (9, 3, 1), (15, 6, 0), (6, 2, 1), (4, 4, 0)]
)
def test_output_and_both_gradients(length, size, padding):
    rng = np.random.default_rng(length)
    x = rng.normal(size=(3, length, length, 5)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 5, 4)).astype(np.float32)
    expected, transpose = jax.vjp(lambda x, k: direct(x, k, padding), x, kernel)
    dy = rng.normal(size=expected.shape).astype(np.float32)
    ours, our_transpose = jax.vjp(lambda x, k: fourier.convolve(x, k, padding), x, kernel)
    for a, b in zip((ours, *our_transpose(dy)), (expected, *transpose(dy)), strict=True):
        assert relative_error(a, b) < 1e-5


def test_one_dimension_by_hand():
    # Period 4: two real frequencies and one pair, so 1 + 1 + 3 products.
    into, kernels, back = fourier.matrices(3, 3, 1)
    assert into.shape == (5, 3)
    np.testing.assert_allclose(back @ ((into @ [1, 2, 3]) * (kernels @ [10, 1, 100])), [201, 312, 23], rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices convolve in their own way")
@pytest.mark.parametrize(
    ("side", "size", "inputs", "padding"), [(9, 3, 8, 1), (14, 3, 8, 1), (24, 3, 8, 0), (24, 3, 3, 0), (9, 1, 8, 0)]
)
def test_a_large_batch_is_convolved_as_its_parts(side, size, inputs, padding):
    """By Fourier's, Winograd's (from 10 pixels on) and XLA's way; 1x1 kernels narrow, 3 channels are padded."""
    rng = np.random.default_rng(size)
    conv = Conv(4, size, padding=padding)
    images = rng.normal(size=(32, side, side, inputs)).astype(np.float32)
    variables = conv.init(jax.random.key(0), images)
    weight = rng.normal(size=conv.apply(variables, images).shape).astype(np.float32)

    def gradients(of):
        return jax.grad(lambda v, x: (of(v, x) * weight).sum(), (0, 1))(variables, images)

    kernel = variables["params"]["kernel"]
    assert relative_error(conv.apply(variables, images), direct(images, kernel, padding)) < 1e-5
    ours = gradients(conv.apply)
    theirs = gradients(lambda v, x: direct(x, v["params"]["kernel"], padding))
    assert relative_error(ours[0]["params"]["kernel"], theirs[0]["params"]["kernel"]) < 1e-5
    assert relative_error(ours[1], theirs[1]) < 1e-5


def test_dropout_keeps_its_share_and_the_mean():
    x = np.ones((64, 32, 33), np.float32)
    y = np.asarray(Dropout(0.15).apply({}, x, True, rngs={"dropout": jax.random.key(0)}))
    kept = y > 0
    # 67,584 draws: the share's standard deviation is 0.0014; so is that of one channel's pairing with its twin's.
    assert kept.mean() == pytest.approx(0.85, abs=0.006)
    assert (kept[..., :16] & kept[..., 17:]).mean() == pytest.approx(0.85**2, abs=0.01)
    np.testing.assert_allclose(y[kept], 1 / 0.85, rtol=1e-5)
    np.testing.assert_array_equal(Dropout(0.15).apply({}, x, False), x)
