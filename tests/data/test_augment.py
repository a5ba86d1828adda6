import jax
import numpy as np
import pytest

from gz_jax.data import augment, look
from gz_jax.data.augment import Augmentation, View

warp = jax.jit(augment.warp, static_argnums=2)
EVERYTHING = Augmentation(rotate=True, flip=True, zoom=1.3, shift=5.0)


def warp_tf(images, affines, view):
    from gz_jax.data.tensorflow_cpu import import_tensorflow

    tf = import_tensorflow()
    pairs = zip(images, affines, strict=True)
    return np.stack([augment.warp_tensorflow(tf.constant(i), a, view).numpy() for i, a in pairs])


WARPS = pytest.mark.parametrize("warp", [warp, warp_tf], ids=["jax", "tensorflow"])


def noise(n, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


@WARPS
@pytest.mark.parametrize("size", [204, 68])
def test_quarter_turns_and_mirrors_are_numpys(warp, size):
    image, view = noise(1, 424), View(size, 204, 424)
    step = 204 // size
    for turns in range(4):
        for mirror in (False, True):
            affine = augment.affine(np.array([turns * np.pi / 2]), mirror=mirror)
            expected = np.rot90(image[0, :, ::-1] if mirror else image[0], turns)[110:314, 110:314]
            expected = np.rint(expected.reshape(size, step, size, step, 3).mean((1, 3)))
            np.testing.assert_array_equal(warp(image, affine, view)[0], expected)


@WARPS
def test_centroids_of_stars_land_where_the_angle_says(warp):
    """Counter-clockwise on a display: with y down, (x, y) goes to (x cos + y sin, -x sin + y cos)."""
    side, crop, size = 141, 99, 99
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    view = View(size, crop, side)
    for angle in np.deg2rad([10, 33, 45, 123, 200, 301]):
        for star in [(20.0, 0.0), (-7.3, 18.2), (3.4, -25.7)]:
            spot = 250 * np.exp(-((x - star[0]) ** 2 + (y - star[1]) ** 2) / (2 * 3.0**2))
            image = np.repeat(np.rint(spot)[None, :, :, None], 3, -1).astype(np.uint8)
            out = np.asarray(warp(image, augment.affine(np.array([angle])), view))[0, :, :, 0].astype(float)
            rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
            found = (columns * out).sum() / out.sum(), (rows * out).sum() / out.sum()
            cos, sin = np.cos(angle), np.sin(angle)
            expected = star[0] * cos + star[1] * sin, -star[0] * sin + star[1] * cos
            np.testing.assert_allclose(found, expected, atol=0.05)


@WARPS
def test_zoom_and_shift_move_a_star_as_said(warp):
    y, x = np.mgrid[:141, :141] - 70
    spot = 250 * np.exp(-((x - 10) ** 2 + (y + 6) ** 2) / (2 * 3.0**2))
    image = np.repeat(np.rint(spot)[None, :, :, None], 3, -1).astype(np.uint8)
    affine = augment.affine(np.array([0.0]), magnify=1.5, shift=np.array([[4.0, -2.0]]))
    out = np.asarray(warp(image, affine, View(99, 99, 141)))[0, :, :, 0].astype(float)
    rows, columns = np.mgrid[:99, :99] - 49
    found = (columns * out).sum() / out.sum(), (rows * out).sum() / out.sum()
    np.testing.assert_allclose(found, [10 * 1.5 + 4, -6 * 1.5 - 2], atol=0.05)


@WARPS
@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 4])
def test_fine_chequerboard_becomes_grey(warp, angle):
    side = 292
    board = 255 * (np.indices((side, side)).sum(0) % 2)
    image = np.repeat(board[None, :, :, None], 3, -1).astype(np.uint8)
    out = np.asarray(warp(image, augment.affine(np.array([angle])), View(68, 204, side))).astype(float)
    assert np.abs(out - 127.5).max() <= 255 / 18 + 1  # five of nine squares against four; aliasing would give 127


@pytest.mark.parametrize("view", [View(68, 204, 400), View(64, 200, 400), View(100, 80, 150)])
def test_jax_and_tensorflow_agree_to_one_grey_level(view):
    images = noise(6, view.cutout, seed=1)
    affines = augment.draw(EVERYTHING, 3, 1, np.arange(6))
    difference = np.abs(warp_tf(images, affines, view).astype(int) - np.asarray(warp(images, affines, view)))
    assert difference.max() <= 1


@WARPS
@pytest.mark.parametrize("view", [View(68, 204, 400), View(64, 64, 92)], ids=["3x3 samples", "one sample"])
def test_no_pixel_of_noise_is_read_from_its_neighbour(warp, view):
    """444,000 pixels: a rounding that differs between a sample's pixel and its fraction shows in a dozen of them."""
    images, affines = noise(32, view.cutout), augment.draw(Augmentation(rotate=True, flip=True), 0, 0, np.arange(32))
    difference = np.abs(np.asarray(warp(images, affines, view)) - exact(images, affines, view))
    assert difference.max() <= 1


