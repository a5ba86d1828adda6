"""What a network is shown of surveys' and simulations' files: mean of the picture, flag and reason, before and after.

Each line is a file of survey_files.py and a test: `file | mean and flag before | mean, flag and reason now`.

one band                |  14.2 0 |  14.2 1 one band, shown grey
three bands             |  20.2 0 |  20.2 0
tile-compressed         |  14.1 0 |  14.1 1 one band, shown grey
gzip                    |  14.2 0 |  14.2 1 one band, shown grey
bzip2                   |   0.0 2 |  14.2 1 one band, shown grey
no noise                | 254.9 0 |  38.9 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
no noise, float64       | 254.9 0 |  38.9 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
no noise, on 1000       |  38.9 0 |  38.9 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
no noise, integers      |  38.9 0 |  38.9 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
no noise, disk of 60    |  57.6 0 | 192.6 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
no noise, Gaussian      | 255.0 0 | 163.5 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
no noise, Sersic 4      | 109.3 0 |  11.7 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
no noise, cut at 60     |  31.7 0 |  31.7 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
noise 0.0001            | 221.1 0 |  38.9 1 faint noise: brightness scaled to the brightest pixel; one band, shown grey
noise, FWHM 2           |  14.1 0 |  14.1 1 one band, shown grey
noise, FWHM 3           |  14.1 0 |  14.1 1 one band, shown grey
noise, FWHM 6           |  14.1 0 |  14.1 1 one band, shown grey
disk of 60, noise 1     |  52.5 0 |  90.9 1 one band, shown grey
integers, noise 1       |  13.5 0 |  13.5 1 one band, shown grey
Poisson, sky 0          |  32.2 0 |  32.2 1 no noise: brightness scaled to the brightest pixel; one band, shown grey
Poisson, sky 1          |  13.5 0 |  13.5 1 one band, shown grey
sky of -500             |  14.2 0 |  14.2 1 one band, shown grey
in units of 1e30        |   0.0 0 |  14.2 1 one band, shown grey
in units of 1e-42       |  48.1 0 |  14.2 1 one band, shown grey
on 1e8, float64         |   1.2 0 |  14.2 1 one band, shown grey
saturated core          |  62.2 0 |  62.2 1 one band, shown grey
left 30 % NaN           |  19.3 1 |  19.3 1 8.3 % of pixels missing
left 30 % 0             |  54.7 0 |  19.3 1 8.3 % of pixels missing
left 30 % -99           |  24.1 0 |  19.3 1 8.3 % of pixels missing
left 30 % 1e20          |  36.0 0 |  19.3 1 8.3 % of pixels missing
outside the square NaN  |  19.9 0 |  19.9 0
outside the square 0    |  29.8 0 |  19.9 0
corner 0                |  61.9 0 |  18.9 1 13 % of pixels missing
band all 0              |  17.3 0 |  17.3 1 plane 1 has no data
band all NaN            |  50.8 1 |  17.3 1 plane 1 has no data
integers, left 30 % 0   |  26.4 0 |  14.3 1 8.3 % of pixels missing; one band, shown grey
unsigned, BLANK         |  31.9 0 |  13.5 1 8.3 % of pixels missing; one band, shown grey
unsigned, BLANK, packed |  31.9 0 |  13.5 1 8.3 % of pixels missing; one band, shown grey
channels last           |   0.1 1 |  20.2 0
cube of 7               |  20.2 0 |  20.2 1 cube of 7 planes, shown are 0, 1, 2
black JPEG              |   0.0 0 |   0.0 2 every pixel has the same value
grey JPEG               | 128.0 0 |   0.0 2 every pixel has the same value
white JPEG              | 255.0 0 |   0.0 2 every pixel has the same value
black PNG               |   0.0 0 |   0.0 2 every pixel has the same value
grey PNG                | 128.0 0 |   0.0 2 every pixel has the same value
white PNG               | 255.0 0 |   0.0 2 every pixel has the same value
PNG                     |  21.6 0 |  21.6 0
opaque PNG              |  21.6 0 |  21.6 0
transparent PNG         |   0.0 0 |   0.0 2 every pixel has the same value
PNG, left transparent   |  20.0 0 |  20.0 1 8.3 % of pixels transparent
JPEG, left black        |  20.7 0 |  20.7 1 25 % of pixels in areas of one value
smooth JPEG             |  21.7 0 |  21.7 0
60 px PNG               |  60.3 0 |  60.3 1 small: 29 pixels across, enlarged to 68
one-band PNG            |  22.1 0 |  22.1 1 one band, shown grey
SCI, WHT                |  14.2 0 |  14.2 1 one band, shown grey
WHT, SCI                |   4.1 0 |  14.2 1 one band, shown grey
primary mask, SCI       |   0.0 2 |  14.2 1 one band, shown grey
preview, SCI            |   0.4 1 |  14.2 1 one band, shown grey
preview, no name        |   0.4 1 |  14.2 1 one band, shown grey
IVAR_R, R               |   4.1 0 |  14.2 1 one band, shown grey
WHT, DQ                 |   4.1 0 |   0.0 2 no science image, only 1 WHT, 2 DQ: name the extension to show
TIFF                    |   0.0 2 |  21.6 0
TIFF, 16 bits           |   0.0 2 |  22.1 1 one band, shown grey
TIFF, float             |   0.0 2 |   0.0 2 TIFF of 32-bit numbers: save it with 8 or 16 bits, or as FITS
"""

