"""Light from galaxy parameters: a cutout that looks like an SDSS gri composite. NumPy, seeded, any size.

The model is evaluated on a grid no coarser than 2 px of the 424 px image; one small matrix per axis then
convolves it with the PSF and integrates over the output's pixels, whatever their size. Galaxies are rendered one
at a time on several threads: a galaxy's arrays then fit the processor's cache, what a galaxy has not costs
nothing, and its bits cannot depend on its neighbours.

Sources: Sersic profiles, Graham & Driver 2005 (PASA 22, 118); the asinh composite, Lupton et al. 2004 (PASP 116,
133). Brightness, colours, grain and noise follow the median profiles and sky corners of Kaggle's images.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.special import erf

from gz_jax.data.synthetic_votes import ARTIFACT, ELLIPTICAL, IRREGULAR, GalaxyParameters, generator

FULL_FIELD, CENTRE_FIELD = 424, 204  # width of Kaggle's image and of its customary central crop, px
_OLD = np.array([1.20, 1.0, 0.68])  # colours of stellar populations, as (i, r, g)
_YOUNG = np.array([0.88, 0.96, 1.20])
_KNOT = np.array([0.75, 0.9, 1.5])
_SKY_NOISE = 0.001  # in units of the flux that saturates the composite
_SOFTENING = 100.0  # of the asinh stretch: radial profiles then run as in Kaggle's images

Plane = np.ndarray  # [G, G] float32 flux
Light = list[Plane]  # three planes: i, r, g


def _sampling(size: int, field: float, psf: float) -> tuple[np.ndarray, np.ndarray]:
    """Grid coordinates [G] of the model (px of the 424 image, centre 0) and the matrix [size, G] that blurs a
    row with the PSF (a Gaussian and its wings) and averages it over each output pixel."""
    step = min(2.0, field / size)
    half = field / 2 + 3 * psf
    grid = (np.arange(2 * math.ceil(half / step)) + 0.5) * step
    grid -= grid.mean()
    edges = np.linspace(-field / 2, field / 2, size + 1)[:, None]
    core, wings = (np.diff(erf((edges - grid) / (math.sqrt(2) * s)), axis=0) for s in (psf, 2.5 * psf))
    matrix = 0.9 * core + 0.1 * wings
    return grid.astype(np.float32), (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


def _colour(lateness: float) -> np.ndarray:
    return _OLD + (_YOUNG - _OLD) * lateness


def _add(light: Light, plane: Plane, colour: np.ndarray) -> None:
    for band, weight in zip(light, colour, strict=True):
        band += np.float32(weight) * plane


def _sersic(radius: Plane, half_light: float, index: float) -> Plane:
    """Sersic profile of unit total flux over a circle; divide by the axis ratio for an ellipse."""
    b = 2 * index - 1 / 3 + 0.009876 / index
    flux = 2 * math.pi * half_light**2 * index * math.exp(b) * b ** (-2 * index) * math.gamma(2 * index)
    return np.exp(-b * ((radius / half_light) ** (1 / index) - 1)) / np.float32(flux)


def _ellipse(x: Plane, y: Plane, angle: float, ratio: float) -> tuple[Plane, Plane]:
    """Coordinates along the major axis and, deprojected, along the minor one."""
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, (y * cos - x * sin) / ratio


def _blobs(x: np.ndarray, y: np.ndarray, centre_x, centre_y, width, flux) -> Plane:
    """Round Gaussians, all at once as a product of two matrices."""
    width = np.maximum(width, 0.5)
    rows = np.exp(-0.5 * ((y - centre_y[:, None]) / width[:, None]) ** 2)
    columns = np.exp(-0.5 * ((x - centre_x[:, None]) / width[:, None]) ** 2) * flux[:, None]
    return (rows.T @ columns).astype(np.float32)


def _patches(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, scale: float, count: int = 32) -> Plane:
    """Smooth noise of unit variance and correlation length `scale`, anchored to the galaxy, not the grid."""
    nodes = (np.arange(count) - (count - 1) / 2) * scale
    weights = [np.exp(-0.5 * ((axis[:, None] - nodes) / (0.7 * scale)) ** 2) for axis in (y, x)]
    weights = [w / np.sqrt((w**2).sum(1, keepdims=True) + 1e-12) for w in weights]
    return (weights[0] @ rng.standard_normal((count, count)) @ weights[1].T).astype(np.float32)


def _tail(x: Plane, y: Plane, length: float, start: float, turn: float, width: float) -> Plane:
    """A curved tidal tail from the origin: leaves at azimuth `start`, bends by `turn` over its length."""
    r = np.sqrt(x**2 + y**2) / np.float32(length)
    off = np.mod(np.arctan2(y, x) - start - turn * r + math.pi, 2 * math.pi) - math.pi
    across = off * r * np.float32(length) / (width * (0.7 + 1.2 * r))
    return np.exp(-0.5 * across**2) * np.exp(-1.8 * r) * np.clip((1.3 - r) * 2, 0, 1) * np.clip(r * 4, 0, 1)


def _spiral(g: GalaxyParameters, r: Plane, azimuth: Plane, ragged: Plane) -> Plane:
    """Arm density: about 0 between arms, about 1 on their crests, faded into bulge or bar inside."""
    m = int(g.arms)
    inner = g.radius * (1.25 if g.bar else 0.3 + 0.7 * g.bulge_fraction)
    winding = np.log(np.maximum(r, 0.5) / np.float32(g.radius)) / math.tan(g.pitch)
    angle = azimuth - g.phase - winding + math.log(inner / g.radius) / math.tan(g.pitch) + ragged
    crest = 2.0 if m <= 2 else 1.6 if m <= 4 else 1.2
    density = np.exp(crest * (np.cos(m * angle) - 1))
    start = np.clip((r / np.float32(inner) - 0.7) / 0.6, 0, 1)
    return density * start * start * (3 - 2 * start)


def _bulge(light: Light, g: GalaxyParameters, flux: float, x: Plane, y: Plane) -> None:
    """A whole elliptical, or the bulge of a disk, which is rounder than the disk and may be boxy."""
    ratio = g.axis_ratio if g.kind == ELLIPTICAL else max(g.axis_ratio, 0.6)
    u, v = _ellipse(x, y, g.position_angle, ratio)
    box = g.boxiness
    r = np.sqrt(u**2 + v**2 + 2) if box <= 2 else (np.abs(u) ** box + np.abs(v) ** box + 2) ** (1 / box)
    profile = _sersic(r, g.bulge_radius, g.sersic) * np.float32(flux * g.bulge_fraction / ratio)
    _add(light, profile, _colour(min(g.lateness * 0.5, 0.35)))


def _disk(light: Light, g: GalaxyParameters, flux: float, x: Plane, y: Plane, axes, rng) -> None:
    """Exponential disk with arms, bar, ring, star-forming knots and a lane of dust."""
    h, q, late = g.radius, max(g.axis_ratio, 0.08), g.lateness
    patches, warp = _patches(*axes, rng, 6.0), _patches(*axes, rng, 22.0)
    u, v = _ellipse(x, y, g.position_angle, q)
    if g.disturbed:
        u, v = u + 0.35 * h * g.disturbed * warp, v + 0.35 * h * g.disturbed * _patches(*axes, rng, 22.0)
    # Seen edge-on, a disk of finite thickness ends in points rather than as an ellipse.
    r = np.sqrt(u**2 + v**2) if q > 0.3 else (np.abs(u) ** 1.85 + np.abs(v) ** 1.85) ** (1 / 1.85)
    central = flux * (1 - g.bulge_fraction) / (2 * math.pi * h**2 * q)
    disk = (
        np.float32(central)
        * np.exp(-np.sqrt(r**2 + 4) / h)
        / (1 + np.exp(np.minimum((r - 4.2 * h) / (0.35 * h), 60)))
    )
    disk *= np.exp((0.30 * g.clumps) * patches)
    if g.bar:  # a bar sweeps the disk about it
        disk *= 1 - 0.5 * g.bar * np.exp(-0.5 * (r / (0.9 * h)) ** 2)
    azimuth = np.arctan2(v, u)
    if g.disturbed:
        disk *= np.clip(1 + 0.8 * g.disturbed * np.cos(azimuth - g.phase) * r / (r + 2 * h), 0.1, None)
    strength, arms = g.arm_strength, 0.0
    if g.arms:
        arms = _spiral(g, r, azimuth, 0.22 * g.clumps * warp)
        # Arms fall off more slowly than the disk between them, and that is where it is bluest.
        boost = strength * arms * np.exp(np.minimum(r / (5 * h), 0.9)) * np.exp(0.35 * g.clumps * patches)
        _add(light, disk * (1 - 0.6 * strength * np.clip(r / h - 0.3, 0, 1)), _colour(late * 0.65))
        _add(light, disk * (1.5 * boost), _colour(min(0.8 * late + 0.25, 1.1)))
    else:
        _add(light, disk, _colour(0.7 * late))
    if g.ring:
        radius, width = g.ring_radius * h, 0.24 * h
        ring = np.exp(-0.5 * ((r - radius) / width) ** 2) * (1 + 0.25 * g.clumps * patches)
        _add(
            light,
            ring * np.float32(central * 0.7 * g.ring * math.exp(-0.5 * g.ring_radius)),
            _colour(late + 0.3),
        )
    if g.bar:
        along, across = _ellipse(u, v, g.phase, 0.24)
        bar = np.exp(-(((along**2 + across**2) / (1.3 * h) ** 2) ** 1.6))
        _add(light, bar * np.float32(central * 1.1 * g.bar), _colour(late * 0.4))
    if g.clumps > 0.3 and q > 0.2:
        _add(light, _knots(g, q, central, axes, rng), _KNOT)
    if g.dust:
        side = 0.6 * h * (q - 0.1)  # the near side hides the bulge
        lane = g.dust * np.exp(-0.5 * ((v * q - side) / (0.15 * h)) ** 2 - (u / (2.4 * h)) ** 4)
        for band, depth in zip(light, (0.75, 1.0, 1.4), strict=True):
            band *= np.exp(-depth * lane)


def _knots(g: GalaxyParameters, q: float, central: float, axes, rng) -> Plane:
    """Star-forming knots along the arms, or anywhere in a disk without."""
    count = int(26 * (g.clumps - 0.2))
    r = g.radius * rng.uniform(0.8, 3.4, count)
    azimuth = rng.uniform(0, 2 * math.pi, count)
    if g.arms:
        inner = g.radius * (1.25 if g.bar else 0.3 + 0.7 * g.bulge_fraction)
        arm = np.round(azimuth / (2 * math.pi) * g.arms) * 2 * math.pi / g.arms
        azimuth = g.phase + arm + np.log(r / inner) / math.tan(g.pitch) + rng.normal(0, 0.12, count)
    u, v = r * np.cos(azimuth), q * r * np.sin(azimuth)
    cos, sin = math.cos(g.position_angle), math.sin(g.position_angle)
    flux = central * 0.28 * g.clumps * rng.exponential(1, count) * np.exp(-0.5 * r / g.radius)
    return _blobs(*axes, u * cos - v * sin, u * sin + v * cos, rng.uniform(1.0, 2.4, count), flux)


def _companion(light: Light, g: GalaxyParameters, flux: float, x: Plane, y: Plane, axes, rng) -> None:
    """A neighbour; in a merger also tidal tails from both and an envelope about the pair."""
    cx, cy = (g.companion_separation * f(g.companion_angle) for f in (math.cos, math.sin))
    size = g.radius * (0.45 + 0.45 * math.sqrt(g.companion_flux))
    angle, ratio = rng.uniform(0, math.pi), rng.uniform(0.45, 0.95)
    colour = _colour(min(max(g.lateness + rng.normal(0, 0.25), -0.3), 1.0))
    u, v = _ellipse(x - np.float32(cx), y - np.float32(cy), angle, ratio)
    r = np.sqrt(u**2 + v**2 + 1)
    share = flux * g.companion_flux
    _add(light, _sersic(r, size, rng.uniform(1.0, 2.6)) * np.float32(share / ratio), colour)
    if not g.is_merger:
        return
    sense = math.copysign(1.0, g.pitch)
    mean = flux / (2 * math.pi * g.radius**2)
    middle = np.hypot(x - cx / 2, y - cy / 2) / np.float32(g.radius + g.companion_separation / 2)
    _add(light, np.exp(-2.4 * middle) * np.float32(0.10 * mean * (0.3 + g.disturbed)), _colour(g.lateness))
    if not g.tails:
        return
    rough = np.exp(0.35 * _patches(*axes, rng, 7.0))
    for ox, oy, away, weight in ((0.0, 0.0, math.pi, 1.0), (cx, cy, 0.0, math.sqrt(g.companion_flux))):
        length = g.radius * (2.6 + 2.6 * g.tails * rng.uniform(0.6, 1.2))
        start = g.companion_angle + away - sense * 0.9 + rng.normal(0, 0.3)
        tail = _tail(
            x - np.float32(ox),
            y - np.float32(oy),
            length,
            start,
            sense * rng.uniform(0.5, 2.0),
            0.3 * g.radius,
        )
        _add(
            light,
            tail * rough * np.float32(mean * 0.75 * g.tails * weight * rng.uniform(0.3, 1.1)),
            _colour(min(g.lateness + 0.2, 1.0)),
        )


def _irregular(light: Light, g: GalaxyParameters, flux: float, x: Plane, y: Plane, axes, rng) -> None:
    """A lumpy body without symmetry."""
    warps = [0.5 * g.radius * _patches(*axes, rng, 20.0) for _ in range(2)]
    u, v = _ellipse(x + warps[0], y + warps[1], g.position_angle, g.axis_ratio)
    body = _sersic(np.sqrt(u**2 + v**2 + 4), 1.35 * g.radius, 0.9) * np.float32(1.6 * flux / g.axis_ratio)
    body = body * np.exp(0.45 * g.clumps * _patches(*axes, rng, 9.0))
    _add(light, body, _colour(g.lateness))
    _add(light, _knots(g._replace(arms=0), g.axis_ratio, 0.6 * float(body.max()), axes, rng), _KNOT)


def _artifact(light: Light, g: GalaxyParameters, x: Plane, y: Plane, psf: float, rng) -> None:
    """A saturated star with its halo and diffraction spikes, or a satellite's trail."""
    tint = np.array([[1.8, 1.0, 0.7], [0.9, 0.9, 1.25], [1.0, 1.0, 1.05]])[rng.integers(3)]
    if g.artifact == 0:
        r = np.sqrt(x**2 + y**2)
        brightness = 10 ** rng.uniform(0.4, 1.6)
        _add(light, brightness * ((1 + (r / (1.6 * psf)) ** 2) ** -2.2 + 0.0015 * np.exp(-r / 28)), tint)
        u, v = _ellipse(x, y, rng.uniform(0, math.pi), 1.0)
        for band in range(3):  # each band's spikes are a little displaced, hence their rainbow
            shift = (band - 1) * 0.5
            for along, across in ((u, v), (v, u)):
                spike = np.exp(-0.5 * ((across - shift) / (0.4 * psf + 0.5)) ** 2) * np.exp(
                    -np.abs(along) / 22
                )
                light[band] += np.float32(0.012 * brightness**0.8 * tint[band]) * spike
    elif g.artifact == 1:
        _, across = _ellipse(x, y, rng.uniform(0, math.pi), 1.0)
        trail = np.exp(-0.5 * ((across - rng.uniform(-25, 25)) / 2.2) ** 2)
        light[rng.integers(3)] += np.float32(rng.uniform(0.006, 0.04)) * trail


