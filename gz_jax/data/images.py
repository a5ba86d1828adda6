"""Image files as input of a network: JPEG, PNG, TIFF or FITS in, uint8 [size, size, 3] and a flag out.

A file that cannot be used raises no error here: the result is a black image, the flag `BAD` and a reason. Memory is
limited by `MAX_BYTES` and `MAX_PIXELS`, whatever a header says.
"""

import bz2
import gzip
import io
import math
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from gz_jax.data import fits, look, pictures
from gz_jax.data.fits import MAX_PIXELS, UnusableError, require
from gz_jax.data.sky import measure
from gz_jax.data.stretch import Stretch, lupton
from gz_jax.runtime.errors import UserError

Source = bytes | str | os.PathLike[str]

GOOD, NOTED, BAD = 0, 1, 2  # usable; usable with a remark (pixels missing, padded); not usable
MAX_BYTES = 256 << 20
FIELD = 204 / 424  # what training sees of a Galaxy Zoo cutout, which spans 8.48 Petrosian 90 % radii (Willett+ 2013)


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
    source: Source | Sequence[Source],
    *,
    size: int,
    crop: float | None = None,
    share: float = FIELD,
    stretch: Stretch = Stretch(),  # noqa: B008 (immutable)
    extension: int | str | None = None,
    extensions: Sequence[int | str] | None = None,
    planes: tuple[int, int, int] | None = None,
    sky: float | Sequence[float] | None = None,
    noise: float | Sequence[float] | None = None,
    turned: bool = False,
    around: tuple[int, int] | None = None,
) -> tuple[np.ndarray, int, str]:
    """The central square of an image, brought to the network's size (`look.see`).

    Args:
      source: the file's bytes or its path, or three of them as red, green and blue: FITS images of one plane, or
        grey pictures, of one size. FITS may be inside gzip or bzip2. 16-bit greys are divided by 257; transparency
        goes over black; an orientation tag is ignored (as in training), except that Pillow applies a TIFF's; FITS
        rows run upwards, as viewers show them.
      size: pixels across the result.
      crop: pixels across the central square; None takes `share` of the shorter side, by default 204 of Kaggle's 424.
        Where the square is larger than the image it is padded with black, so that the scale stays.
      stretch: of FITS data. extension, extensions, planes: which of a FITS file, see `fits.read_planes` (bands stored
        as g, r, i: planes=(2, 1, 0)).
      sky, noise: of FITS data, in the file's unit before `Stretch.scales`; one number for every plane, or three. None
        measures them in the whole image, which must show enough sky (`sky.measure`).
      turned: the result and the same turned by 45 degrees, with the sky that lies in its corners.
      around: (cutout, crop): instead of the square, the `cutout` pixels that training augments, in which the square
        takes the central `crop`: the image's own pixels where the square has as many (half a pixel off the centre where
        `cutout` is even and the image's side odd, or the other way round), else brought to that scale.
        Beyond the image, and the square, the outermost pixels are repeated.

    Returns:
      (uint8 [size, size, 3], or [2, size, size, 3] if `turned`, or [cutout, cutout, 3] with `around`; GOOD, NOTED or
      BAD; the reason or ''). BAD images are black. NOTED are images with missing or transparent pixels, padding, one
      band, no noise, more planes than shown, or too few pixels.

    Raises:
      UserError: `sky` or `noise` that no image can have.
    """
    levels, noises = check_level("sky", sky), check_level("noise", noise)
    try:
        is_fits, data = _data(source)
        clear = found = None
        if is_fits:
            found = fits.read_planes(data, extension, extensions, planes)
            height, width = found.pixels.shape[1:]
        else:
            image, clear, note = pictures.read_pictures(data)
            width, height = image.size
        side = _side(crop, share, width, height)
        read = look.reach(side, size, turned) if around is None else _reach(side, around)
        if found is not None:
            image, note = _fits(found, side, read, stretch, levels, noises)
        x, y = (look.central(length, read) for length in image.size)
        pixels = np.asarray(pictures.rgb(image.crop((x.start, y.start, x.stop, y.stop))))
        square = tuple(look.central(length, side) for length in pixels.shape[:2])
        note = fits.joined(
            note,
            _remarks(pixels[square], None if clear is None else clear[y, x][square], is_fits),
            f"small: {side} pixels across, enlarged to {size}" if 2 * side < size else "",
            f"padded: {width} x {height} pixels, crop {side}" if min(width, height) < side else "",
        )
        shown = look.cutouts(pixels, side, size, turned) if around is None else _around(pixels, side, around)
        return shown, NOTED if note else GOOD, note
    except (
        Exception
    ) as error:  # decoders raise anything on hostile bytes; one bad file must not stop the prediction of a catalogue
        return black(size if around is None else around[0], turned), BAD, _reason(error)