import io
import re
import zipfile

import numpy as np
import pytest
import survey_files as files
from astropy.io import fits
from astropy.stats import sigma_clipped_stats
from PIL import Image
from survey_files import FILES, as_fits, bands, disk, galaxy, named, noise, options

from gz_jax.data.images import BAD, GOOD, NOTED, read_cutout
from gz_jax.data.sky import measure
from gz_jax.data.stretch import Stretch
from gz_jax.runtime.errors import UserError

ROWS = [re.split(r" *\| *", line) for line in __doc__.splitlines() if line.count("|") == 2 and "`" not in line]


def shown(name: str) -> tuple[np.ndarray, int, str]:
    return read_cutout(FILES[name](), **options(name))


@pytest.mark.parametrize(("name", "_", "now"), ROWS, ids=[row[0] for row in ROWS])
def test_row_of_the_table(name, _, now):
    mean, flag, reason = [*now.split(" ", 2), ""][:3]
    image, found, why = shown(name)
    assert (found, why) == (int(flag), reason)
    assert image.mean() == pytest.approx(float(mean), abs=0.3)


def test_table_has_all_files():
    assert [row[0] for row in ROWS] == list(FILES)


def test_without_noise_the_brightest_pixel_is_white_and_the_rest_follows_from_it():
    image = read_cutout(FILES["no noise"](), size=204, crop=204)[0][::-1, :, 0]
    light = disk()[110:314, 110:314].astype(float)
    expected = 255 * np.arcsinh(light / light.max() * np.sinh(6)) / 6  # Lupton's asinh, q = 6, white at the peak
    assert np.abs(image - expected).max() <= 1
    assert image.max() == 255


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("left 30 % 0", "left 30 % NaN"),
        ("left 30 % -99", "left 30 % NaN"),
        ("left 30 % 1e20", "left 30 % NaN"),
        ("outside the square 0", "outside the square NaN"),
        ("band all 0", "band all NaN"),
        ("unsigned, BLANK, packed", "unsigned, BLANK"),
        ("channels last", "three bands"),
        ("cube of 7", "three bands"),
        ("bzip2", "gzip"),
        ("WHT, SCI", "SCI, WHT"),
        ("primary mask, SCI", "one band"),
        ("preview, SCI", "one band"),
        ("preview, no name", "one band"),
        ("IVAR_R, R", "one band"),
        ("in units of 1e30", "one band"),
        ("on 1e8, float64", "one band"),
        ("no noise, float64", "no noise"),
        ("TIFF", "PNG"),
        ("opaque PNG", "PNG"),
    ],
)
def test_files_that_hold_the_same_look_the_same(one, same):
    difference = np.abs(shown(one)[0].astype(int) - shown(same)[0])
    assert difference.max() <= 1


def test_zeros_outside_the_square_do_not_brighten_the_galaxy():
    whole, part = shown("three bands")[0].astype(float), shown("outside the square 0")[0].astype(float)
    assert part.mean() == pytest.approx(whole.mean(), rel=0.03)


