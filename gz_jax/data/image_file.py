"""An image file of a catalogue, before it is opened, and which part of it is seen."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gz_jax.data import images
from gz_jax.data.images import Source
from gz_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFile:
    """One galaxy's image. (Not a tuple, which NumPy would take apart in an array of objects.)

    Attributes:
      name: the galaxy's id and file, for messages.
      open: gives what `images.read_cutout` reads; how: its arguments that say which square is seen (`sight.Sight`).
    """

    name: str
    open: Callable[[], Source | Sequence[Source]]
    how: Mapping[str, Any]

    def read(self, **what: Any) -> tuple[np.ndarray, int, str]:
        """`images.read_opened`: the picture, its flag and the reason; `what` is size, turned and around."""
        return images.read_opened(lambda: (self.open(), self.how), **what)

    def see(self, **what: Any) -> np.ndarray:
        """`read` of an image that was found usable before.

        Raises:
          UserError: it no longer is.
        """
        shown, flag, reason = self.read(**what)
        if flag == images.BAD:
            raise UserError(f"the image of galaxy {self.name} cannot be read any more: {reason}")
        return shown

    def shown(self, size: int, factor: float = 1.0) -> np.ndarray:
        """For people: `factor` times the square that the network sees, or as much as the image has of it.

        Returns:
          uint8 [size, size, 3].
        """
        crop = self.how["crop"]
        more = {"share": min(1.0, self.how["share"] * factor), "crop": None if crop is None else crop * factor}
        wide = dataclasses.replace(self, how={**self.how, **more})
        picture, flag, reason = wide.read(size=size)
        return self.see(size=size) if flag == images.BAD or "padded" in reason else picture
