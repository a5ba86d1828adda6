"""What training keeps of a catalogue's image for its augmentation, and what people are shown of it."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gz_jax.data import augment, images, look, packed
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.image_file import ImageFile
from gz_jax.data.images import BAD, read_cutout
from gz_jax.data.split import Split

SIDES = [(60, 60), (61, 61), (60, 61), (45, 80), (33, 70), (20, 20), (21, 21), (8, 33), (90, 15)]  # height, width


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def ramp(height, width, slope=2.0):
    """Brightness that rises along x in red and along y in green from the centre's 128; clipped nowhere below 64 px."""
    x, y = ((np.arange(n) - (n - 1) / 2) * slope + 128 for n in (width, height))
    red, green = np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))
    return np.rint(np.clip(np.stack([red, green, np.full((height, width), 50)], -1), 0, 255)).astype(np.uint8)


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def padded(pixels, side):
    """Black round an image that a square of `side` leaves, as much on either side."""
    both = [(-(-max(0, side - n) // 2),) * 2 for n in pixels.shape[:2]]
    return np.pad(pixels, [*both, (0, 0)])


def own_pixels(pixels, side, cutout):
    """By hand, pixel by pixel: the image, black inside the square of `side` alone, else its rim repeated."""
    inside = padded(pixels, side)
    rows, columns = (np.clip(np.arange(cutout) + (n - cutout) // 2, 0, n - 1) for n in inside.shape[:2])
    return inside[rows[:, None], columns]


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize(("height", "width"), SIDES)
@pytest.mark.parametrize("more", [0, 2, 14, 40])
def test_a_square_of_as_many_pixels_is_kept_bit_for_bit(height, width, side, more):
    pixels, cutout = noise(height, width), side + more
    found, flag, _ = read_cutout(encode(pixels), size=16, crop=side, around=(cutout, side))
    assert flag != BAD
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, own_pixels(pixels, side, cutout))


@pytest.mark.parametrize(("height", "width", "side"), [(60, 60, 32), (61, 61, 33), (70, 34, 30), (20, 8, 32)])
@pytest.mark.parametrize("size", [16, 15, 40])
def test_the_centre_of_what_is_kept_is_the_square_that_the_network_sees(height, width, side, size):
    """Where the image's sides are even or odd as the square's is, so that both have one centre."""
    pixels = noise(height, width)
    kept = read_cutout(encode(pixels), size=size, crop=side, around=(side + 20, side))[0]
    seen = read_cutout(encode(pixels), size=size, crop=side)[0]
    np.testing.assert_array_equal(look.see(kept, side, size), seen)
    np.testing.assert_array_equal(look.see(pixels, side, size), seen)


def warped(kept, view):
    return np.asarray(augment.warp(jnp.asarray(kept[None]), jnp.asarray(augment.affine()[None]), view))[0].astype(int)


@pytest.mark.parametrize(("height", "width"), [(60, 60), (61, 61), (45, 60), (40, 41)])
@pytest.mark.parametrize(("how", "share"), [({"share": 1.0}, 1), ({"share": 0.6}, 0.6), ({"crop": 31.0}, None)])
@pytest.mark.parametrize("rotate", [False, True])
def test_what_is_kept_at_another_scale_shows_what_the_network_sees(height, width, how, share, rotate):
    """On a ramp of 2 levels a pixel, whose every view is known.

    The scale may be off by half a pixel over the whole width: by half of that at the square's rim, and not at all in
    the mean. Three roundings add a level and a half.
    """
    size, crop = 32, 96
    view = augment.view(size, crop, crop + 2 * 10**6, Augmentation(rotate=rotate, zoom=1.1))
    data = encode(ramp(height, width))
    kept, flag, _ = read_cutout(data, size=size, around=(view.cutout, crop), **how)
    assert flag != BAD
    assert kept.shape == (view.cutout, view.cutout, 3)
    seen = read_cutout(data, size=size, **how)[0].astype(int)
    inside = slice(1, -1) if share == 1 else slice(None)  # beyond the rim of the image pixels repeat
    difference = (warped(kept, view) - seen)[inside, inside]
    assert np.abs(difference).max() <= 2 * 0.25 + 1.5
    assert np.abs(difference.mean((0, 1))).max() <= 0.1


@pytest.mark.parametrize("cutout", [96, 140, 141])
def test_at_another_scale_the_rim_is_repeated_and_black_is_inside_the_square_alone(cutout):
    white = np.full((30, 60, 3), 200, np.uint8)
    white[10:20, 20:40] = 90  # something to see
    kept = read_cutout(encode(white), size=32, share=1.0, around=(cutout, 96))[0]
    assert kept.min() >= 89  # the square lies inside the image
    kept = read_cutout(encode(white), size=32, crop=48, around=(cutout, 96))[0].astype(int)
    y = (np.arange(cutout) - (cutout - 1) / 2) * 48 / 96  # pixels of the image from its centre
    dark, bright = kept[np.abs(y) > 16].max(initial=0), kept[np.abs(y) < 14].min()
    assert dark == 0  # above and below the image the square is padded, and beyond it that black is repeated
    assert bright >= 89


@pytest.mark.parametrize(("height", "width"), [(120, 120), (121, 90)])
def test_people_are_shown_more_sky_than_the_network_sees(height, width):
    pixels = noise(height, width)

    def file(**how):
        return ImageFile("a", lambda: encode(pixels), {"crop": None, "share": 1.0, **how})

    for how, side in (({"crop": 30}, 30), ({"share": 0.2}, min(height, width) // 5)):
        np.testing.assert_array_equal(file(**how).shown(side), look.see(pixels, side, side))
        np.testing.assert_array_equal(file(**how).shown(2 * side, 2.0), look.see(pixels, 2 * side, 2 * side))
    whole = min(height, width)
    np.testing.assert_array_equal(file(share=0.7).shown(50, 2.0), look.see(pixels, whole, 50))
    np.testing.assert_array_equal(file(crop=80).shown(50, 2.0), look.see(pixels, 80, 50))  # never padding


def test_a_file_that_shows_nothing_beyond_its_square_is_shown_as_it_is_seen():
    small = noise(20, 20)
    file = ImageFile("a", lambda: encode(small), {"crop": 32, "share": 1.0})
    np.testing.assert_array_equal(file.shown(16, 1.2), look.see(small, 32, 16))


def test_decoded_splits_hold_what_the_reader_gives():
    pixels, view = [noise(50, 50 + i, i) for i in range(3)], View(16, 32, 60)
    how = {"crop": None, "share": 0.5}
    files = np.empty(3, object)
    files[:] = [ImageFile(str(i), lambda p=p: encode(p), how) for i, p in enumerate(pixels)]
    split = Split(3, lambda index: {"image": files[index]})
    for final, around in ((True, None), (False, (60, 32))):
        found = packed.decoded(split, view, final=final).read(np.arange(3))["image"]
        expected = [images.read_cutout(encode(p), size=16, around=around, **how)[0] for p in pixels]
        np.testing.assert_array_equal(found, expected)
