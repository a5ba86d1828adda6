"""Files as surveys and simulations give them, with a galaxy of known brightness, for test_survey_files.py.

The galaxy is a round exponential disk with a scale length of 12 pixels and a peak of 100, in 424 x 424 pixels, on a sky
of 0 with noise 1.
"""

import bz2
import gzip
import io
from collections.abc import Callable

import numpy as np
from astropy.io import fits
from PIL import Image
from scipy import ndimage

SIDE = 424
Y, X = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
RADIUS = np.hypot(Y, X)
LEFT = X < -85  # 30 % of the columns
SQUARE = {"crop": 204}


def disk(scale: float = 12, peak: float = 100) -> np.ndarray:
    return (peak * np.exp(-RADIUS / scale)).astype(np.float32)


def noise(sigma: float = 1, seed: int = 0, fwhm: float = 0) -> np.ndarray:
    """Gaussian; with a FWHM in pixels, smoothed as resampling does, and of that sigma afterwards."""
    values = np.random.default_rng(seed).normal(0, 1, (SIDE, SIDE))
    if fwhm:
        values = ndimage.gaussian_filter(values, fwhm / 2.3548, mode="wrap")
    return (sigma * values / values.std()).astype(np.float32)


def galaxy() -> np.ndarray:
    return disk() + noise()


def bands() -> np.ndarray:
    return np.stack([disk(peak=peak) + noise(seed=seed) for seed, peak in enumerate((120, 100, 70))])


def holed(value: float, where: np.ndarray = LEFT) -> np.ndarray:
    return np.where(where, np.float32(value), bands())


def sparse(sky: float) -> np.ndarray:
    return np.random.default_rng(0).poisson(disk() + sky).astype(np.int32)


def colours() -> np.ndarray:
    """uint8 [424, 424, 3]."""
    return np.clip(np.moveaxis(bands(), 0, -1) + 20, 0, 255).astype(np.uint8)


def as_fits(*units) -> bytes:
    buffer = io.BytesIO()
    first = [fits.PrimaryHDU(units[0])] if isinstance(units[0], np.ndarray) else [fits.PrimaryHDU(), *units]
    fits.HDUList([*first, *units[1:]] if isinstance(units[0], np.ndarray) else first).writeto(buffer)
    return buffer.getvalue()


def named(pixels: np.ndarray, name: str) -> fits.ImageHDU:
    return fits.ImageHDU(pixels, name=name)


def blank(packed: bool) -> bytes:
    """Unsigned 16-bit integers whose missing pixels are 65535 by BLANK."""
    counts = np.where(LEFT, 65535, np.rint(10 * galaxy() + 1000)).astype(np.uint16)
    unit = fits.CompImageHDU(counts) if packed else fits.ImageHDU(counts)
    unit.header["BLANK"] = 32767  # plus BZERO of 32768
    return as_fits(unit)


