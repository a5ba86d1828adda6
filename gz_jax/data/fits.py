"""Planes of a FITS file: which extension, whether its header is honest, what its missing pixels are.

Nothing is read that the header does not justify: `MAX_PIXELS` and `MAX_BLOCKS` bound memory and time.
"""

import io
import math
import re
import threading
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MAX_PIXELS = 50_000_000
MAX_BLOCKS = 2_000  # of 2,880 bytes that the headers of a FITS file may have together
LISTED = 8  # extensions named in a message

_WARNINGS = threading.Lock()  # catch_warnings swaps a global; astropy's parsing is single-threaded anyway

# Words in the names of extensions that are not the picture, of HST, JWST, SDSS, DESI, LSST, ESO, Euclid, SExtractor:
_NEVER = re.compile(
    r"(DQ|QUAL|QUALITY|FLG|FLAGS?|MA?SKS?|BAD|BADPIX|BPM|ERR|ERRORS?|UNC|UNCERT|UNCERTAINTY|SIG|SIGMA|STD|STDD?EV|RMS|"
    r"VAR|VARIANCE|IVAR|INVVAR|WHT|WG?T|WEIGHTS?|CON|CTX|CONTEXT|EXP|EXPTIME|EXPOSURE|NEXP|NIMAGES?|NCOMBINE|COVERAGE|"
    r"COV|CVG|AREA|SAMP|TIME|SEG|SEGM|SEGMENTATION|CHI|CHISQ|D2IMARR|WCSDVARR|NPOLARR|MDRIZSKY)(MAP)?\d*"
)
_LAST = re.compile(r"(PSF|MODEL|RESID|RESIDUALS?|BKG|BACK|BACKGROUND|SKY|NOISE|THUMB|THUMBNAIL|PREVIEW|QUICKLOOK)\d*")


class UnusableError(Exception):
    """Why a file cannot be used."""


class Planes(NamedTuple):
    """pixels: [1 or 3, H, W], rows from the bottom, in the file's dtype; names: of the planes; note: a remark or ''."""

    pixels: np.ndarray
    names: tuple[str, ...]
    note: str


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise UnusableError(reason)


def percent(share: float) -> str:
    """Two digits of a share."""
    return f"{float(f'{100 * share:.2g}'):g} %"


def joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


class _Blocks(io.BytesIO):
    """A FITS file whose headers, which astropy reads block by block, cannot be endless."""

    blocks = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.blocks += size == 2880
        require(self.blocks <= MAX_BLOCKS, f"more than {MAX_BLOCKS} header blocks")
        return super().read(size)


def read_planes(
    files: Sequence[bytes],
    extension: int | str | None = None,
    extensions: Sequence[int | str] | None = None,
    planes: tuple[int, int, int] | None = None,
) -> Planes:
    """One grey plane, or red, green and blue, of a FITS file, or of three with a plane each.

    Args:
      files: the bytes of one or three, not gzipped.
      extension: by number, name or 'NAME,EXTVER'; None takes `SCI`, else the first image that is neither named as
        something else (weights, errors, masks) nor less than half as wide and high as the largest (a preview).
      extensions: three of one size instead, as red, green and blue.
      planes: of a cube, as red, green and blue; None takes the first three, and adds a remark if there are more.
        Cubes have their planes first, or last ([H, W, 3]).

    Raises:
      UnusableError: no such image, too large, truncated, or planes that do not fit together.
    """
    from astropy.io import (
        fits,
    )  # not at the top: importing it takes a third of a second, and many users have no FITS files

    if len(files) > 1:
        require(extensions is None, "three extensions of three files")
        colours = zip(("red file", "green file", "blue file"), files, strict=True)
        bands = [(name, _one_of_three(read_planes([one], extension).pixels)) for name, one in colours]
        return _together(bands, "files")
    (data,) = files
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(_Blocks(data), memmap=False, lazy_load_hdus=True) as units:
            if extensions is not None:
                bands = [(f"extension {e}", _one_of_three(_pixels(units, len(data), e))) for e in extensions]
                return _together(bands, "extensions")
            pixels = _pixels(units, len(data), extension)
    if len(pixels) == 1:
        return Planes(pixels, ("the plane",), "")
    shown = planes or (0, 1, 2)
    require(max(shown) < len(pixels), f"cube of {len(pixels)} planes, asked for planes {shown}")
    note = f"cube of {len(pixels)} planes, shown are 0, 1, 2" if planes is None and len(pixels) > 3 else ""
    return Planes(pixels[list(shown)], tuple(f"plane {i}" for i in shown), note)


