"""3x3 kernels by Winograd's filtering, and pairs of pixels, against sums of products in float64."""

import jax
import numpy as np
import pytest
from references import relative_error

from gz_jax.models import pairs, winograd


def by_sums(x, kernel, stride, padding):
    """The convolution in float64, [B, H', W', out]."""
    x = np.pad(np.float64(x), [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijco->bhwo", windows, np.float64(kernel), optimize=True)


def drawn(shape, kernel):
    rng = np.random.default_rng(shape[1])
    scale = np.prod(kernel[:3]) ** -0.5
    return rng.normal(size=shape).astype(np.float32), (scale * rng.normal(size=kernel)).astype(np.float32)


@pytest.mark.parametrize("tile", [3, 4])
def test_one_dimension_by_hand(tile):
    into, kernels, back = winograd.matrices(tile)
    x = [1, 2, 3, 4, 5, 6][: tile + 2]
    expected = [312, 423, 534, 645][:tile]  # 1 * 10 + 2 * 1 + 3 * 100, and so on
    np.testing.assert_allclose(back @ ((into @ x) * (kernels @ [10, 1, 100])), expected, rtol=1e-12)


@pytest.mark.parametrize(("length", "tile"), [(3, 3), (4, 4), (5, 3), (7, 4), (9, 3), (14, 4), (31, 4), (56, 4)])
def test_the_tile_with_fewer_products(length, tile):
    assert winograd.tile_of(length) == tile


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("length", [6, 7, 9, 14, 17, 33])
def test_as_exact_as_float32(length, padding):
    x, kernel = drawn((2, length, length, 64), (3, 3, 64, 8))
    transformed = winograd.transform(kernel, length, padding)
    found = jax.jit(winograd.convolve_transformed, static_argnums=(2, 3))(x, transformed, 3, padding)
    assert relative_error(found, by_sums(x, kernel, 1, padding)) < 5e-6


@pytest.mark.parametrize("images", [1, 2, 6])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("length", [6, 7, 9, 14, 17])
def test_the_output_and_both_gradients_in_groups_of_images(length, padding, images):
    x, kernel = drawn((6, length, length, 5), (3, 3, 5, 4))
    expected, transpose = jax.vjp(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        x,
        kernel,
    )
    dy = np.random.default_rng(length).normal(size=expected.shape).astype(np.float32)
    ours, our_transpose = jax.vjp(lambda x, k: winograd.convolve(x, k, padding, images), x, kernel)
    for a, b in zip((ours, *our_transpose(dy)), (expected, *transpose(dy)), strict=True):
        assert relative_error(a, b) < 5e-6


def test_as_many_images_together_as_stay_in_the_cache(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert winograd.together(128, 33 * 33 * 32) == 8
    assert winograd.together(6, winograd.IN_CACHE // 4) == 3  # 4 fit, but do not divide the batch
    assert winograd.together(128, 2 * winograd.IN_CACHE) == 1
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert winograd.together(128, 33 * 33 * 32) == 128


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [10, 11, 12, 13])
def test_pairs_of_pixels(width, stride, padding, size):
    x, kernel = drawn((2, 12, width, 3), (size, size, 3, 4))
    found = pairs.convolve_transformed(x, pairs.transform(kernel, stride), stride, padding)
    assert relative_error(found, by_sums(x, kernel, stride, padding)) < 2e-6