def test_unsigned_integers_with_blank_are_as_floats_with_nan():
    counts = np.where(files.LEFT, np.nan, np.rint(10 * galaxy() + 1000)).astype(np.float32)
    expected = read_cutout(as_fits(counts), **options(""))[0].astype(int)
    assert np.abs(shown("unsigned, BLANK")[0] - expected).max() <= 1


@pytest.mark.parametrize("fwhm", [0, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("sigma", [0.1, 1, 5])
def test_noise_of_resampled_images_is_measured(fwhm, sigma):
    found = measure((disk() + noise(sigma, fwhm=fwhm))[None], [1.0])
    assert found.noise == pytest.approx(sigma, rel=0.1)
    assert found.level[0] == pytest.approx(0, abs=0.15 * sigma)
    assert found.missing == (None,)


def test_noise_is_not_taken_from_a_galaxy_that_fills_the_image():
    tight = (disk(60) + noise())[150:274, 150:274]
    spread = sigma_clipped_stats(tight, maxiters=5, stdfunc="mad_std")[2]
    assert spread > 10
    assert 1 <= measure(tight[None], [1.0]).noise < 1.5


def saturated_star() -> np.ndarray:
    star = 1e4 * np.exp(-((files.X - 150) ** 2 + (files.Y - 150) ** 2) / 50)
    return np.minimum(np.rint(1000 + disk() + star + noise(5)), 4095).astype(np.int16)


@pytest.mark.parametrize(
    "pixels",
    [
        *(files.sparse(sky) for sky in (0, 0.01, 0.1, 1, 10)),
        *(np.rint(5 * disk() + noise(sigma)).astype(np.int16) for sigma in (0.3, 0.5, 0.8, 1, 2, 5)),
        np.clip(np.rint(2 * disk() + noise(2)), 0, 255).astype(np.uint8),
        np.clip(np.rint(2 * disk() - 4 + noise(2)), 0, 255).astype(np.uint8),
        np.maximum(galaxy(), 0),
        np.maximum(galaxy() + 2, 0),
        np.minimum(galaxy(), 30),
        saturated_star(),
        disk(),
        np.where(files.RADIUS < 60, disk(), 0),
        np.where(disk() > 1.5, galaxy(), 0),  # cut out of its image
    ],
)
def test_values_that_light_repeats_are_not_missing(pixels):
    assert measure(pixels[None], [1.0]).missing == (None,)


@pytest.mark.parametrize("quality", [75, 90])
def test_a_sky_that_was_a_jpeg_is_not_missing(quality):
    pixels = np.asarray(Image.open(io.BytesIO(files.encode(files.colours(), "JPEG", quality=quality))))
    assert measure(np.moveaxis(pixels, -1, 0), [1.0, 1.0, 1.0]).missing == (None, None, None)


@pytest.mark.parametrize("level", [-1, 1, 0.25])
def test_compressed_steps_are_not_missing(level):
    unit = fits.CompImageHDU(galaxy(), quantize_level=abs(level), quantize_method=-1 if level > 0 else 1)
    assert "missing" not in read_cutout(as_fits(unit), **options(""))[2]


@pytest.mark.parametrize("value", [0, 7, -1e30])
@pytest.mark.parametrize("kind", [np.float32, np.float64, ">f4"])
def test_missing_areas_of_any_shape_are_found(value, kind):
    for where in (files.LEFT, files.Y > 100, files.X + files.Y < -100, np.hypot(files.X + 60, files.Y) < 30):
        pixels = np.where(where, value, galaxy() + 3).astype(kind)
        (mask,) = measure(pixels[None], [1.0]).missing
        np.testing.assert_array_equal(mask, where)


def test_a_square_without_data_is_not_usable():
    hole = np.where(files.RADIUS < 160, np.float32(0), bands())
    assert read_cutout(as_fits(hole), **options(""))[1:] == (BAD, "every pixel has the same value")
    hole[:, files.RADIUS < 160] = np.nan
    assert read_cutout(as_fits(hole), **options(""))[1:] == (BAD, "no valid pixel in the central square")


def test_given_sky_and_noise_show_a_tight_cutout_as_the_wide_one():
    wide = bands()
    tight = wide[:, 150:274, 150:274]
    stats = [sigma_clipped_stats(plane, maxiters=5, stdfunc="mad_std") for plane in wide]
    sky, sigma = ([s[i] for s in stats] for i in (1, 2))
    given = {"sky": sky, "noise": sigma}
    for scales in ((1, 1, 1), (0.85, 1, 1.4)):
        how = {"size": 50, "crop": 100, "stretch": Stretch(scales=scales)}
        expected = read_cutout(as_fits(wide), **how)[0].astype(int)
        image, flag, _ = read_cutout(as_fits(tight.copy()), **how, **given)
        assert flag == GOOD
        difference = np.abs(image - expected)  # brightness differs by 1 at most, a rounded mean of four by 2
        assert difference.max() <= 2
        assert (difference > 1).mean() < 0.001
        assert read_cutout(as_fits(tight.copy()), **how)[0].mean() < 0.9 * expected.mean()
    one, flag, _ = read_cutout(as_fits(tight[1].copy()), size=50, crop=100, sky=sky[1], noise=sigma[1])
    assert np.abs(one - read_cutout(as_fits(wide[1]), size=50, crop=100)[0].astype(int)).max() <= 1
    image, flag, reason = read_cutout(as_fits(wide), size=50, crop=100, noise=1e-6)
    assert (flag, reason) == (NOTED, "98 % of pixels are white")


@pytest.mark.parametrize("how", [{"noise": 0}, {"noise": (1, -1, 1)}, {"sky": np.nan}, {"sky": (1, 2)}, {"noise": "x"}])
def test_sky_and_noise_that_cannot_be(how):
    with pytest.raises(UserError, match=r"one number, or three \(red, green, blue\)"):
        read_cutout(FILES["three bands"](), size=68, **how)


def test_three_levels_need_three_planes():
    reason = "sky of 3 planes for an image of 1"
    assert read_cutout(FILES["one band"](), size=68, sky=(0, 0, 0))[1:] == (BAD, reason)


def test_extension_by_name_or_number():
    data = as_fits(named(galaxy(), "SCI"), named(files.WEIGHTS, "WHT"), named(2 * disk() + noise(), "MODEL"))
    first, weights, model = (read_cutout(data, size=68, extension=i)[0] for i in (1, 2, 3))
    for name, expected in (
        (None, first),
        ("sci", first),
        ("1", first),
        ("SCI,1", first),
        ("WHT", weights),
        ("3", model),
    ):
        np.testing.assert_array_equal(read_cutout(data, size=68, extension=name)[0], expected)
    for name in ("R", 9, "9", -1, "SCI,2"):
        reason = f"no extension {name}; there are 0 PRIMARY, 1 SCI, 2 WHT, 3 MODEL"
        assert read_cutout(data, size=68, extension=name)[1:] == (BAD, reason)


OTHERS = "DQ WHT ERR MASK VAR IVAR INVVAR badpix weight CON SIGMA RMS VAR_POISSON R_ERR WHT2"


@pytest.mark.parametrize("name", re.findall(r"\S+", OTHERS))
def test_other_extensions_are_not_shown_by_themselves(name):
    data = as_fits(named(files.WEIGHTS, name), named(galaxy(), "R"))
    assert np.abs(read_cutout(data, **options(""))[0] - shown("one band")[0].astype(int)).max() == 0
    reason = read_cutout(as_fits(named(files.WEIGHTS, name)), size=68)[2]
    assert reason == f"no science image, only 1 {name.upper()}: name the extension to show"


def test_a_damaged_extension_does_not_hide_the_image_before_it():
    data = as_fits(galaxy(), named(files.WEIGHTS, "WHT"))
    image, flag, _ = read_cutout(data[: len(data) // 2 + 9000], **options(""))
    assert flag == NOTED
    np.testing.assert_array_equal(image, shown("one band")[0])


def test_three_extensions_or_files_make_one_colour_picture(tmp_path):
    red, green, blue = bands()
    expected = shown("three bands")[0]
    data = as_fits(named(blue, "G"), named(green, "R"), named(red, "I"))
    for extensions in (("I", "R", "G"), (3, "2", 1)):
        image, flag, _ = read_cutout(data, extensions=extensions, **options(""))
        assert flag == GOOD
        np.testing.assert_array_equal(image, expected)
    (tmp_path / "i.fits").write_bytes(as_fits(red))
    sources = [tmp_path / "i.fits", as_fits(green), as_fits(fits.ImageHDU(blue))]
    np.testing.assert_array_equal(read_cutout(sources, **options(""))[0], expected)
    grey = [files.encode(files.colours()[..., i].copy()) for i in range(3)]
    np.testing.assert_array_equal(read_cutout(grey, **options(""))[0], shown("PNG")[0])
    small = as_fits(green[:400, :300].copy())
    for source, how, reason in (
        (data, {"extensions": ("I", "R", "Z")}, "no extension Z; there are 0 PRIMARY, 1 G, 2 R, 3 I"),
        ([sources[0], small, sources[2]], {}, "the three files differ in size: 424 x 424, 300 x 400, 424 x 424 pixels"),
        ([*sources[:2], FILES["PNG"]()], {}, "FITS and other files together"),
        ([*sources[:2], FILES["three bands"]()], {}, "one of the three files has more than one plane"),
        ([*sources[:2], tmp_path / "none.fits"], {}, "no such file"),
        ([FILES["PNG"](), *grey[:2]], {}, "one of the three files is a colour picture"),
        (sources[:2], {}, "a picture needs one file, or three (red, green, blue)"),
    ):
        assert read_cutout(source, size=68, **how)[1:] == (BAD, reason)
    empty = as_fits(named(0 * blue, "G"), named(green, "R"), named(red, "I"))
    assert read_cutout(empty, size=68, extensions=("I", "R", "G"))[1:] == (NOTED, "extension G has no data")


def test_no_pixel_with_all_bands():
    third = np.stack([files.X < -62, abs(files.X) <= 62, files.X > 62])
    image, flag, reason = read_cutout(as_fits(np.where(third, np.nan, bands()).astype(np.float32)), **options(""))
    assert (flag, reason) == (NOTED, "33 % of pixels missing")
    assert 10 < image.mean() < 20


def test_planes_that_were_asked_for_need_no_remark():
    cube = FILES["cube of 7"]()
    assert read_cutout(cube, size=68, planes=(0, 1, 2))[1:] == (GOOD, "")


def test_a_square_of_one_value_is_not_usable_whatever_is_round_it():
    pixels = files.colours()
    pixels[files.RADIUS < 160] = 128
    assert read_cutout(files.encode(pixels), **options(""))[1:] == (BAD, "every pixel has the same value")
    nearly = 100 + np.random.default_rng(0).integers(0, 3, pixels.shape, np.uint8)
    assert read_cutout(files.encode(nearly), **options(""))[1:] == (BAD, "every pixel has nearly the same value")


def tiff(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF")
    return buffer.getvalue()


def test_tiff_of_other_kinds():
    rgb = Image.fromarray(files.colours())
    for how in ({"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"big_tiff": True}):
        data = files.encode(files.colours(), "TIFF", **how)
        np.testing.assert_array_equal(read_cutout(data, **options(""))[0], shown("PNG")[0])
    pages = files.encode(files.colours(), "TIFF", save_all=True, append_images=[rgb])
    assert read_cutout(pages, size=68)[1:] == (NOTED, "TIFF of several pages, shown is the first")
    for picture, reason in (
        (rgb.convert("CMYK"), "CMYK colours"),
        (rgb.convert("LAB"), "TIFF of mode LAB"),
        (Image.fromarray(np.ones((50, 50), np.int32)), "TIFF of 32-bit numbers"),
        (Image.new("1", (8000, 8000)), "too large: 8000 x 8000 pixels"),
    ):
        found = read_cutout(tiff(picture), size=68)
        assert found[1] == BAD
        assert found[2].startswith(reason)


def test_real_galaxies_have_no_remark(galaxy_zoo_sample):
    with zipfile.ZipFile(galaxy_zoo_sample / "images_test_rev1.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:400]
        found = {read_cutout(archive.read(name), size=68)[1:] for name in names}
    assert found == {(GOOD, "")}