def _together(bands: Sequence[tuple[str, np.ndarray]], what: str) -> Planes:
    """Three named planes [1, H, W] of one size as red, green and blue."""
    require(len(bands) == 3, f"{len(bands)} {what}: a colour picture takes three")
    require(all(len(b) == 1 for _, b in bands), f"one of the three {what} has more than one plane")
    sizes = [f"{b.shape[2]} x {b.shape[1]}" for _, b in bands]
    require(len(set(sizes)) == 1, f"the three {what} differ in size: {', '.join(sizes)} pixels")
    return Planes(np.concatenate([b for _, b in bands]), tuple(name for name, _ in bands), "")


def _one_of_three(pixels: np.ndarray) -> np.ndarray:
    """[n, H, W] itself, if three of it are not too large."""
    require(pixels.size * 3 <= MAX_PIXELS, f"too large: three times {pixels.shape[2]} x {pixels.shape[1]} pixels")
    return pixels


def _is_image(unit: Any) -> bool:
    return unit.is_image and len(unit.shape) >= 2


def _choose(units: Any, extension: int | str | None) -> Any:
    """A unit with an image (of an astropy HDUList)."""
    if extension is None:
        return _science(units)
    name, _, version = (part.strip() for part in str(extension).partition(","))
    key = int(name) if name.isdecimal() else (name, int(version)) if version.isdecimal() else str(extension)
    try:
        unit = units[key]
    except (KeyError, IndexError):
        raise UnusableError(f"no extension {extension}; there are {_names(enumerate(units))}") from None
    require(_is_image(unit), f"extension {extension} is no image")
    return unit


def _science(units: Any) -> Any:
    """The first `SCI`; else the first picture of a quarter of the largest's area or more: smaller ones are previews."""
    images = []
    try:
        for number, unit in enumerate(units):
            if _is_image(unit):
                images.append((number, unit))
    except Exception:  # an image before a damaged unit is still used
        if not images:
            raise
    require(bool(images), "no image in the FITS file")
    named = [unit for _, unit in images if re.fullmatch(r"SCI(ENCE)?[ _]?\d*", unit.name.upper())]
    if named:
        return named[0]
    pictures = [unit for _, unit in images if not _named(unit, _NEVER)]
    pictures = [unit for unit in pictures if not _named(unit, _LAST)] or pictures
    require(bool(pictures), f"no science image, only {_names(images)}: name the extension to show")
    areas = [math.prod(sorted(unit.shape)[-2:]) for unit in pictures]
    return next(unit for unit, area in zip(pictures, areas, strict=True) if 4 * area >= max(areas))


def _named(unit: Any, words: re.Pattern[str]) -> bool:
    """Whether one of the words is in EXTNAME, or in ESO's HDUCLAS2 and 3 (DATA, ERROR, QUALITY)."""
    text = " ".join([unit.name, *(str(unit.header.get(key, "")) for key in ("HDUCLAS2", "HDUCLAS3"))])
    return any(words.fullmatch(word) for word in re.split(r"[^A-Z0-9]+", text.upper()))


def _names(units: Any) -> str:
    texts = [f"{i} {unit.name}".strip() for i, unit in units]
    return ", ".join(texts[:LISTED]) + (f" and {len(texts) - LISTED} more" if len(texts) > LISTED else "")


def _pixels(units: Any, length: int, extension: int | str | None) -> np.ndarray:
    """[planes, H, W] of the chosen extension (an astropy HDUList), after checking what its header claims."""
    unit = _choose(units, extension)
    shape = tuple(n for n in unit.shape[:-2] if n != 1) + tuple(unit.shape[-2:])
    text = " x ".join(map(str, shape))
    require(len(shape) <= 3 and min(shape) > 0, f"not an image or a cube of images: {text}")
    require(int(np.prod(shape, dtype=object)) <= MAX_PIXELS, f"too large: {text} pixels")
    if not hasattr(unit, "compressed_data"):
        claimed = unit.fileinfo()["datLoc"] + abs(unit.header["BITPIX"]) // 8 * int(np.prod(shape))
        require(claimed <= length, f"truncated: the header says {claimed} bytes, the file has {length}")
    blank, zero = unit.header.get("BLANK"), unit.header.get("BZERO", 0)
    pixels = np.asarray(unit.data).reshape(-1, *shape[-2:])
    if pixels.dtype.kind == "u" and isinstance(blank, int) and zero:  # astropy overlooks BLANK in unsigned integers
        pixels = np.where(pixels == blank + int(zero), np.nan, pixels.astype(np.result_type(pixels.dtype, np.float32)))
    last = shape[-1]
    channels_last = len(shape) == 3 and last <= 10 and min(shape[:2]) >= 3 * last
    return np.moveaxis(pixels, -1, 0) if channels_last else pixels