def _background(light: Light, g: GalaxyParameters, axes, psf: float, rng) -> None:
    """Faint stars and small galaxies anywhere in the 424 px field, sparing the middle."""
    count = rng.poisson(g.sources)
    place = rng.uniform(-FULL_FIELD / 2, FULL_FIELD / 2, (2, count))
    flux = np.minimum(0.004 * rng.pareto(0.9, count) + 0.002, 0.5)
    far = np.hypot(*place) > 40
    place, flux = place[:, far], flux[far]
    extent = np.where(rng.random(len(flux)) < 0.45, 0.3, psf * rng.uniform(0.3, 1.3, len(flux)))
    angle, hue = rng.uniform(0, math.pi, len(flux)), rng.beta(0.7, 0.9, len(flux))
    tints = np.array([1.75, 0.85, 0.3]) + (np.array([0.75, 0.9, 1.3]) - [1.75, 0.85, 0.3]) * hue[:, None]
    # Three Gaussians in a row make an elongated image; the PSF's blur comes later and keeps the flux.
    for offset in (-0.9, 0.0, 0.9):
        x, y = place[0] + offset * extent * np.cos(angle), place[1] + offset * extent * np.sin(angle)
        width = np.hypot(0.7 * extent, 1.5)
        peak = flux / 3 * (psf**2 + width**2) / width**2
        for band in range(3):
            light[band] += _blobs(*axes, x, y, width, peak * tints[:, band])


