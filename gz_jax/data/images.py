"""Anyone's cutouts as the network wants them: JPEG, PNG or FITS in, uint8 [size, size, 3] and a flag out.

A file that cannot be used is never an error here: it comes back black, flagged `BAD`, with a reason. Memory
is bounded by `MAX_BYTES` and `MAX_PIXELS` whatever a header claims.
"""

import gzip
import io
import os
import re
import stat
import threading
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from gz_jax.data import look
from gz_jax.errors import UserError

GOOD, NOTED, BAD = 0, 1, 2  # usable; usable with a remark (pixels missing, padded); not usable
MAX_BYTES = 256 << 20
MAX_PIXELS = 50_000_000
MAX_SCANS = 100  # of a progressive JPEG, which has about ten; each costs a pass over all its pixels
MAX_BLOCKS = 2_000  # of 2,880 bytes that the headers of a FITS file may have together
FIELD = 204 / 424  # what training sees of a Galaxy Zoo cutout, which spans 8.48 Petrosian 90 % radii (Willett+ 2013)

_WARNINGS = threading.Lock()  # catch_warnings swaps a global; astropy's parsing is single-threaded anyway


class Stretch(NamedTuple):
    """Brightness of FITS pixels, Lupton et al. 2004 (PASP 116, 133): asinh(q I / softening) / q, white at 1.

    I is the mean of the bands above the sky in units of the sky's noise, so that cutouts of any flux unit come
    out alike: linear below `softening`, logarithmic above, white at softening sinh(q) / q (840 by default). With the
    defaults, cutouts simulated with SDSS' noise have about the sky (scatter 3 of 255) and the cores (160) of the
    medians of Galaxy Zoo's own pictures, though outskirts come out fainter.

    The planes are first multiplied by `scales`. In units of flux (nanomaggies, say) galaxies come out redder than in
    Galaxy Zoo; (0.85, 1, 1.4) for i, r, g gives a red core the median colour of Galaxy Zoo's.
    """

    q: float = 6.0
    softening: float = 25.0
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)


class _UnusableError(Exception):
    """Why a file cannot be used."""


def crop_side(pixel_scale: float, field_arcsec: float) -> float:
    """Pixels across `field_arcsec` at `pixel_scale` arcsec per pixel, for `read_cutout(crop=...)`.

    Training sees 4.08 Petrosian 90 % radii across: 204 pixels of 0.02 radii each.

    Raises:
      UserError: either is not positive.
    """
    if not (pixel_scale > 0 and field_arcsec > 0):
        raise UserError(f"pixel scale {pixel_scale} and field {field_arcsec} arcsec must both be positive")
    return field_arcsec / pixel_scale


def read_cutout(
    source: bytes | str | os.PathLike[str],
    *,
    size: int,
    crop: float | None = None,
    stretch: Stretch = Stretch(),  # noqa: B008 (immutable)
    extension: int | str | None = None,
    planes: tuple[int, int, int] = (0, 1, 2),
    turned: bool = False,
) -> tuple[np.ndarray, int, str]:
    """The central square of an image, downsized as for training (`look.see`).

    Args:
      source: the file's bytes or its path. 16-bit greys are divided by 257; transparency goes over black; an
        orientation tag is ignored (as in training); FITS rows run upwards, as viewers show them.
      size: pixels across the result.
      crop: pixels across the central square; None takes `FIELD` of the shorter side, which is 204 of
        Kaggle's 424. Where the square is larger than the image it is padded with black, so that the scale stays.
      stretch: of FITS data. extension: FITS extension by number or name; None takes the first with an image.
      planes: of a FITS cube, shown as red, green and blue (bands stored as g, r, i: (2, 1, 0)).
      turned: the result and the same turned by 45 degrees, with the sky that lies in its corners.

    Returns:
      (uint8 [size, size, 3], or [2, size, size, 3] if `turned`; GOOD, NOTED or BAD; the reason or ''). BAD images are
      black.
    """
    try:
        data = _bytes(source)
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)
            _require(len(data) <= MAX_BYTES, f"more than {MAX_BYTES >> 20} MiB unzipped")
        if data.startswith(b"SIMPLE"):
            image, side, note = _fits(data, crop, size, stretch, extension, planes, turned)
        else:
            image, note = _picture(data), ""
            side = _side(crop, *image.size)
        if min(image.size) < side:
            note = "; ".join(filter(None, [note, f"padded: {image.width} x {image.height} pixels, crop {side}"]))
        x, y = (look.window(length, side, size, turned) for length in image.size)
        pixels = np.asarray(_rgb(image.crop((x.start, y.start, x.stop, y.stop))))
        return look.cutouts(pixels, side, size, turned), NOTED if note else GOOD, note
    except Exception as error:  # decoders raise anything on hostile bytes; one bad file must not stop a million
        return black(size, turned), BAD, _reason(error)


