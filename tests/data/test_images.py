"""Cutouts from anyone's files: hand-computed pixels, FITS, broken files, listings, order.

What surveys' files come out as, before and after, is the table of test_survey_files.py.
"""

import bz2
import gzip
import io
import os
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from PIL import Image
from pyarrow import csv, parquet

from gz_jax.data import augment, images
from gz_jax.data.images import BAD, GOOD, NOTED, read_cutout
from gz_jax.data.inputs import list_inputs, read_batches
from gz_jax.data.sight import Sight
from gz_jax.runtime.errors import UserError

GREY = "one band, shown grey"


def encode(pixels: np.ndarray | Image.Image, kind: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **how)
    return buffer.getvalue()


def as_fits(*units) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(units)).writeto(buffer)
    return buffer.getvalue()


def galaxy(height: int = 90, width: int = 90, noise: float = 2.0, seed: int = 0) -> np.ndarray:
    """A round galaxy of peak 1000 on a sky of 50, in float32."""
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    rng = np.random.default_rng(seed)
    return (50 + 1000 * np.exp(-radius / 6) + rng.normal(0, noise, (height, width))).astype(np.float32)


def test_default_crop_is_the_central_204_of_424_averaged_in_3_by_3_boxes():
    pixels = np.random.default_rng(0).integers(0, 256, (424, 424, 3), dtype=np.uint8)
    centre = pixels[110:314, 110:314].astype(float)
    by_hand = centre.reshape(68, 3, 68, 3, 3).mean((1, 3))
    image, flag, reason = read_cutout(encode(pixels), size=68)
    assert (flag, reason) == (GOOD, "")
    assert image.dtype == np.uint8
    assert image.shape == (68, 68, 3)
    np.testing.assert_array_equal(image, np.floor(by_hand + 0.5))
    np.testing.assert_array_equal(image, read_cutout(encode(pixels), size=68, crop=204)[0])


def test_orientation():
    """Rows stay rows for pictures; FITS counts rows from the bottom."""
    pixels = np.zeros((6, 6, 3), np.uint8)
    pixels[0, 5] = [200, 100, 50]  # top right
    assert read_cutout(encode(pixels), size=6, crop=6)[0][0, 5].tolist() == [200, 100, 50]
    plane = np.zeros((6, 6), np.float32)
    plane[0, 5] = 1  # bottom right
    image, flag, _ = read_cutout(as_fits(fits.PrimaryHDU(plane)), size=6, crop=6)
    assert flag == NOTED
    assert np.argwhere(image[..., 0]).tolist() == [[5, 5]]


def test_scale_is_kept_by_crop_and_padding():
    pixels = np.full((100, 60, 3), 90, np.uint8)
    pixels[50, 30] = (80, 70, 60)
    image, flag, reason = read_cutout(encode(pixels), size=50, crop=100)
    assert (flag, reason) == (NOTED, "100 % of pixels in areas of one value; padded: 60 x 100 pixels, crop 100")
    assert np.all(image[:24, 10:40] == 90)
    assert np.all(image[:, :10] == 0)
    assert np.all(image[:, 40:] == 0)
    assert images.crop_side(pixel_scale=0.4, field_arcsec=40) == pytest.approx(100)
    with pytest.raises(UserError, match="positive"):
        images.crop_side(0, 40)


def test_small_images_are_interpolated():
    ramp = np.repeat(np.arange(0, 250, 25, dtype=np.uint8)[None, :, None], 10, 0).repeat(3, 2)
    row = read_cutout(encode(ramp), size=40, crop=10)[0][20, :, 0].astype(int)
    steps = np.diff(row)
    assert steps.min() >= 0
    assert steps.max() <= 7  # 25 over four pixels, not a jump of 25


@pytest.mark.parametrize(("side", "size"), [(204, 128), (204, 64), (204, 224), (101, 68)])
def test_resized_as_in_training(side, size):
    pixels = np.random.default_rng(0).integers(0, 256, (side + 7, side + 7, 3), dtype=np.uint8)
    expected = augment.warp(pixels[None], augment.affine()[None], augment.View(size, side, side + 7))[0]
    shown, flag, _ = read_cutout(encode(pixels), size=size, crop=side)
    assert flag == GOOD
    difference = np.abs(shown.astype(int) - np.asarray(expected))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.01