def exact(images, affines, view):
    """The warp in float64, not rounded."""
    side, fine = images.shape[1], view.size * view.supersample
    at = (np.arange(fine) - (fine - 1) / 2) * (view.crop / fine)
    grid = np.stack([*np.meshgrid(at, at), np.ones((fine, fine))])
    x, y = np.clip(np.einsum("nij,jyx->inyx", affines.astype(np.float64), grid) + (side - 1) / 2, 0, side - 1)
    left, top = (np.minimum(np.floor(position), side - 2).astype(int) for position in (x, y))
    fx, fy, n = (x - left)[..., None], (y - top)[..., None], np.arange(len(images))[:, None, None]
    upper = images[n, top, left] * (1 - fx) + images[n, top, left + 1] * fx
    lower = images[n, top + 1, left] * (1 - fx) + images[n, top + 1, left + 1] * fx
    shape = (-1, view.size, view.supersample, view.size, view.supersample, 3)
    return (upper * (1 - fy) + lower * fy).reshape(shape).mean((2, 4))


@WARPS
@pytest.mark.parametrize("zoom", [1.0, 1.3, 3.0])
def test_fine_stripes_become_grey_however_small_galaxies_are_drawn(warp, zoom):
    view = augment.view(68, 204, 640, Augmentation(zoom=zoom))
    stripes = np.zeros((1, view.cutout, view.cutout, 3), np.uint8)
    stripes[:, :, ::2] = 255
    affines = augment.affine(np.array([0.0]), magnify=1 / zoom, shift=np.array([[0.3, 0.0]]))
    out = np.asarray(warp(stripes, affines, view)).astype(float)
    assert np.abs(out - 127.5).max() <= 255 / 6 + 1  # three stripes: one more white than black, or less
    assert augment.unaugmented(view) == View(68, 204, 204)


def test_what_is_not_augmented_is_seen_to_the_bit():
    for view, side in ((View(68, 204, 208), 208), (View(64, 204, 208), 208), (View(68, 203, 208), 208)):
        images = noise(2, side)
        expected = [look.see(image, view.crop, view.size) for image in images]
        np.testing.assert_array_equal(warp_tf(images, [None] * 2, view), expected)
        identity = np.broadcast_to(augment.affine(), (2, 2, 3))
        difference = np.abs(np.asarray(warp(images, identity, view)).astype(int) - expected)
        assert difference.max() <= (view.crop % view.size > 0)


def test_random_numbers_depend_on_seed_epoch_and_galaxy_alone():
    ids = np.array([100008, 999967, 100023])
    all_ids = augment.uniforms(1, 2, ids, 5)
    np.testing.assert_array_equal(augment.uniforms(1, 2, ids[::-1], 5), all_ids[::-1])
    np.testing.assert_array_equal(augment.uniforms(1, 2, ids[1:2], 5), all_ids[1:2])
    for other in [(0, 2), (1, 3), (2, 1)]:
        assert not np.isclose(augment.uniforms(*other, ids, 5), all_ids).any()


def test_random_numbers_are_uniform_and_independent():
    u = augment.uniforms(0, 0, np.arange(100_000, 120_000), 5)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        np.testing.assert_allclose(np.histogram(column, 10, (0, 1))[0], 2000, atol=5 * 2000**0.5)
    assert np.abs(np.corrcoef(u.T) - np.eye(5)).max() < 0.03
    following = augment.uniforms(0, 1, np.arange(100_000, 120_000), 1)[:, 0]
    assert abs(np.corrcoef(u[:, 0], following)[0, 1]) < 0.03


def test_drawn_maps_keep_to_what_was_asked():
    ids = np.arange(2000)
    linear = augment.draw(EVERYTHING, 0, 0, ids)[:, :, :2]
    scale = np.sqrt(np.abs(np.linalg.det(linear)))
    assert 1 / 1.3 - 1e-6 <= scale.min() < 0.78
    assert 1.28 < scale.max() <= 1.3 + 1e-6
    assert 900 < (np.linalg.det(linear) < 0).sum() < 1100
    np.testing.assert_allclose(
        augment.draw(Augmentation(), 0, 0, ids), np.broadcast_to(np.eye(2, 3), (2000, 2, 3)), atol=0
    )


def test_cutout_holds_every_corner_that_may_be_seen():
    view = augment.view(68, 204, 424, EVERYTHING)
    affines = augment.draw(EVERYTHING, 0, 0, np.arange(5000))
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * 101.5
    seen = np.einsum("nij,cj->nci", affines[:, :, :2], corners) + affines[:, None, :, 2]
    assert np.abs(seen).max() <= (view.cutout - 1) / 2
    assert augment.view(68, 204, 424) == View(68, 204, 204)
    assert augment.view(64, 204, 424) == View(64, 204, 206)  # samples blend the outermost pixels with their neighbours
    assert augment.unaugmented(view) == View(68, 204, 204)
    assert augment.view(68, 204, 424, Augmentation(rotate=True)).cutout == 292
    assert augment.view(68, 204, 424, EVERYTHING._replace(zoom=3.0)).cutout == 424
