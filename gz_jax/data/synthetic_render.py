"""Images of synthetic galaxies that look like SDSS gri composites. NumPy and SciPy, seeded, any size.

The model is evaluated on a grid no coarser than 2 px of the 424 px image; one small matrix per axis then
convolves it with the PSF and integrates over the output's pixels, whatever their size. Galaxies are rendered one
at a time on several threads: a galaxy's arrays then fit the processor's cache, what a galaxy has not costs
nothing, and its bits cannot depend on its neighbours.

The composite follows Lupton et al. 2004 (PASP 116, 133). Brightness, colours, grain and noise follow the median
profiles and the sky in the corners of Kaggle's images.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.sparse import csr_array
from scipy.special import erf

from gz_jax.data.synthetic_light import Axes, Light, Plane, add, add_galaxy, banded, blobs, ellipse, resample
from gz_jax.data.synthetic_votes import ARTIFACT, Galaxies, Galaxy, generator
from gz_jax.runtime.progress import Bar

FULL_FIELD, CENTRE_FIELD = 424, 204  # width of Kaggle's image and of its customary central crop, px
_SKY_NOISE = 0.0012  # in units of the flux that saturates the composite
_SOFTENING = 100.0  # of the asinh stretch: radial profiles then run as in Kaggle's images


def _sampling(size: int, field: float, psf: float) -> tuple[np.ndarray, csr_array]:
    """Grid coordinates [G] of the model (px of the 424 image, centre 0) and the matrix [size, G] that blurs a
    row with the PSF (a Gaussian and its wings) and averages it over each output pixel."""
    step = min(2.0, field / size)
    half = field / 2 + 3 * psf
    grid = (np.arange(2 * math.ceil(half / step)) + 0.5) * step
    grid -= grid.mean()
    edges = np.linspace(-field / 2, field / 2, size + 1)[:, None]
    core, wings = (np.diff(erf((edges - grid) / (math.sqrt(2) * s)), axis=0) for s in (psf, 2.5 * psf))
    matrix = 0.9 * core + 0.1 * wings
    return grid.astype(np.float32), banded(matrix / matrix.sum(1, keepdims=True))


def _artifact(light: Light, g: Galaxy, x: Plane, y: Plane, psf: float, rng: np.random.Generator) -> None:
    """A saturated star with its halo and diffraction spikes, or a satellite's trail."""
    tint = np.array([[1.8, 1.0, 0.7], [0.9, 0.9, 1.25], [1.0, 1.0, 1.05]])[rng.integers(3)]
    if g.artifact == 0:
        r = np.sqrt(x**2 + y**2)
        brightness = 10 ** rng.uniform(0.4, 1.6)
        add(light, brightness * ((1 + (r / (1.6 * psf)) ** 2) ** -2.2 + 0.0015 * np.exp(-r / 28)), tint)
        u, v = ellipse(x, y, rng.uniform(0, math.pi), 1.0)
        for band in range(3):  # each band's spikes are slightly displaced, so they have rainbow colours
            shift = (band - 1) * 0.5
            for along, across in ((u, v), (v, u)):
                spike = np.exp(-0.5 * ((across - shift) / (0.4 * psf + 0.5)) ** 2) * np.exp(-np.abs(along) / 22)
                light[band] += np.float32(0.012 * brightness**0.8 * tint[band]) * spike
    elif g.artifact == 1:
        _, across = ellipse(x, y, rng.uniform(0, math.pi), 1.0)
        trail = np.exp(-0.5 * ((across - rng.uniform(-25, 25)) / 2.2) ** 2)
        light[rng.integers(3)] += np.float32(rng.uniform(0.006, 0.04)) * trail


def _background(light: Light, g: Galaxy, axes: Axes, psf: float, rng: np.random.Generator) -> None:
    """Faint stars and small galaxies anywhere in the 424 px field, but not in the middle."""
    count = rng.poisson(g.sources)
    place = rng.uniform(-FULL_FIELD / 2, FULL_FIELD / 2, (2, count))
    flux = np.minimum(0.004 * rng.pareto(0.9, count) + 0.002, 0.5)
    far = np.hypot(*place) > 40
    place, flux = place[:, far], flux[far]
    extent = np.where(rng.random(len(flux)) < 0.45, 0.3, psf * rng.uniform(0.3, 1.3, len(flux)))
    angle, hue = rng.uniform(0, math.pi, len(flux)), rng.beta(0.7, 0.9, len(flux))
    tints = np.array([1.75, 0.85, 0.3]) + (np.array([0.75, 0.9, 1.3]) - [1.75, 0.85, 0.3]) * hue[:, None]
    # Three Gaussians in a row make an elongated image; the PSF's blur comes later and keeps the flux.
    offset = np.array([-0.9, 0.0, 0.9])[:, None] * extent
    x, y = place[0] + offset * np.cos(angle), place[1] + offset * np.sin(angle)
    width = np.hypot(0.7 * extent, 1.5)
    peak = np.tile((flux / 3 * (psf**2 + width**2) / width**2)[:, None] * tints, (3, 1))
    sources = blobs(*axes, x.ravel(), y.ravel(), np.tile(width, 3), peak)
    for band in range(3):
        light[band] += sources[:, band]