def test_kinds_of_png():
    grey = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    image = read_cutout(encode(grey), size=64, crop=64)[0]
    np.testing.assert_array_equal(image[..., 0], np.floor(grey / 257 + 0.5))
    eight = (grey >> 8).astype(np.uint8)
    assert np.all(read_cutout(encode(eight), size=64, crop=64)[0] == eight[..., None])
    palette = Image.fromarray(eight).convert("P")
    assert np.all(read_cutout(encode(palette), size=64, crop=64)[0] == eight[..., None])
    half = np.full((8, 8, 4), 128, np.uint8)
    half[0, 0] = 0
    image, flag, reason = read_cutout(encode(half), size=8, crop=8)
    assert (flag, reason) == (NOTED, f"{GREY}; 100 % of pixels transparent")
    assert np.all(np.abs(image.astype(int).reshape(-1, 3)[1:] - 64) <= 1)
    two = Image.fromarray(eight).convert("1")
    assert set(np.unique(read_cutout(encode(two), size=64, crop=64)[0])) == {0, 255}


def test_fits_stretch_by_hand():
    """Lupton's asinh of noise units, above the clipped median."""
    plane = galaxy(200, 200)
    image, flag, reason = read_cutout(as_fits(fits.PrimaryHDU(plane)), size=200, crop=200)
    assert (flag, reason) == (NOTED, GREY)
    assert np.all(image == image[..., :1])
    sigma = (plane[95:105, 95:105].astype(float) - 50) / 2
    expected = 255 * np.arcsinh(6 * sigma / 25) / 6
    assert np.abs(image[::-1][95:105, 95:105, 0] - expected).max() < 3
    assert np.median(image) < 5  # the sky is dark


def test_fits_is_the_same_in_any_flux_unit_and_type():
    plane = galaxy()
    reference = read_cutout(as_fits(fits.PrimaryHDU(plane)), size=30)[0].astype(int)
    for other in (plane * 1e-9, plane.astype(np.float64), (plane * 100).astype(np.int32), plane + 3000):
        shown = read_cutout(as_fits(fits.PrimaryHDU(other)), size=30)[0].astype(int)
        assert np.abs(shown - reference).max() <= 2
    counts = as_fits(fits.PrimaryHDU((plane * 20 + 30_000).astype(np.uint16)))  # on disk int16 with BZERO
    assert b"BZERO" in counts
    assert np.abs(read_cutout(counts, size=30)[0].astype(int) - reference).max() <= 2
    packed = as_fits(fits.PrimaryHDU(), fits.CompImageHDU(plane, name="SCI", quantize_level=16))
    assert np.abs(read_cutout(packed, size=30)[0].astype(int) - reference).max() <= 6
    zipped = gzip.compress(as_fits(fits.PrimaryHDU(plane)))
    np.testing.assert_array_equal(read_cutout(zipped, size=30)[0], reference)


def test_fits_cube_keeps_colour_and_planes_can_be_chosen():
    base = galaxy(noise=0) - 50
    rng = np.random.default_rng(1)
    bands = [
        factor * base + level + rng.normal(0, 2, base.shape) for factor, level in ((1, 5), (2, 70), (4, -3), (0, 1))
    ]
    cube = as_fits(fits.PrimaryHDU(np.stack(bands).astype(np.float32)))
    image, flag, reason = read_cutout(cube, size=30, planes=(2, 1, 0))
    assert (flag, reason) == (GOOD, "")
    red, green, blue = image[15, 15].astype(float)
    assert red / green == pytest.approx(2, abs=0.05)
    assert green / blue == pytest.approx(2, abs=0.1)
    np.testing.assert_array_equal(read_cutout(cube, size=30)[0], image[..., ::-1])
    assert read_cutout(cube, size=30, planes=(0, 1, 4))[1:] == (
        BAD,
        "cube of 4 planes, asked for planes (0, 1, 4)",
    )


def test_fits_planes_are_scaled_before_they_are_stretched():
    base, rng = galaxy(noise=0) - 50, np.random.default_rng(1)
    fluxes = [factor * base + rng.normal(0, 2, base.shape) for factor in (1.6, 1, 0.5)]
    cube = as_fits(fits.PrimaryHDU(np.stack(fluxes).astype(np.float32)))
    flat = read_cutout(cube, size=30, stretch=images.Stretch(scales=(1 / 1.6, 1, 2)))[0][15, 15].astype(float)
    assert flat.max() / flat.min() < 1.03
    scaled = as_fits(fits.PrimaryHDU(np.stack([0 * fluxes[0], fluxes[1], fluxes[2] * 3]).astype(np.float32)))
    expected = read_cutout(scaled, size=30)[0].astype(int)
    found = read_cutout(cube, size=30, stretch=images.Stretch(scales=(0, 1, 3)))[0].astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(("pixel_scale", "side"), [(0.262, 256), (0.396, 180)])