def black(size: int, turned: bool = False) -> np.ndarray:
    """What `read_cutout` makes of an image that cannot be used."""
    return np.zeros((2, size, size, 3) if turned else (size, size, 3), np.uint8)


def _side(crop: float | None, width: int, height: int) -> int:
    side = max(1, round(FIELD * min(width, height) if crop is None else crop))
    _require(side * side <= MAX_PIXELS, f"crop of {side} pixels is too large")
    return side


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _UnusableError(reason)


def _reason(error: Exception) -> str:
    """One short line, the same on every run."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG or FITS image"
    if isinstance(error, Image.DecompressionBombError):
        return "too large: a decompression bomb"
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>| at 0x[0-9a-f]+", "", str(error))).strip()[:160]
    return text if isinstance(error, _UnusableError) else f"damaged or unreadable: {text or type(error).__name__}"


def _bytes(source: bytes | str | os.PathLike[str]) -> bytes:
    if not isinstance(source, bytes):
        _require(stat.S_ISREG(os.stat(source).st_mode), "not a regular file")  # a named pipe would hang the run
        with open(source, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            source = file.read(MAX_BYTES + 1) or b""  # None where a pipe has nothing
    _require(len(source) > 0, "empty file")
    _require(len(source) <= MAX_BYTES, f"more than {MAX_BYTES >> 20} MiB")
    return source


def _picture(data: bytes) -> Image.Image:
    """A JPEG or PNG as an RGB image."""
    image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    _require(image.width * image.height <= MAX_PIXELS, f"too large: {image.width} x {image.height} pixels")
    _require(image.format != "JPEG" or data.count(b"\xff\xda") <= MAX_SCANS, f"more than {MAX_SCANS} scans")
    _require(image.mode not in ("CMYK", "YCCK"), "CMYK colours")
    image.load()
    if image.mode.startswith("I"):  # 16-bit grey
        grey = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    """`convert` would copy what is RGB already."""
    return image if image.mode == "RGB" else image.convert("RGB")


class _Blocks(io.BytesIO):
    """A FITS file whose headers, which astropy reads block by block, cannot go on for ever."""

    blocks = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.blocks += size == 2880
        _require(self.blocks <= MAX_BLOCKS, f"more than {MAX_BLOCKS} header blocks")
        return super().read(size)


def _fits(
    data: bytes,
    crop: float | None,
    size: int,
    stretch: Stretch,
    extension: int | str | None,
    planes: tuple[int, int, int],
    turned: bool,
) -> tuple[Image.Image, int, str]:
    """What is seen of a FITS image or cube, stretched; the square's side; a remark about its missing pixels."""
    from astropy.io import fits  # here, for those who never meet FITS: importing it takes a third of a second

    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(_Blocks(data), memmap=False, lazy_load_hdus=True) as units:
            pixels = _pixels(units, len(data), extension)[:, ::-1]
    if len(pixels) > 1:
        _require(max(planes) < len(pixels), f"cube of {len(pixels)} planes, asked for planes {planes}")
        with np.errstate(over="ignore", invalid="ignore"):
            pixels = pixels[list(planes)] * np.array(stretch.scales, np.float32)[:, None, None]
    height, width = pixels.shape[1:]
    side = _side(crop, width, height)
    rows, columns = (look.window(n, side, size, turned) for n in (height, width))
    step = max(1, int(np.sqrt(width * height / 250_000)))  # a quarter million pixels tell the sky well enough
    with np.errstate(over="ignore", invalid="ignore"):
        centre = pixels[:, rows, columns].astype(np.float32)
        samples = pixels[:, ::step, ::step].astype(np.float32)
        square = (slice(None), *(look.central(n, side) for n in centre.shape[1:]))
        missing = ~np.isfinite(centre[square])
        shown = None if missing.all() else _lupton(centre, samples, stretch, square)
    _require(shown is not None, "no valid pixel in the central square")
    note = f"{100 * missing.mean():.2g} % of pixels missing" if missing.any() else ""
    return Image.fromarray(shown), side, note


