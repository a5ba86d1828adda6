"""JPEG, PNG and TIFF as uint8 RGB."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, TiffImagePlugin

from gz_jax.data.fits import MAX_PIXELS, joined, require
from gz_jax.data.sky import squares

MAX_SCANS = 100  # of a progressive JPEG, which has about ten; each costs a pass over all its pixels


def read_pictures(data: Sequence[bytes]) -> tuple[Image.Image, np.ndarray | None, str]:
    """A JPEG, PNG or TIFF as an RGB image, or three grey ones of one size as its red, green and blue.

    Returns:
      The image; bool [H, W], True where it is transparent, or None; a remark or ''.

    Raises:
      UnusableError, and whatever Pillow raises on damaged bytes.
    """
    found = [_picture(one, MAX_PIXELS // len(data)) for one in data]
    if len(found) == 1:
        return found[0]
    sizes = [f"{image.width} x {image.height}" for image, _, _ in found]
    require(len(set(sizes)) == 1, f"the three files differ in size: {', '.join(sizes)} pixels")
    require(all(is_grey(np.asarray(image)) for image, _, _ in found), "one of the three files is a colour picture")
    masks = [mask for _, mask, _ in found if mask is not None]
    image = Image.merge("RGB", [image.getchannel(0) for image, _, _ in found])
    return image, np.logical_or.reduce(masks) if masks else None, joined(*dict.fromkeys(note for _, _, note in found))


def _picture(data: bytes, most: int) -> tuple[Image.Image, np.ndarray | None, str]:
    """See `read_pictures`."""
    image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "TIFF"))
    require(image.width * image.height <= most, f"too large: {image.width} x {image.height} pixels")
    require(image.format != "JPEG" or data.count(b"\xff\xda") <= MAX_SCANS, f"more than {MAX_SCANS} scans")
    require(image.mode not in ("CMYK", "YCCK"), "CMYK colours")
    note = _check_tiff(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else ""
    image.load()
    if image.mode.startswith("I"):  # 16-bit grey
        grey = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8)), None, note
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        clear = np.asarray(image.getchannel("A")) < 255
        over = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        return over.convert("RGB"), clear, note
    return rgb(image), None, note


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> str:
    """Refuse kinds of TIFF that Pillow shows wrongly; a remark if there are further pages, else ''."""
    bits, photometric = image.tag_v2.get(258, (1,)), image.tag_v2.get(262)
    bits = bits if isinstance(bits, tuple) else (bits,)
    require(set(bits) <= {1, 8, 16}, f"TIFF of {max(bits)}-bit numbers: save it with 8 or 16 bits, or as FITS")
    require(image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B"), f"TIFF of mode {image.mode}")
    require(not (image.mode.startswith("I") and photometric == 0), "16-bit TIFF whose 0 is white")
    try:
        image.seek(1)
    except EOFError:
        return ""
    image.seek(0)
    return "TIFF of several pages, shown is the first"


def is_grey(pixels: np.ndarray) -> bool:
    """Whether uint8 [H, W] or [H, W, 3] is grey. A few pixels are tested first, which is fast for colour pictures."""
    return pixels.ndim == 2 or all((part[..., :1] == part[..., 1:]).all() for part in (pixels[::8, ::8], pixels))


def blank(square: np.ndarray) -> float:
    """Share of uint8 [H, W] or [H, W, 3] in squares of 16 pixels of one black, grey or white, as missing data have.

    0 if half of the other pixels also equal their neighbour: then JPEG has smoothed the sky.
    """
    bands = [square] if square.ndim == 2 else list(np.moveaxis(square, -1, 0))
    few = np.asarray(sum(band[::8, ::8].astype(np.uint32) << 8 * i for i, band in enumerate(bands)))
    values, counts = np.unique(few, return_counts=True)
    common = int(values[counts.argmax()])
    colour = [common >> 8 * i & 255 for i in range(len(bands))]
    if max(colour) - min(colour) > 2 or squares(few == common, 2).mean() < 0.02:
        return 0.0
    inside = squares(np.logical_and.reduce([band == c for band, c in zip(bands, colour, strict=True)]), 16)
    outside = ~inside[:, 1:]
    equal = np.logical_and.reduce([band[:, 1:] == band[:, :-1] for band in bands])
    return float(inside.mean()) if equal[outside].sum() <= outside.sum() / 2 else 0.0


def rgb(image: Image.Image) -> Image.Image:
    """The image as RGB; without a copy if it is RGB already."""
    return image if image.mode == "RGB" else image.convert("RGB")
