"""What a network sees of an image, said once: which square of the sky, and how FITS data become a picture.

A config says it (`data.crop`, `share` or `field`, and `fits`), training reads every image by it, the workdir keeps it,
and prediction with that network takes it unless it is told otherwise.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gz_jax.data import images
from gz_jax.data.stretch import Stretch
from gz_jax.runtime.errors import UserError

FITS = ("planes", "scales", "extension", "extensions", "sky", "noise", "q", "softening")


class Sight(NamedTuple):
    """Which square of an image is looked at, and how.

    Attributes:
      crop: its side in pixels; field: its side in arcsec, which needs a pixel scale; share: where both are None, its
        side as a part of the image's shorter side.
      pixel_scale: arcsec per pixel of all images; or `scale_column`, the column of a table that has each image's.
      shown: further arguments of `images.read_cutout` (of FITS data), as pairs, so that a Sight can be hashed.
    """

    crop: float | None = None
    share: float = images.FIELD
    field: float | None = None
    pixel_scale: float | None = None
    scale_column: str | None = None
    shown: tuple[tuple[str, Any], ...] = ()

    def arguments(self, pixel_scale: float | None = None) -> dict[str, Any]:
        """Arguments of `images.read_cutout` for an image whose pixels are `pixel_scale` arcsec wide, if not all are.

        Raises:
          UserError: the square is given in arcsec, and no pixel scale is known.
        """
        crop, scale = self.crop, self.pixel_scale if pixel_scale is None else pixel_scale
        if self.field is not None:
            if scale is None:
                raise UserError(f"the square is {self.field:g} arcsec wide, and the image's pixel scale is not known")
            crop = images.crop_side(scale, self.field)
        return {"crop": crop, "share": self.share, **dict(self.shown)}

    @property
    def text(self) -> str:
        """The square in words, for messages."""
        if self.field is not None:
            return f"{self.field:g} arcsec"
        return f"{self.crop:g} pixels" if self.crop is not None else f"{100 * self.share:.4g} % of the shorter side"


def make(
    *,
    crop: float | None = None,
    share: float | None = None,
    field: float | None = None,
    pixel_scale: str | None = None,
    fits: Mapping[str, Any],
) -> Sight:
    """The sight that the fields `data.crop` to `data.pixel_scale` and the group `fits` of a config describe.

    Args:
      pixel_scale: a number, or the name of a column; fits: see `shown`.

    Raises:
      UserError: a field of `fits` that cannot be, two sizes of the square, or arcsec without a pixel scale.
    """
    sizes = {"crop": crop, "share": share, "field": field}
    given = [f"--config.data.{name}={value:g}" for name, value in sizes.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: one of them says which square is looked at; set the other to None.")
    scale = None if pixel_scale is None else _number(pixel_scale)
    if scale is not None and not 0 < scale < math.inf:
        raise UserError(f"--config.data.pixel_scale={scale:g} must be positive: arcsec per pixel, or a column.")
    if (field is None) != (pixel_scale is None):
        raise UserError("--config.data.field (arcsec) and --config.data.pixel_scale (arcsec per pixel) go together.")
    column = pixel_scale if scale is None else None
    return Sight(crop, share or 1.0, field, scale, column, tuple(sorted(shown(fits, "--config.fits.").items())))


def shown(fits: Mapping[str, Any], flag: str = "--") -> dict[str, Any]:
    """Arguments of `images.read_cutout` that say how FITS data become a picture.

    Args:
      fits: of `FITS`, texts (several values with commas between) or None; q, softening: numbers of `stretch.Stretch`.
      flag: what stands before a name in messages.

    Raises:
      UserError: a value that cannot be.
    """
    found: dict[str, Any] = {}
    if fits.get("planes"):
        found["planes"] = _three(fits["planes"], f"{flag}planes", int)
    stretch = {name: fits[name] for name in ("q", "softening") if fits.get(name) is not None}
    if fits.get("scales"):
        stretch["scales"] = _three(fits["scales"], f"{flag}scales", float)
    if stretch and (made := Stretch(**stretch)) != Stretch():
        found["stretch"] = made
    if fits.get("extension"):
        found["extension"] = _name_or_number(fits["extension"])
    if fits.get("extensions"):
        found["extensions"] = tuple(map(_name_or_number, fits["extensions"].split(",")))
        if len(found["extensions"]) != 3 or fits.get("extension"):
            raise UserError(
                f"{flag}extensions: three names or numbers (red,green,blue), without {flag}extension beside them."
            )
    for name in ("sky", "noise"):
        if text := fits.get(name):
            found[name] = _numbers(text)
            if not found[name]:
                raise UserError(f"{flag}{name}={text}: one number, or three with commas between.")
            images.check_level(name, found[name])
    return found


def _name_or_number(text: str) -> str | int:
    text = text.strip()
    return int(text) if text.isdecimal() else text


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(text: str, kind: Callable[[str], Any] = float) -> tuple[Any, ...]:
    """The numbers of a text, with commas between; () where one of them is none."""
    try:
        return tuple(map(kind, text.split(",")))
    except ValueError:
        return ()


def _three(text: str, flag: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    values = _numbers(text, kind)
    if len(values) != 3 or not all(0 <= value < math.inf for value in values):
        raise UserError(f"{flag}={text}: three numbers, none negative, with commas between.")
    return values
