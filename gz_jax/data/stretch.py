"""Brightness of FITS pixels as 0 to 255."""

from typing import NamedTuple

import numpy as np

from gz_jax.data.fits import percent, require


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


def lupton(
    above: np.ndarray, noise: float, stretch: Stretch, square: tuple[slice, ...] = (), *, measured: bool = True
) -> tuple[np.ndarray, str]:
    """uint8 [H, W] or [H, W, 3] of float [1 or 3, H, W] above the sky, and a remark; see `Stretch`.

    Args:
      above: in the unit of `noise`, that of the planes' mean, which is 0 where none is known: then the brightest
        pixel of `square` (three slices; by default the whole) is white. It also is where a `measured` noise would make
        more than half of the pixels white.

    Raises:
      UnusableError: no pixel is above the sky.
    """
    mean, note = above[square].mean(0), ""
    white = stretch.softening * np.sinh(stretch.q) / stretch.q
    bright = float((mean > white * noise).mean()) if noise > 0 else 1.0
    if bright > 0.5 and measured:
        note = ("faint" if noise > 0 else "no") + " noise: brightness scaled to the brightest pixel"
        noise = float(mean.max()) / white
    elif bright > 0.25:
        note = f"{percent(bright)} of pixels are white"
    require(noise > 0 and np.isfinite(noise), "every pixel has the same value")
    above = (above / noise).astype(np.float32)
    intensity = np.maximum(above.mean(0), 1e-6)
    gain = np.arcsinh(stretch.q * intensity / stretch.softening) / stretch.q / intensity
    colour = np.maximum(above, 0) * gain
    colour /= np.maximum(colour.max(0), 1)  # pixels that are too bright keep their colour
    shown = np.moveaxis((255 * colour + 0.5).astype(np.uint8), 0, -1)
    return (shown[..., 0] if shown.shape[-1] == 1 else shown), note