def _composite(light: Light) -> np.ndarray:
    """Lupton et al. 2004: stretch the mean, keep the colour where a band would saturate: [S, S, 3] 0..1."""
    rgb = np.stack(light, -1)
    mean = np.maximum(rgb.mean(-1), 1e-6)
    rgb = np.maximum(rgb, 0) * (np.arcsinh(_SOFTENING * mean) / math.asinh(_SOFTENING) / mean)[..., None]
    return rgb / np.maximum(rgb.max(-1, keepdims=True), 1)


def _sky(light: Light, g: GalaxyParameters, step: float, rng) -> None:
    """Sky noise with the grain of the camera's pixels, and a faint pedestal."""
    size = len(light[0])
    grain = math.sqrt((0.62 * g.pixel) ** 2 + step**2 / 12)
    rows = np.arange(size)
    smooth = np.exp(-0.5 * ((rows[:, None] - rows) / (grain / step)) ** 2)
    smooth = (smooth / np.sqrt((smooth**2).sum(1, keepdims=True))).astype(np.float32)
    level = _SKY_NOISE * 0.62 * g.pixel / grain
    frame = g.artifact == 2
    for band in range(3):
        noise = smooth @ rng.standard_normal((size, size), np.float32) @ smooth.T
        photons = np.sqrt(1 + np.maximum(light[band], 0) / np.float32(0.03))
        light[band] += np.float32(level) * noise * photons + np.float32(0.0007)
    if frame:  # beyond the edge of the survey's frame only one band has data
        edge = int(size * rng.uniform(0.55, 0.75))
        light[0][edge:] *= 0.1
        light[2][edge:] *= 0.1
        light[1][edge:] += 0.003