def _composite(light: Light) -> np.ndarray:
    """Lupton et al. 2004: stretch the mean, keep the colour where a band would saturate: [S, S, 3] 0..1."""
    red, green, blue = (np.maximum(band, 0) for band in light)
    mean = np.maximum(sum(light) / 3, np.float32(1e-6))
    stretch = np.arcsinh(_SOFTENING * mean) / (math.asinh(_SOFTENING) * mean)
    brightest = np.maximum(np.maximum(red, green), blue) * stretch
    return np.stack([red, green, blue], -1) * (stretch / np.maximum(brightest, 1))[..., None]


def _sky(light: Light, g: Galaxy, step: float, rng: np.random.Generator) -> None:
    """Sky noise with the grain of the camera's pixels, and a faint pedestal."""
    size = len(light[0])
    grain = math.sqrt((0.62 * g.pixel) ** 2 + step**2 / 12)
    rows = np.arange(size)
    smooth = np.exp(-0.5 * ((rows[:, None] - rows) / (grain / step)) ** 2)
    smooth = banded(smooth / np.sqrt((smooth**2).sum(1, keepdims=True)))
    level = _SKY_NOISE * 0.62 * g.pixel / grain
    edge = size // 2 + int(rng.uniform(15, 60) / step)
    for band in range(3):
        noise = resample(smooth, rng.standard_normal((size, size), np.float32), smooth)
        photons = np.sqrt(1 + np.maximum(light[band], 0) / np.float32(0.02))
        light[band] += np.float32(level) * noise * photons + np.float32(0.0007)
    if g.artifact == 2:  # beyond the edge of the survey's frame only one band has data
        light[0][edge:] *= 0.1
        light[2][edge:] *= 0.1
        light[1][edge:] += 0.003


def _render_one(g: Galaxy, size: int, field: float, noise: bool) -> np.ndarray:
    psf = 1.39 * g.pixel  # FWHM 1.3 arcsec over pixels of 0.396 arcsec
    axis, matrix = _sampling(size, field, psf)
    axes = (axis, -axis)  # y points up, rows run down
    x, y = axis[None, :], -axis[:, None]
    light = [np.zeros((len(axis), len(axis)), np.float32) for _ in range(3)]
    rng = generator(g.seed, g.galaxy_id, 2)
    if g.kind == ARTIFACT:
        _artifact(light, g, x, y, psf, rng)
    add_galaxy(light, g, x, y, axes, rng)
    if g.sources:
        _background(light, g, axes, psf, rng)
    light = [resample(matrix, band, matrix) for band in light]
    if noise:
        _sky(light, g, field / size, generator(g.seed, g.galaxy_id, 3))
    return np.rint(255 * _composite(light)).astype(np.uint8)


def render(
    parameters: Galaxies, *, size: int = 68, field: float = CENTRE_FIELD, noise: bool = True, bar: Bar | None = None
) -> np.ndarray:
    """Images of galaxies.

    Args:
      parameters: GalaxyParameters of arrays [n].
      size: pixels on a side of the output.
      field: width of the sky shown, in pixels of the 424 px image: 204 is the customary central crop.
      noise: add the sky's noise and pedestal.
      bar: counts the galaxies.

    Returns:
      uint8 [n, size, size, 3], RGB, galaxy at the centre. `render(size=68, field=204)` is close to the 3 x 3 box
      average of the middle of `render(size=424, field=424)`, noise apart.
    """
    columns = [np.asarray(column).tolist() for column in parameters]
    galaxies = [Galaxy(*row) for row in zip(*columns, strict=True)]
    images = np.empty((len(galaxies), size, size, 3), np.uint8)

    def fill(i: int) -> None:
        images[i] = _render_one(galaxies[i], size, field, noise)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(len(galaxies))):
            if bar:
                bar.advance()
    return images