def test_a_galaxy_fills_the_frame_as_in_training_at_any_pixel_scale(pixel_scale, side):
    """4.08 radii across, in a Legacy Survey cutout of 256 pixels as in one of SDSS; the default crop cannot know."""
    radius = 7.0  # Petrosian 90 %, arcsec
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * pixel_scale
    noise = np.random.default_rng(0).normal(0, 1, (side, side))
    pixels = 1000 * np.exp(-np.hypot(x, y / 0.5) / (radius / 3)) + noise
    data = as_fits(fits.PrimaryHDU(pixels.astype(np.float32)))

    def width(**how) -> float:
        """Part of the frame that the galaxy's major axis spans above a quarter of the white."""
        image, _, reason = read_cutout(data, size=68, **how)
        assert reason == GREY
        return float((image[33:35].mean((0, 2)) > 64).mean())

    shown = width(crop=images.crop_side(pixel_scale, 4.08 * radius))
    level = np.sinh(6 * 64 / 255) * 25 / 6  # the brightness of that grey
    expected = 2 * radius / 3 * np.log(1000 / level) / (4.08 * radius)
    assert shown == pytest.approx(expected, abs=0.04)
    field = images.FIELD * side * pixel_scale  # of the default: 204/424 of the cutout, whatever it spans on the sky
    assert width() == pytest.approx(expected * 4.08 * radius / field, abs=0.04)
    assert abs(width() - shown) > 0.06


def test_fits_extension_is_chosen():
    first, second = galaxy(), galaxy()[:, ::-1] * np.linspace(0, 1, 90, dtype=np.float32)
    data = as_fits(fits.PrimaryHDU(), fits.ImageHDU(first, name="SCI"), fits.ImageHDU(second, name="MODEL"))
    np.testing.assert_array_equal(read_cutout(data, size=30)[0], read_cutout(data, size=30, extension="SCI")[0])
    assert np.any(read_cutout(data, size=30)[0] != read_cutout(data, size=30, extension=2)[0])
    assert read_cutout(data, size=30, extension="MASK")[1] == BAD
    assert read_cutout(data, size=30, extension=0)[1:] == (BAD, "extension 0 is no image")


def test_missing_pixels_are_sky_and_counted():
    plane = galaxy(100, 100)
    whole = read_cutout(as_fits(fits.PrimaryHDU(plane)), size=50, crop=50)[0].astype(int)
    plane[:35] = np.nan  # of the central 50 rows, the lowest 10
    image, flag, reason = read_cutout(as_fits(fits.PrimaryHDU(plane)), size=50, crop=50)
    assert (flag, reason) == (NOTED, f"20 % of pixels missing; {GREY}")
    assert np.all(image[40:] == 0)
    assert np.abs(image[:40] - whole[:40]).max() < 12
    blank = fits.PrimaryHDU(np.where(np.isnan(plane), -99, plane).astype(np.int16))
    blank.header["BLANK"] = -99
    assert read_cutout(as_fits(blank), size=50, crop=50)[1:] == (NOTED, f"20 % of pixels missing; {GREY}")
    plane[:] = np.nan
    assert read_cutout(as_fits(fits.PrimaryHDU(plane)), size=50)[1:] == (
        BAD,
        "no valid pixel in the central square",
    )
    assert read_cutout(as_fits(fits.PrimaryHDU(plane * 0 + 7)), size=50)[1] == BAD


def huge_fits() -> bytes:
    header = b"".join(
        f"{key:8}= {value:>20}".encode().ljust(80)
        for key, value in (
            ("SIMPLE", "T"),
            ("BITPIX", -32),
            ("NAXIS", 2),
            ("NAXIS1", 10**9),
            ("NAXIS2", 10**9),
        )
    )
    return (header + b"END".ljust(80)).ljust(2880)