def _pixels(units, length: int, extension: int | str | None) -> np.ndarray:
    """[planes, H, W] of the chosen extension (an astropy HDUList), after checking what its header claims."""
    if extension is None:
        unit = next((u for u in units if u.is_image and len(u.shape) >= 2), None)
        _require(unit is not None, "no image in the FITS file")
    else:
        unit = units[extension]
        _require(unit.is_image and len(unit.shape) >= 2, f"extension {extension} is no image")
    shape = tuple(n for n in unit.shape[:-2] if n != 1) + tuple(unit.shape[-2:])
    text = " x ".join(map(str, shape))
    _require(len(shape) <= 3 and min(shape) > 0, f"not an image or a cube of images: {text}")
    _require(int(np.prod(shape, dtype=object)) <= MAX_PIXELS, f"too large: {text} pixels")
    if not hasattr(unit, "compressed_data"):
        claimed = unit.fileinfo()["datLoc"] + abs(unit.header["BITPIX"]) // 8 * int(np.prod(shape))
        _require(claimed <= length, f"truncated: the header promises {claimed} bytes, the file has {length}")
    return np.asarray(unit.data).reshape(-1, *shape[-2:])


def _lupton(pixels: np.ndarray, samples: np.ndarray, stretch: Stretch, square: tuple[slice, ...]) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] from float32 [1 or 3, H, W]; see `Stretch`. Missing pixels become sky.

    Sky and noise are the clipped median of each plane, and the clipped spread of the planes' mean, over
    `samples`.
    """
    from astropy.stats import sigma_clipped_stats

    valid = [plane[np.isfinite(plane)] for plane in samples]
    sky = np.array([sigma_clipped_stats(v, maxiters=5)[1] if v.size else 0 for v in valid], np.float32)
    above = np.where(np.isfinite(pixels), pixels - sky[:, None, None], 0)
    mean = samples.mean(0)
    mean = mean[np.isfinite(mean)]
    noise = sigma_clipped_stats(mean, maxiters=5, stdfunc="mad_std")[2] if mean.size else 0
    if not noise > 0:  # an image without noise: white at the brightest pixel of its square instead
        noise = above[square].mean(0).max() * stretch.q / stretch.softening / np.sinh(stretch.q)
    _require(noise > 0, "every pixel has the same value")
    intensity = np.maximum(above.mean(0) / noise, 1e-6)
    gain = np.arcsinh(stretch.q * intensity / stretch.softening) / stretch.q / intensity
    colour = np.maximum(above / noise, 0) * gain
    colour /= np.maximum(colour.max(0), 1)  # too bright keeps its hue
    shown = np.moveaxis((255 * colour + 0.5).astype(np.uint8), 0, -1)
    return shown[..., 0] if shown.shape[-1] == 1 else shown
