"""What a network is shown of an image: hand-computed pixels, the centre, the turned view, every reader the same."""

import io

import numpy as np
import pytest
from PIL import Image

from gz_jax.data import augment, look, packed, pipeline
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.images import GOOD, NOTED, read_cutout
from gz_jax.data.split import Split, fraction_records


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encode(pixels, kind="PNG", **how):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def by_hand(pixels, crop, size, turn=0.0):
    """The mean of bilinear samples of [H, W, 3] in float64, one output pixel after the other; edges are repeated."""
    height, width = pixels.shape[:2]
    count = max(1, -(-crop // size))
    step = crop / (size * count)
    fine = (np.arange(size * count) - (size * count - 1) / 2) * step
    u, v = np.meshgrid(fine, fine)
    x = np.clip((width - 1) / 2 + u * np.cos(turn) - v * np.sin(turn), 0, width - 1)
    y = np.clip((height - 1) / 2 + u * np.sin(turn) + v * np.cos(turn), 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    upper = pixels[top, left] * (1 - fx) + pixels[top, right] * fx
    lower = pixels[below, left] * (1 - fx) + pixels[below, right] * fx
    return (upper * (1 - fy) + lower * fy).reshape(size, count, size, count, 3).mean((1, 3))


SHAPES = pytest.mark.parametrize(
    ("height", "width", "crop", "size"),
    [
        (424, 424, 204, 68),  # boxes
        (425, 425, 204, 68),
        (424, 424, 203, 68),
        (256, 256, 123, 68),
        (424, 425, 204, 102),
        (101, 90, 64, 32),
        (101, 90, 90, 128),  # magnified, and as wide as the image
        (120, 120, 90, 29),
        (60, 61, 47, 47),
        (5, 7, 1, 1),
    ],
)


@SHAPES
def test_the_square_is_centred_on_the_image_to_the_half_pixel(height, width, crop, size):
    pixels = noise(height, width)
    seen = look.see(pixels, crop, size)
    assert seen.dtype == np.uint8
    assert np.abs(seen - by_hand(pixels, crop, size)).max() <= 0.5 + 1e-3
    turned = look.see(pixels, crop, size, look.TURN)
    assert np.abs(turned - by_hand(pixels, crop, size, np.pi / 4)).max() <= 0.5 + 1e-3
    if crop == 1:  # one pixel is no picture to the reader
        return
    shown, flag, _ = read_cutout(encode(pixels), size=size, crop=crop, turned=True)
    np.testing.assert_array_equal(shown, [seen, turned])
    assert flag == GOOD
    np.testing.assert_array_equal(read_cutout(encode(pixels), size=size, crop=crop)[0], seen)


@pytest.mark.parametrize("side", [424, 425])
@pytest.mark.parametrize("crop", [203, 204])
def test_a_mirrored_image_is_seen_mirrored(side, crop):
    pixels = noise(side, side)
    seen = look.see(pixels, crop, 68).astype(int)
    for axis in (0, 1):
        assert np.abs(look.see(np.flip(pixels, axis), crop, 68) - np.flip(seen, axis)).max() <= 1


def test_boxes_are_rounded_half_to_even_as_the_warp_does():
    pixels = noise(204, 204)
    mean = pixels.reshape(102, 2, 102, 2, 3).astype(float).mean((1, 3))
    assert (mean % 1 == 0.5).mean() > 0.1
    view = View(102, 204, 204)
    for seen in (
        look.see(pixels, 204, 102),
        read_cutout(encode(pixels), size=102, crop=204)[0],
        augment.warp(pixels[None], augment.affine()[None], view)[0],
    ):
        np.testing.assert_array_equal(seen, np.rint(mean))


def test_beyond_the_image_lies_black_and_the_scale_stays():
    steps = np.arange(101, dtype=np.uint8)[:, None, None].repeat(60, 1) + np.array([90, 80, 70], np.uint8)
    image, flag, reason = read_cutout(encode(steps), size=50, crop=100)
    assert (flag, reason) == (NOTED, "padded: 60 x 101 pixels, crop 100")
    middle = steps[1:-1:2, :1].astype(float)  # centred to the half pixel: each output pixel is centred on one row
    np.testing.assert_array_equal(image[:, 10:40], np.broadcast_to(middle, (50, 30, 3)))
    assert not image[:, :10].any()
    assert not image[:, 40:].any()
    odd = look.see(np.full((61, 61, 3), 90, np.uint8), 100, 100)[50, :, 0]  # its rim falls on half pixels
    np.testing.assert_array_equal(odd, np.flip(odd))
    np.testing.assert_array_equal(odd[18:22], [0, 45, 90, 90])


def test_memory_stays_that_of_the_image():
    import tracemalloc

    pixels = noise(3000, 3001)
    for crop, affine in ((2999, None), (3000, None), (2400, look.TURN)):
        tracemalloc.start()
        look.see(pixels, crop, 68, affine)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2.5 * pixels.nbytes, (crop, peak / pixels.nbytes)


def ramp(side, slope=0.3):
    """Brightness that rises along x in red and along y in green, 128 in the centre: any view of it is known."""
    at = (np.arange(side) - (side - 1) / 2) * slope + 128
    red, green = np.broadcast_to(at, (side, side)), np.broadcast_to(at[:, None], (side, side))
    return np.rint(np.stack([red, green, np.full((side, side), 77)], -1)).astype(np.uint8)


def turned_ramp(crop, size, slope=0.3):
    """What a turn of 45 degrees shows of it, corners included."""
    at = (np.arange(size) - (size - 1) / 2) * crop / size * slope / np.sqrt(2)
    return 128 + np.stack([at[None, :] - at[:, None], at[None, :] + at[:, None]], -1)


def test_the_turned_view_has_the_sky_beyond_the_square_in_its_corners():
    np.testing.assert_allclose(look.TURN, augment.affine(np.pi / 4), atol=1e-6)
    expected = turned_ramp(204, 68)
    assert np.abs(expected[0, -1] - 128).max() > 1.35 * 0.3 * 102  # no pixel of the square is so bright
    for pixels in (look.cutouts(ramp(424), 204, 68, True), read_cutout(encode(ramp(424)), size=68, turned=True)[0]):
        assert np.abs(pixels[1, ..., :2] - expected).max() <= 1
    smeared = look.see(look.see(ramp(424), 204, 68), 68, 68, look.TURN)
    assert np.abs(smeared[..., :2] - expected).max() > 10
    # Where the image ends, its edge is repeated.
    edge = look.see(ramp(204), 204, 68, look.TURN)
    assert np.abs(edge[..., :2] - expected)[20:48, 20:48].max() <= 1
    np.testing.assert_allclose(edge[0, 0, :2], ramp(204)[0, 102, :2], atol=1)  # the top's middle is turned into it


def test_turned_fits_are_stretched_as_the_straight_ones():
    from astropy.io import fits

    y, x = np.mgrid[:120, :120] - 59.5
    clean = (1000 * np.exp(-np.hypot(x, y) / 8)).astype(np.float32)  # without noise: white at the square's brightest
    clean[2, 2] = 5000
    noisy = clean + np.random.default_rng(0).normal(0, 2, clean.shape).astype(np.float32)
    holes = noisy.copy()
    holes[55:60, 50:70], holes[10:30] = np.nan, np.nan
    for plane in (clean, noisy, holes):
        buffer = io.BytesIO()
        fits.PrimaryHDU(plane).writeto(buffer)
        for how in ({"crop": 58}, {"crop": 57}, {"crop": 90}, {"crop": 180}):
            alone, *said = read_cutout(buffer.getvalue(), size=29, **how)
            both, *said_of_both = read_cutout(buffer.getvalue(), size=29, turned=True, **how)
            np.testing.assert_array_equal(both[0], alone)
            assert said_of_both == said
            assert both[1].max() > 100


def jpegs(side, subsampling="4:2:0"):
    """12 pictures of coarse noise, of strong colours, so that a decoder's interpolation of colours shows."""
    images = np.random.default_rng(side).integers(0, 256, (12, side // 4 + 1, side // 4 + 1, 3), np.uint8)
    images = np.kron(images, np.ones((1, 4, 4, 1), np.uint8))[:, :side, :side]
    return np.array([encode(image, "JPEG", quality=90, subsampling=subsampling) for image in images], object)


def of_images(images):
    records = {"image": images, "galaxy_id": np.arange(len(images))}
    records |= fraction_records(np.zeros((len(images), 37), np.float32))
    return Split(len(images), lambda i: {name: array[i] for name, array in records.items()})


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(True, True, 1.5, 4.0)], ids=["plain", "drawn"])
@pytest.mark.parametrize(
    ("side", "crop", "size"),
    [(160, 102, 34), (161, 102, 34), (160, 101, 48), (160, 90, 100), (160, 90, 29), (98, 98, 49)],
)
def test_every_reader_shows_the_same_bit_for_bit(side, crop, size, augmentation):
    """Training's validation from the stream and decoded before, evaluation, prediction."""
    files = jpegs(side)
    split, view = of_images(files), augment.view(size, crop, side, augmentation)
    plain = augment.unaugmented(view)
    assert plain == augment.view(size, crop, side)
    streamed = np.concatenate([b["image"] for b in pipeline.eval_batches(split, plain, batch_size=4)])
    shown = packed.decoded(split, view, final=True)
    read = np.concatenate([b["image"] for b in pipeline.eval_batches(shown, view, batch_size=4)])
    predicted = np.stack([read_cutout(file, size=size, crop=crop)[0] for file in files])
    np.testing.assert_array_equal(streamed, packed.pack(split, view, final=True).image)
    np.testing.assert_array_equal(streamed, read)
    np.testing.assert_array_equal(streamed, predicted)
    both = packed.decoded(split, view, final=True, turned=True).read(np.arange(12))["image"]
    np.testing.assert_array_equal(both, [read_cutout(file, size=size, crop=crop, turned=True)[0] for file in files])


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("side", [160, 161, 424])
def test_a_cutout_of_a_jpeg_does_not_depend_on_its_size(side, subsampling):
    from gz_jax.data.tensorflow_cpu import import_tensorflow

    tf = import_tensorflow()
    for file in jpegs(side, subsampling)[:4]:
        for cutout in (side // 2, side // 2 + 1, side // 2 + 6, side - 3, side):
            found = pipeline._decode(tf, tf.constant(file), cutout).numpy()
            np.testing.assert_array_equal(found, packed.cut_out(file, cutout), err_msg=f"{cutout}")


def test_a_cutout_of_a_real_galaxy_does_not_depend_on_its_size(galaxy_zoo_sample):
    import zipfile

    from gz_jax.data.tensorflow_cpu import import_tensorflow

    tf = import_tensorflow()
    with zipfile.ZipFile(galaxy_zoo_sample / "images_training_rev1.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".jpg"))[::150]:
            file = archive.read(name)
            for cutout in (204, 206, 292, 350):
                found = pipeline._decode(tf, tf.constant(file), cutout).numpy()
                np.testing.assert_array_equal(found, packed.cut_out(file, cutout), err_msg=name)


def test_synthetic_galaxies_are_turned_as_they_are():
    images = np.stack([noise(34, 34, seed) for seed in range(3)])
    split = of_images(images)
    view = View(34, 102, 102)
    both = packed.decoded(split, view, final=True, turned=True).read(np.arange(3))["image"]
    np.testing.assert_array_equal(both[:, 0], images)
    for image, turned in zip(images, both[:, 1], strict=True):
        assert np.abs(turned - by_hand(image, 34, 34, np.pi / 4)).max() <= 0.5 + 1e-3
    (batch,) = pipeline.eval_batches(packed.decoded(split, view, final=True, turned=True), view, batch_size=3)
    np.testing.assert_array_equal(batch["image"], both)


def test_the_eight_symmetries():
    image = noise(5, 5)
    seen = {np.ascontiguousarray(view).tobytes() for view in look.symmetries(image)}
    square = [np.rot90(flipped, k) for flipped in (image, image[:, ::-1]) for k in range(4)]
    assert seen == {np.ascontiguousarray(turned).tobytes() for turned in square}
    np.testing.assert_array_equal(look.symmetries(image)[0], image)
    many = np.stack([image, noise(5, 5, 1)])
    for i, views in enumerate(zip(*look.symmetries(many), strict=True)):
        np.testing.assert_array_equal(views, look.symmetries(many[i]))