PHOTO = encode(np.random.default_rng(3).integers(0, 256, (424, 424, 3), dtype=np.uint8), "JPEG")
FLAT = as_fits(fits.PrimaryHDU(np.full((50, 50), 3, np.float32)))
BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"<html>404 not found</html>" * 20, "not a JPEG, PNG, TIFF or FITS image"),
    "truncated JPEG": (PHOTO[:9000], "damaged or unreadable: image file is truncated"),
    "JPEG header alone": (PHOTO[:10], "damaged or unreadable: Truncated File Read"),
    "large PNG": (encode(Image.new("1", (8000, 8000))), "too large: 8000 x 8000 pixels"),
    "truncated PNG": (encode(np.eye(424, dtype=np.uint8) * 255)[:-200], "damaged or unreadable"),
    "damaged PNG": (
        bytes(b ^ (85 if i == 60 else 0) for i, b in enumerate(encode(np.eye(64) > 0))),
        "damaged",
    ),
    "CMYK": (encode(Image.new("CMYK", (424, 424)), "JPEG"), "CMYK colours"),
    "decompression bomb": (encode(Image.new("1", (20000, 20000))), "too large: a decompression bomb"),
    "bzip2 bomb": (bz2.compress(bytes(300 << 20), 1), "more than 256 MiB unzipped"),
    "half a bzip2": (bz2.compress(as_fits(fits.PrimaryHDU(galaxy())))[:9000], "damaged or unreadable: Compressed file"),
    "gzip bomb": (gzip.compress(bytes(300 << 20), 1), "more than 256 MiB unzipped"),
    "lying FITS": (huge_fits(), "too large: 1000000000 x 1000000000 pixels"),
    "truncated FITS": (
        as_fits(fits.PrimaryHDU(galaxy()))[:6000],
        "truncated: the header says 35280 bytes",
    ),
    "flat FITS": (FLAT, "every pixel has the same value"),
    "table FITS": (
        as_fits(fits.PrimaryHDU(), fits.BinTableHDU.from_columns([])),
        "no image in the FITS file",
    ),
    "FITS of four axes": (
        as_fits(fits.PrimaryHDU(np.ones((2, 2, 9, 9)))),
        "not an image or a cube of images",
    ),
    "two planes": (as_fits(fits.PrimaryHDU(np.ones((2, 9, 9)))), "cube of 2 planes"),
    "GIF": (encode(Image.new("P", (50, 50)), "GIF"), "not a JPEG, PNG, TIFF or FITS image"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_flagged_with_their_reason(kind, tmp_path):
    data, reason = BROKEN[kind]
    image, flag, found = read_cutout(data, size=68)
    assert flag == BAD
    assert found.startswith(reason)
    assert image.shape == (68, 68, 3)
    assert not image.any()
    path = tmp_path / "file.jpg"
    path.write_bytes(data)
    assert read_cutout(path, size=68)[2] == found


def test_paths_that_are_no_files(tmp_path):
    assert read_cutout(tmp_path / "none.jpg", size=8)[1:] == (BAD, "no such file")
    assert read_cutout(tmp_path, size=8)[1] == BAD
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read_cutout(tmp_path / "pipe.jpg", size=8)[1:] == (BAD, "not a regular file")  # and does not hang
    assert read_cutout("/dev/zero", size=8)[1:] == (BAD, "not a regular file")
    assert read_cutout(PHOTO, size=8, crop=1e6)[1:] == (BAD, "crop of 1000000 pixels is too large")


def shade(value: int) -> bytes:
    """Of that grey, but for a corner in colour."""
    pixels = np.full((30, 30, 3), value, np.uint8)
    pixels[16:, 16:] = (value, 255 - value, 128)
    return encode(pixels)


def test_folder_glob_and_zip_are_sorted_by_id(tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in (100, 20, 3):
        (folder / f"{name}.png").write_bytes(shade(name))
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    for spec in (folder, str(folder / "*.png")):
        catalogue = list_inputs(spec)
        assert catalogue.ids.dtype == np.int64
        assert catalogue.ids.tolist() == [3, 20, 100]
        assert [read_cutout(catalogue.read(i), size=4)[0][0, 0, 0] for i in range(3)] == [3, 20, 100]
    (folder / "more" / "NGC 1.JPG").write_bytes(b"")
    assert list_inputs(folder).ids.tolist() == ["100", "20", "3", "more/NGC 1"]
    with zipfile.ZipFile(tmp_path / "images_test_rev1.zip", "w") as archive:
        for name in (100, 20, 3):
            archive.writestr(f"images_test_rev1/{name}.png", shade(name))
        archive.writestr("__MACOSX/images_test_rev1/._3.png", b"")
    catalogue = list_inputs(tmp_path / "images_test_rev1.zip")
    assert catalogue.ids.tolist() == [3, 20, 100]
    assert read_cutout(catalogue.read(1), size=4)[0][0, 0, 0] == 20
    (folder / "3.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="more than once, the first is 3"):
        list_inputs(folder)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_table_keeps_its_order(tmp_path, kind):
    write = csv.write_csv if kind == "csv" else parquet.write_table
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(shade(7))
    path = tmp_path / f"catalogue.{kind}"
    files = pa.array(["sub/a.png", "none.png", None, str(tmp_path / "sub" / "a.png")])
    write(pa.table({"z": [0.1, 0.2, 0.3, 0.4], "id": [9, 1, 5, 4], "file": files}), path)
    catalogue = list_inputs(path)
    assert catalogue.ids.tolist() == [9, 1, 5, 4]
    (batch,) = read_batches(catalogue, 10, size=4)
    assert batch["flag"].tolist() == [GOOD, BAD, BAD, GOOD]
    assert batch["reason"].tolist() == [
        "",
        f"no such file: {tmp_path / 'none.png'}",
        "cannot be read: the table names no file",
        "",
    ]
    assert batch["image"][:, 0, 0, 0].tolist() == [7, 0, 0, 7]
    with pytest.raises(UserError, match="no column 'objid'; it has"):
        list_inputs(path, id_column="objid")
    write(pa.table({"id": ["007", "7"], "file": ["x", "y"]}), path)
    assert list_inputs(path).ids.tolist() == ["007", "7"]
    write(pa.table({"id": ["7", "7"], "file": ["x", "y"]}), path)
    with pytest.raises(UserError, match="more than once"):
        list_inputs(path)
    write(pa.table({"id": pa.array([1, None]), "file": ["x", "y"]}), path)
    with pytest.raises(UserError, match="1 rows without an id"):
        list_inputs(path)
    path.write_bytes(b"\x00\xff" * 50)
    with pytest.raises(UserError):
        list_inputs(path)


def test_nothing_to_read_is_said(tmp_path):
    for spec in (tmp_path, tmp_path / "none", tmp_path / "*.jpg"):
        with pytest.raises(UserError, match=r"no such input|no image files"):
            list_inputs(spec)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="no folder, zip, CSV, Parquet or FITS table, or image"):
        list_inputs(tmp_path / "a.txt")


def test_batches_are_whole_ordered_and_restartable(tmp_path):
    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(b"oops" if number % 7 == 3 else shade(number))
    catalogue = list_inputs(tmp_path)
    batches = list(read_batches(catalogue, 8, size=4, workers=5))
    assert [len(b["index"]) for b in batches] == [8] * 6 + [2]
    index, image, flag, reason = (np.concatenate([b[k] for b in batches]) for k in ("index", "image", "flag", "reason"))
    assert index.tolist() == list(range(50))
    bad = index % 7 == 3
    np.testing.assert_array_equal(flag, np.where(bad, BAD, GOOD))
    np.testing.assert_array_equal(image[:, 0, 0, 0], np.where(bad, 0, index))
    assert set(reason[bad]) == {"not a JPEG, PNG, TIFF or FITS image"}
    later = list(read_batches(catalogue, 8, size=4, start=17, stop=30))
    assert np.concatenate([b["index"] for b in later]).tolist() == list(range(17, 30))
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in later]), image[17:30])


def test_batches_read_ahead_by_a_bounded_number(tmp_path):
    (tmp_path / "1.png").write_bytes(shade(1))
    seen = []
    catalogue = list_inputs(tmp_path)._replace(ids=np.arange(10_000), read=lambda i: seen.append(i) or b"")
    batches = read_batches(catalogue, 16, size=4, workers=2)
    next(batches)
    batches.close()
    assert len(seen) <= 2 * 16 + 2 * 2


def test_real_images(galaxy_zoo_sample):
    catalogue = list_inputs(galaxy_zoo_sample / "images_test_rev1.zip")
    assert len(catalogue.ids) == 1197
    assert np.all(np.diff(catalogue.ids) > 0)
    batch = next(read_batches(catalogue, 32, size=68, sight=Sight(crop=204)))
    assert not batch["flag"].any()
    brightness = batch["image"].mean((0, 3))
    assert brightness[30:38, 30:38].mean() > 3 * brightness[:8].mean()  # galaxies stand at the centre