def encode(pixels: np.ndarray, kind: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def flat(value: int, kind: str) -> bytes:
    return encode(np.full((SIDE, SIDE, 3), value, np.uint8), kind)


def see_through(share: float) -> bytes:
    pixels = np.dstack([colours(), np.full((SIDE, SIDE), 255, np.uint8)])
    pixels[:, : int(share * SIDE), 3] = 0
    return encode(pixels)


def dark_left() -> bytes:
    pixels = colours() + np.random.default_rng(7).integers(0, 12, (SIDE, SIDE, 3), np.uint8)
    pixels[X < -50] = 0
    return encode(pixels, "JPEG")


WEIGHTS = 100 + noise(seed=9)

FILES: dict[str, Callable[[], bytes]] = {
    "one band": lambda: as_fits(galaxy()),
    "three bands": lambda: as_fits(bands()),
    "tile-compressed": lambda: as_fits(fits.CompImageHDU(galaxy(), quantize_level=16)),
    "gzip": lambda: gzip.compress(as_fits(galaxy())),
    "bzip2": lambda: bz2.compress(as_fits(galaxy())),
    # 1. no noise, or noise of another kind
    "no noise": lambda: as_fits(disk()),
    "no noise, float64": lambda: as_fits(disk().astype(np.float64)),
    "no noise, on 1000": lambda: as_fits(disk() + 1000),
    "no noise, integers": lambda: as_fits(np.rint(600 * disk()).astype(np.uint16)),
    "no noise, disk of 60": lambda: as_fits(disk(60)),
    "no noise, Gaussian": lambda: as_fits((100 * np.exp(-((RADIUS / 40) ** 2) / 2)).astype(np.float32)),
    "no noise, Sersic 4": lambda: as_fits(np.exp(-7.67 * ((RADIUS / 20) ** 0.25 - 1)).astype(np.float32)),
    "no noise, cut at 60": lambda: as_fits(np.where(RADIUS < 60, disk(), 0)),
    "noise 0.0001": lambda: as_fits(disk() + noise(1e-4)),
    "noise, FWHM 2": lambda: as_fits(disk() + noise(fwhm=2)),
    "noise, FWHM 3": lambda: as_fits(disk() + noise(fwhm=3)),
    "noise, FWHM 6": lambda: as_fits(disk() + noise(fwhm=6)),
    "disk of 60, noise 1": lambda: as_fits(disk(60) + noise()),
    "integers, noise 1": lambda: as_fits(np.rint(galaxy()).astype(np.int16)),
    "Poisson, sky 0": lambda: as_fits(sparse(0)),
    "Poisson, sky 1": lambda: as_fits(sparse(1)),
    "sky of -500": lambda: as_fits(galaxy() - 500),
    "in units of 1e30": lambda: as_fits(1e30 * galaxy().astype(np.float64)),
    "in units of 1e-42": lambda: as_fits(1e-42 * galaxy().astype(np.float64)),
    "on 1e8, float64": lambda: as_fits(1e8 + galaxy().astype(np.float64)),
    "saturated core": lambda: as_fits(np.minimum(30 * disk() + noise(), 500)),
    # 2. one value for no data
    "left 30 % NaN": lambda: as_fits(holed(np.nan)),
    "left 30 % 0": lambda: as_fits(holed(0)),
    "left 30 % -99": lambda: as_fits(holed(-99)),
    "left 30 % 1e20": lambda: as_fits(holed(1e20)),
    "outside the square NaN": lambda: as_fits(holed(np.nan, X < -103)),
    "outside the square 0": lambda: as_fits(holed(0, X < -103)),
    "corner 0": lambda: as_fits(holed(0, X + Y < -100)),
    "band all 0": lambda: as_fits(np.stack([bands()[0], 0 * disk(), bands()[2]])),
    "band all NaN": lambda: as_fits(np.stack([bands()[0], np.nan * disk(), bands()[2]])),
    "integers, left 30 % 0": lambda: as_fits(np.where(LEFT, 0, np.rint(5 * galaxy())).astype(np.int16)),
    # 3. BLANK
    "unsigned, BLANK": lambda: blank(packed=False),
    "unsigned, BLANK, packed": lambda: blank(packed=True),
    # 4. channels
    "channels last": lambda: as_fits(np.moveaxis(bands(), 0, -1).copy()),
    "cube of 7": lambda: as_fits(np.concatenate([bands(), bands(), bands()[:1]])),
    # 5. nothing there
    **{
        f"{name} {kind}": lambda value=value, kind=kind: flat(value, kind)
        for kind in ("JPEG", "PNG")
        for name, value in (("black", 0), ("grey", 128), ("white", 255))
    },
    "PNG": lambda: encode(colours()),
    "opaque PNG": lambda: see_through(0),
    "transparent PNG": lambda: see_through(1),
    "PNG, left transparent": lambda: see_through(0.3),
    "JPEG, left black": dark_left,
    "smooth JPEG": lambda: encode(colours(), "JPEG"),
    "60 px PNG": lambda: encode(colours()[182:242, 182:242].copy()),
    "one-band PNG": lambda: encode(colours()[..., 0].copy()),
    # 6. which extension
    "SCI, WHT": lambda: as_fits(named(galaxy(), "SCI"), named(WEIGHTS, "WHT")),
    "WHT, SCI": lambda: as_fits(named(WEIGHTS, "WHT"), named(galaxy(), "SCI")),
    "primary mask, SCI": lambda: as_fits((RADIUS > 50).astype(np.uint8), named(galaxy(), "SCI")),
    "preview, SCI": lambda: as_fits(galaxy()[::8, ::8].copy(), named(galaxy(), "SCI")),
    "preview, no name": lambda: as_fits(galaxy()[::8, ::8].copy(), fits.ImageHDU(galaxy())),
    "IVAR_R, R": lambda: as_fits(named(WEIGHTS, "IVAR_R"), named(galaxy(), "R")),
    "WHT, DQ": lambda: as_fits(named(WEIGHTS, "WHT"), named(WEIGHTS, "DQ")),
    # 9. TIFF
    "TIFF": lambda: encode(colours(), "TIFF"),
    "TIFF, 16 bits": lambda: encode(colours()[..., 0].astype(np.uint16) * 257, "TIFF"),
    "TIFF, float": lambda: encode(galaxy(), "TIFF"),
}
NO_CROP = {"60 px PNG"}


def options(name: str) -> dict:
    return {"size": 68} if name in NO_CROP else {"size": 68, **SQUARE}