def _render_one(g: Any, size: int, field: float, noise: bool) -> np.ndarray:
    psf = 1.39 * g.pixel  # FWHM 1.3 arcsec over pixels of 0.396 arcsec
    axis, matrix = _sampling(size, field, psf)
    axes = (axis, -axis)  # y points up, rows run down
    x, y = axis[None, :], -axis[:, None]
    light = [np.zeros((len(axis), len(axis)), np.float32) for _ in range(3)]
    rng = generator(g.seed, g.galaxy_id, 2)
    flux = g.surface_brightness * 2 * math.pi * g.radius**2 * max(g.axis_ratio, 0.35)
    if g.kind == ARTIFACT:
        _artifact(light, g, x, y, psf, rng)
    if g.kind == IRREGULAR:
        _irregular(light, g, flux, x, y, axes, rng)
    elif g.kind != ARTIFACT or g.artifact > 0:
        if g.bulge_fraction:
            _bulge(light, g, flux, x, y)
        if g.bulge_fraction < 1:
            _disk(light, g, flux, x, y, axes, rng)
    if g.arc:
        u, v = _ellipse(x, y, g.phase, 1.0)
        arc = np.exp(
            -0.5 * ((np.hypot(u, v) - 1.6 * g.radius) / 1.6) ** 2 - 2 * (np.arctan2(v, u) / 0.6) ** 4
        )
        _add(light, arc * np.float32(0.06 * g.arc), _YOUNG)
    if g.companion_flux:
        _companion(light, g, flux, x, y, axes, rng)
    if g.sources:
        _background(light, g, axes, psf, rng)
    light = [matrix @ band @ matrix.T for band in light]
    if noise:
        _sky(light, g, field / size, generator(g.seed, g.galaxy_id, 3))
    return np.rint(255 * _composite(light)).astype(np.uint8)


def render(
    parameters: GalaxyParameters, *, size: int = 68, field: float = CENTRE_FIELD, noise: bool = True
) -> np.ndarray:
    """Images of galaxies.

    Args:
      parameters: GalaxyParameters of arrays [n].
      size: pixels on a side of the output.
      field: width of the sky shown, in pixels of the 424 px image: 204 is the customary central crop.
      noise: add the sky's noise and pedestal.

    Returns:
      uint8 [n, size, size, 3], RGB, galaxy at the centre. `render(size=68, field=204)` is close to the 3 x 3 box
      average of the middle of `render(size=424, field=424)`, noise apart.
    """
    columns = [np.asarray(column).tolist() for column in parameters]
    galaxies = [GalaxyParameters(*row) for row in zip(*columns, strict=True)]
    images = np.empty((len(galaxies), size, size, 3), np.uint8)

    def fill(i: int) -> None:
        images[i] = _render_one(galaxies[i], size, field, noise)

    with ThreadPoolExecutor(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ) as pool:
        list(pool.map(fill, range(len(galaxies))))
    return images
