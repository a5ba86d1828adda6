"""What a network sees of an image: which square of the sky, and how FITS data become a picture.

A config sets it (`data.crop`, `share` or `field`, and `fits`). Training reads every image in this way, the workdir
stores it, and prediction with that network uses it unless flags say otherwise.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gz_jax.data import images
from gz_jax.data.stretch import Stretch
from gz_jax.runtime.errors import UserError

FITS = ("planes", "scales", "extension", "extensions", "sky", "noise", "q", "softening")
SETTINGS = ("crop", "share", "field", "pixel_scale", *FITS)


class Sight(NamedTuple):
    """Which square of an image a network sees, and how.

    Attributes:
      crop: its side in pixels; field: its side in arcsec, which needs a pixel scale; share: where both are None, its
        side as a part of the image's shorter side.
      pixel_scale: arcsec per pixel of all images; or `scale_column`, the column of a table that has each image's.
      shown: settings of `FITS` that are not the usual ones, as pairs, so that a Sight can be hashed.
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
        how = dict(self.shown)
        stretch = Stretch(**{name: how.pop(name) for name in Stretch._fields if name in how})
        return {"crop": crop, "share": self.share, "stretch": stretch, **how}

    @property
    def values(self) -> dict[str, Any]:
        """By the names of `SETTINGS` all that decides what is seen and is not usual, ready for JSON."""
        share = self.share if self.crop is None and self.field is None else None
        scale = self.scale_column or self.pixel_scale
        return {"crop": self.crop, "share": share, "field": self.field, "pixel_scale": scale, **dict(self.shown)}

    @property
    def text(self) -> str:
        """In words, for messages: the square, and the settings of FITS that are not the usual ones."""
        square = f"{100 * self.share:.4g} % of the shorter side"
        if self.crop is not None:
            square = f"{self.crop:g} pixels"
        elif self.pixel_scale is not None:
            square = f"{self.field:g} arcsec at {self.pixel_scale:g} arcsec a pixel"
        elif self.field is not None:
            square = f"{self.field:g} arcsec by the pixel scales in column {self.scale_column!r}"
        return "; ".join([square, *(f"FITS {name} {value}" for name, value in self.shown)])


def make(*, fits: Mapping[str, Any], **square: Any) -> Sight:
    """The sight that the fields `data.crop` to `data.pixel_scale` and the group `fits` of a config describe.

    Raises:
      UserError: see `changed`.
    """
    return changed(Sight(share=1.0), ("--config.data.", "--config.fits."), **square, **fits)


def changed(sight: Sight, flags: tuple[str, str] = ("--", "--"), /, **settings: Any) -> Sight:
    """A sight with other settings; None leaves what was before.

    Args:
      flags: what stands before the names in messages, and before those of FITS.
      settings: of `SETTINGS`. A field alone keeps the pixel scale (a number, or the name of a table's column), and a
        pixel scale alone the field. For those of FITS see `shown`.

    Raises:
      UserError: no such setting, a value that cannot be, two sizes of the square, or arcsec without a pixel scale.
    """
    if unknown := sorted(settings.keys() - set(SETTINGS)):
        raise UserError(f"{unknown[0]!r} is not a setting of what a network sees; there are {', '.join(SETTINGS)}.")
    flag, sizes = flags[0], {name: settings.get(name) for name in ("crop", "share", "field")}
    given = {f"{flag}{name}={value:g}": value for name, value in sizes.items() if value is not None}
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: only one of them can say which square is seen; leave the other None.")
    for text, value in given.items():
        least = "positive" if sizes["crop"] is None else "at least 1"
        if not (value > 0 if least == "positive" else value >= 1) or value == math.inf:
            raise UserError(f"{text} shows nothing: it must be {least}.")
        sight = sight._replace(**sizes | {"share": sizes["share"] or 1.0})
    scale, column = (None, None) if sight.field is None else (sight.pixel_scale, sight.scale_column)
    if (other := settings.get("pixel_scale")) is not None:
        (scale,) = numbers([str(other)]) or (None,)
        column = str(other) if scale is None else None
        if scale is not None and not 0 < scale < math.inf:
            raise UserError(f"{flag}pixel_scale={other} must be positive: arcsec per pixel, or a column.")
    if (sight.field is None) != (scale is None and column is None):
        raise UserError(f"{flag}field (arcsec) and {flag}pixel_scale (arcsec per pixel, or a column) go together.")
    how = shown({name: settings.get(name) for name in FITS}, flags[1])
    if how.keys() & {"extension", "extensions"}:  # either takes the place of both
        how = {"extension": None, "extensions": None} | how
    how = {name: v for name, v in (dict(sight.shown) | how).items() if v != getattr(Stretch(), name, None)}
    return sight._replace(pixel_scale=scale, scale_column=column, shown=tuple(sorted(how.items())))


def shown(fits: Mapping[str, Any], flag: str = "--") -> dict[str, Any]:
    """Settings of FITS as `images.read_cutout` and `stretch.Stretch` take them.

    Args:
      fits: of `FITS`, each a text (several values with commas between), a number or a sequence; '' is the usual value,
        and what is None is left out.
      flag: what stands before a name in messages.

    Raises:
      UserError: a value that cannot be.
    """
    found: dict[str, Any] = {}
    for name, value in ((name, value) for name, value in fits.items() if value is not None):
        parts = value.split(",") if isinstance(value, str) else [str(one) for one in np.ravel(value).tolist()]
        text = f"{flag}{name}={','.join(parts)}"
        if parts == [""]:
            found[name] = getattr(Stretch(), name, None)
        elif name == "extension":
            found[name] = _name_or_number(",".join(parts))
        elif name == "extensions":
            found[name] = tuple(map(_name_or_number, parts))
            if len(parts) != 3 or found.get("extension") is not None:
                raise UserError(
                    f"{text}: three names or numbers (red,green,blue), without {flag}extension beside them."
                )
        elif name in ("sky", "noise"):
            found[name] = numbers(parts)
            if not found[name]:
                raise UserError(f"{text}: one number, or three with commas between.")
            images.check_level(name, found[name])
        else:
            one = name in ("q", "softening")
            values = numbers(parts, int if name == "planes" else float)
            if len(values) != (1 if one else 3) or not all(0 <= v < math.inf for v in values) or values == (0,):
                wanted = "a number above 0" if one else "three numbers, none negative, with commas between"
                raise UserError(f"{text}: {wanted}.")
            found[name] = values[0] if one else values
    return found


def numbers(parts: Iterable[str], kind: Callable[[str], Any] = float) -> tuple[Any, ...]:
    """Texts as numbers; () where one of them is none."""
    try:
        return tuple(map(kind, parts))
    except ValueError:
        return ()


def _name_or_number(text: str) -> str | int:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 10 else text