def read_opened(
    opened: Callable[[], tuple[Source | Sequence[Source], Mapping[str, Any]]],
    *,
    size: int,
    turned: bool = False,
    around: tuple[int, int] | None = None,
) -> tuple[np.ndarray, int, str]:
    """`read_cutout` of what `opened` gives, a source and further arguments; `BAD`, with a reason, where it raises."""
    try:
        source, how = opened()
    except Exception as error:  # of a table, a zip or the operating system
        reason = str(error) if isinstance(error, UserError) else f"cannot be read: {error}"
        return black(size if around is None else around[0], turned), BAD, reason[:200]
    return read_cutout(source, size=size, turned=turned, around=around, **how)


def black(size: int, turned: bool = False) -> np.ndarray:
    """What `read_cutout` makes of an image that cannot be used."""
    return np.zeros((2, size, size, 3) if turned else (size, size, 3), np.uint8)


def check_level(name: str, value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    """`sky` or `noise` as a tuple of one number or three. Raises UserError: no image can have it."""
    above, what = (0, "must be positive") if name == "noise" else (-math.inf, "must be finite")
    if value is None:
        return None
    try:
        values = tuple(np.ravel(np.asarray(value, float)).tolist())
    except (TypeError, ValueError):
        values = ()
    if len(values) not in (1, 3) or not all(above < v < math.inf for v in values):
        raise UserError(f"{name}={value}: one number, or three (red, green, blue); each {what}")
    return values


def _reach(side: int, around: tuple[int, int]) -> int:
    """Pixels of the image across what `around` shows, where the square has `side`."""
    cutout, crop = around
    return cutout if side == crop else round(side * cutout / crop)


def _around(pixels: np.ndarray, side: int, around: tuple[int, int]) -> np.ndarray:
    """The square of `_reach`; black where the square of `side` leaves the image, as `look.see` has it."""
    reach = _reach(side, around)
    for wanted, mode in ((side, "constant"), (reach, "edge")):
        both = [(missing := max(0, -(-(wanted - n) // 2)), missing) for n in pixels.shape[:2]]
        pixels = np.pad(pixels, [*both, (0, 0)], mode=mode)  # type: ignore[call-overload]  # either mode
    if side != around[1]:
        return look.see(pixels, reach, around[0])
    y, x = ((n - reach) // 2 for n in pixels.shape[:2])
    return pixels[y : y + reach, x : x + reach]


def _side(crop: float | None, share: float, width: int, height: int) -> int:
    side = max(1, round(share * min(width, height) if crop is None else crop))
    require(side * side <= MAX_PIXELS, f"crop of {side} pixels is too large")
    return side


def _reason(error: Exception) -> str:
    """One short line, the same on every run."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not a JPEG, PNG, TIFF or FITS image"
    if isinstance(error, Image.DecompressionBombError):
        return "too large: a decompression bomb"
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>| at 0x[0-9a-f]+", "", str(error))).strip()[:160]
    return text if isinstance(error, UnusableError) else f"damaged or unreadable: {text or type(error).__name__}"


def _bytes(source: bytes | str | os.PathLike[str]) -> bytes:
    if not isinstance(source, bytes):
        require(stat.S_ISREG(os.stat(source).st_mode), "not a regular file")  # a named pipe would hang the run
        with open(source, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            source = file.read(MAX_BYTES + 1) or b""  # None where a pipe has nothing
    require(len(source) > 0, "empty file")
    require(len(source) <= MAX_BYTES, f"more than {MAX_BYTES >> 20} MiB")
    return source


def _data(source: Source | Sequence[Source]) -> tuple[bool, list[bytes]]:
    """Whether it is FITS; the bytes of one file, or of three of one kind, unzipped."""
    files = [source] if isinstance(source, bytes | str | os.PathLike) else source
    require(files is not source or len(files) == 3, "a picture needs one file, or three (red, green, blue)")
    data: list[bytes] = []
    for one in files:
        data.append(_unzipped(_bytes(one)))
        require(sum(map(len, data)) <= MAX_BYTES, f"more than {MAX_BYTES >> 20} MiB together")
    kinds = {one.startswith(b"SIMPLE") for one in data}
    require(len(kinds) == 1, "FITS and other files together")
    return kinds.pop(), data


def _unzipped(data: bytes) -> bytes:
    if not data.startswith((b"\x1f\x8b", b"BZh")):
        return data
    file = bz2.BZ2File(io.BytesIO(data)) if data.startswith(b"BZh") else gzip.GzipFile(fileobj=io.BytesIO(data))
    data = file.read(MAX_BYTES + 1)
    require(len(data) <= MAX_BYTES, f"more than {MAX_BYTES >> 20} MiB unzipped")
    return data


def _remarks(square: np.ndarray, clear: np.ndarray | None, is_fits: bool) -> str:
    """On what is seen, uint8 [H, W, 3], and on its transparent pixels, bool [H, W].

    Raises:
      UnusableError: it is empty.
    """
    for part in (square[::8, ::8], square):
        low, high = part.min((0, 1)), part.max((0, 1))
        if (high.astype(int) - low).max() > 2:
            break
    else:
        raise UnusableError(f"every pixel has {'nearly ' if (low != high).any() else ''}the same value")
    notes = ["one band, shown grey"] if pictures.is_grey(square) else []
    if clear is not None and clear.any():
        notes.append(f"{fits.percent(clear.mean())} of pixels transparent")
    elif not is_fits and (share := pictures.blank(square)) >= 0.05:
        notes.append(f"{fits.percent(share)} of pixels in areas of one value")
    return fits.joined(*notes)


def _fits(
    planes: fits.Planes,
    side: int,
    read: int,
    stretch: Stretch,
    levels: tuple[float, ...] | None,
    noises: tuple[float, ...] | None,
) -> tuple[Image.Image, str]:
    """The central `read` pixels of FITS planes, stretched; remarks on the central square of `side`."""
    pixels, count = planes.pixels[:, ::-1], len(planes.pixels)
    scales = stretch.scales if count > 1 else (1.0,)
    rows, columns = (look.central(n, read) for n in pixels.shape[1:])
    for name, given in (("sky", levels), ("noise", noises)):
        if given and len(given) not in (1, count):
            raise UnusableError(f"{name} of {len(given)} planes for an image of {count}")
    levels, noises = (given * count if given and len(given) == 1 else given for given in (levels, noises))
    with np.errstate(all="ignore"):
        measured = measure(pixels, scales, levels, noises)
        centre = pixels[:, rows, columns].astype(np.result_type(pixels.dtype, np.float32))
        gone = ~np.isfinite(centre)
        for plane, mask in zip(gone, measured.missing, strict=True):
            plane |= False if mask is None else mask[rows, columns]
        square = (slice(None), *(look.central(n, side) for n in centre.shape[1:]))
        require(bool(np.isfinite(centre[square]).any()), "no valid pixel in the central square")
        require(not gone[square].all(), "every pixel has the same value")
        centre *= np.array(scales, centre.dtype)[:, None, None]
        centre -= measured.level[:, None, None]
        centre[gone] = 0
        shown, note = lupton(centre, measured.noise, stretch, square, measured=noises is None)
    gone = gone[square]
    empty = gone.all((1, 2))
    lost = [f"{name} has no data" for name, none in zip(planes.names, empty, strict=True) if none]
    part = gone[~empty].mean()
    lost += [f"{fits.percent(part)} of pixels missing"] if part else []
    return Image.fromarray(shown), fits.joined(planes.note, *lost, note)
