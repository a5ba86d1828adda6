"""The light of a synthetic galaxy: planes of flux on the sky, added component by component.

Source: Sersic profiles, Graham & Driver 2005 (PASA 22, 118). In every function `g` is one galaxy's parameters as
plain numbers, `x` [1, G] and `y` [G, 1] are the sky's coordinates in pixels of the 424 px image, y upwards, and
`axes` the same two as [G].
"""

import math

import numpy as np
from scipy.sparse import csr_array

from gz_jax.data.synthetic_votes import ARTIFACT, ELLIPTICAL, IRREGULAR, Galaxy

_OLD = np.array([1.20, 1.0, 0.68])  # colours of stellar populations, as (i, r, g)
_YOUNG = np.array([0.88, 0.96, 1.20])
_KNOT = np.array([0.75, 0.9, 1.5])

Plane = np.ndarray  # [G, G] float32 flux
Light = list[Plane]  # three planes: i, r, g
Axes = tuple[np.ndarray, np.ndarray]
Rng = np.random.Generator


def banded(matrix: np.ndarray) -> csr_array:
    """The same without far tails. Not computed by BLAS: its threads would slow ours down, and may change the bits."""
    keep = matrix > 1e-5 * matrix.max(initial=0)
    starts = np.concatenate([[0], np.cumsum(keep.sum(1))]).astype(np.int32)
    return csr_array((matrix[keep].astype(np.float32), np.nonzero(keep)[1].astype(np.int32), starts), matrix.shape)


def resample(rows: csr_array, plane: Plane, columns: csr_array) -> Plane:
    """rows @ plane @ columns.T"""
    return np.ascontiguousarray((columns @ np.ascontiguousarray((rows @ plane).T)).T)


def _colour(lateness: float) -> np.ndarray:
    return _OLD + (_YOUNG - _OLD) * lateness


def add(light: Light, plane: Plane, colour: np.ndarray) -> None:
    for band, weight in zip(light, colour, strict=True):
        band += np.float32(weight) * plane


def _sersic(radius: Plane, half_light: float, index: float) -> Plane:
    """Sersic profile of unit total flux over a circle; divide by the axis ratio for an ellipse."""
    b = 2 * index - 1 / 3 + 0.009876 / index
    flux = 2 * math.pi * half_light**2 * index * math.exp(b) * b ** (-2 * index) * math.gamma(2 * index)
    return np.exp(-b * ((radius / half_light) ** (1 / index) - 1)) / np.float32(flux)


def ellipse(x: Plane, y: Plane, angle: float, ratio: float) -> tuple[Plane, Plane]:
    """Coordinates along the major axis and, deprojected, along the minor one."""
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, (y * cos - x * sin) / ratio


def blobs(
    x: np.ndarray, y: np.ndarray, centre_x: np.ndarray, centre_y: np.ndarray, width: np.ndarray, flux: np.ndarray
) -> np.ndarray:
    """Round Gaussians of peak flux [K, bands], all at once as a product of two matrices: [G, bands, G]."""
    rows = np.exp(-0.5 * ((y - centre_y[:, None]) / width[:, None]) ** 2)
    columns = np.exp(-0.5 * ((x - centre_x[:, None]) / width[:, None]) ** 2)
    columns = (flux[:, :, None] * columns[:, None, :]).astype(np.float32)
    return (banded(rows.T) @ columns.reshape(len(flux), flux.shape[1] * len(x))).reshape(len(y), -1, len(x))


def _patches(x: np.ndarray, y: np.ndarray, rng: Rng, scale: float, count: int = 32) -> Plane:
    """Smooth noise of unit variance and correlation length `scale`, anchored to the galaxy, not the grid."""
    nodes = (np.arange(count) - (count - 1) / 2) * scale
    weights = [np.exp(-0.5 * ((axis[:, None] - nodes) / (0.7 * scale)) ** 2) for axis in (y, x)]
    rows, columns = (banded(w / np.sqrt((w**2).sum(1, keepdims=True) + 1e-12)) for w in weights)
    return resample(rows, rng.standard_normal((count, count), np.float32), columns)


def _tail(x: Plane, y: Plane, length: float, start: float, turn: float, width: float) -> Plane:
    """A curved tidal tail from the origin: leaves at azimuth `start`, bends by `turn` over its length."""
    r = np.sqrt(x**2 + y**2) / np.float32(length)
    off = np.mod(np.arctan2(y, x) - start - turn * r + math.pi, 2 * math.pi) - math.pi
    across = off * r * np.float32(length) / (width * (0.7 + 1.2 * r))
    return np.exp(-0.5 * across**2) * np.exp(-1.8 * r) * np.clip((1.3 - r) * 2, 0, 1) * np.clip(r * 4, 0, 1)


def _arm_start(g: Galaxy) -> float:
    """Radius at which arms leave the bar's ends or the bulge, at azimuth `phase`."""
    return g.radius * (1.25 if g.bar else 0.3 + 0.7 * g.bulge_fraction)


def _spiral(g: Galaxy, r: Plane, azimuth: Plane, ragged: Plane) -> Plane:
    """Arm density: about 0 between arms, about 1 on their crests, faded into bulge or bar inside."""
    m = int(g.arms)
    inner = _arm_start(g)
    winding = np.log(np.maximum(r, 0.5) / np.float32(g.radius)) / math.tan(g.pitch)
    angle = azimuth - g.phase - winding + math.log(inner / g.radius) / math.tan(g.pitch) + ragged
    crest = 2.0 if m <= 2 else 1.6 if m <= 4 else 1.2
    density = np.exp(crest * (np.cos(m * angle) - 1))
    start = np.clip((r / np.float32(inner) - 0.7) / 0.6, 0, 1)
    return density * start * start * (3 - 2 * start)


def _add_bulge(light: Light, g: Galaxy, flux: float, x: Plane, y: Plane) -> None:
    """A whole elliptical, or the bulge of a disk, which is rounder than the disk and may be boxy."""
    ratio = g.axis_ratio if g.kind == ELLIPTICAL else max(g.axis_ratio, 0.6)
    u, v = ellipse(x, y, g.position_angle, ratio)
    box = g.boxiness
    r = np.sqrt(u**2 + v**2 + 2) if box <= 2 else (np.abs(u) ** box + np.abs(v) ** box + 2) ** (1 / box)
    profile = _sersic(r, g.bulge_radius, g.sersic) * np.float32(flux * g.bulge_fraction / ratio)
    add(light, profile, _colour(min(g.lateness * 0.5, 0.35)))


def _add_disk(light: Light, g: Galaxy, flux: float, x: Plane, y: Plane, axes: Axes, rng: Rng) -> None:
    """Exponential disk with arms, bar, ring, star-forming knots and a lane of dust."""
    h, q, late = g.radius, max(g.axis_ratio, 0.08), g.lateness
    patches, warp = _patches(*axes, rng, 6.0), _patches(*axes, rng, 22.0)
    u, v = ellipse(x, y, g.position_angle, q)
    if g.disturbed:
        u, v = u + 0.35 * h * g.disturbed * warp, v + 0.35 * h * g.disturbed * _patches(*axes, rng, 22.0)
    # Seen edge-on, a disk of finite thickness ends in points rather than as an ellipse.
    r = np.sqrt(u**2 + v**2) if q > 0.3 else (np.abs(u) ** 1.85 + np.abs(v) ** 1.85) ** (1 / 1.85)
    central = flux * (1 - g.bulge_fraction) / (2 * math.pi * h**2 * q)
    edge = 1 + np.exp(np.minimum((r - 4.2 * h) / (0.35 * h), 60))
    disk = np.float32(central) * np.exp(-np.sqrt(r**2 + 4) / h) / edge * np.exp((0.3 * g.clumps) * patches)
    if g.bar:  # a bar empties the disk around it
        disk *= 1 - 0.5 * g.bar * np.exp(-0.5 * (r / (0.9 * h)) ** 2)
    azimuth = np.arctan2(v, u)
    if g.disturbed:
        disk *= np.clip(1 + 0.8 * g.disturbed * np.cos(azimuth - g.phase) * r / (r + 2 * h), 0.1, None)
    strength = g.arm_strength
    if g.arms:
        arms = _spiral(g, r, azimuth, 0.22 * g.clumps * warp)
        # Arms fall off more slowly than the disk between them, and that is where it is bluest.
        boost = strength * arms * np.exp(np.minimum(r / (5 * h), 0.9)) * np.exp(0.35 * g.clumps * patches)
        add(light, disk * (1 - 0.6 * strength * np.clip(r / h - 0.3, 0, 1)), _colour(late * 0.65))
        add(light, disk * (1.5 * boost), _colour(min(0.8 * late + 0.25, 1.1)))
    else:
        add(light, disk, _colour(0.7 * late))
    if g.ring:
        radius, width = g.ring_radius * h, 0.24 * h
        ring = np.exp(-0.5 * ((r - radius) / width) ** 2) * (1 + 0.25 * g.clumps * patches)
        ring *= np.float32(0.7 * central * g.ring * math.exp(-0.5 * g.ring_radius))
        add(light, ring, _colour(late + 0.3))
    if g.bar:
        along, across = ellipse(u, v, g.phase, 0.24)
        bar = np.exp(-(((along**2 + across**2) / (1.3 * h) ** 2) ** 1.6))
        add(light, bar * np.float32(central * 1.1 * g.bar), _colour(late * 0.4))
    if g.clumps > 0.3 and q > 0.2:
        add(light, _knots(g, q, central, axes, rng), _KNOT)
    if g.dust:
        side = 0.6 * h * (q - 0.1)  # the near side hides the bulge
        lane = g.dust * np.exp(-0.5 * ((v * q - side) / (0.15 * h)) ** 2 - (u / (2.4 * h)) ** 4)
        for band, depth in zip(light, (0.75, 1.0, 1.4), strict=True):
            band *= np.exp(-depth * lane)


def _knots(g: Galaxy, q: float, central: float, axes: Axes, rng: Rng) -> Plane:
    """Star-forming knots along the arms, or anywhere in a disk without."""
    count = int(26 * (g.clumps - 0.2))
    r = g.radius * rng.uniform(0.8, 3.4, count)
    azimuth = rng.uniform(0, 2 * math.pi, count)
    if g.arms:
        inner = _arm_start(g)
        arm = np.round(azimuth / (2 * math.pi) * g.arms) * 2 * math.pi / g.arms
        azimuth = g.phase + arm + np.log(r / inner) / math.tan(g.pitch) + rng.normal(0, 0.12, count)
    u, v = r * np.cos(azimuth), q * r * np.sin(azimuth)
    cos, sin = math.cos(g.position_angle), math.sin(g.position_angle)
    flux = central * 0.28 * g.clumps * rng.exponential(1, count) * np.exp(-0.5 * r / g.radius)
    place, width = (u * cos - v * sin, u * sin + v * cos), rng.uniform(1.0, 2.4, count)
    return blobs(*axes, *place, width, flux[:, None])[:, 0]


def _add_companion(light: Light, g: Galaxy, flux: float, x: Plane, y: Plane, axes: Axes, rng: Rng) -> None:
    """A neighbour; in a merger also tidal tails from both and an envelope about the pair."""
    cx, cy = (g.companion_separation * f(g.companion_angle) for f in (math.cos, math.sin))
    size = g.radius * (0.45 + 0.45 * math.sqrt(g.companion_flux))
    angle, ratio = rng.uniform(0, math.pi), rng.uniform(0.45, 0.95)
    colour = _colour(min(max(g.lateness + rng.normal(0, 0.25), -0.3), 1.0))
    u, v = ellipse(x - np.float32(cx), y - np.float32(cy), angle, ratio)
    r = np.sqrt(u**2 + v**2 + 1)
    share = flux * g.companion_flux
    add(light, _sersic(r, size, rng.uniform(1.0, 2.6)) * np.float32(share / ratio), colour)
    if not g.is_merger:
        return
    sense = math.copysign(1.0, g.pitch)
    mean = flux / (2 * math.pi * g.radius**2)
    middle = np.hypot(x - cx / 2, y - cy / 2) / np.float32(g.radius + g.companion_separation / 2)
    add(light, np.exp(-2.4 * middle) * np.float32(0.10 * mean * (0.3 + g.disturbed)), _colour(g.lateness))
    if not g.tails:
        return
    rough = np.exp(0.35 * _patches(*axes, rng, 7.0))
    for ox, oy, away, weight in ((0.0, 0.0, math.pi, 1.0), (cx, cy, 0.0, math.sqrt(g.companion_flux))):
        length = g.radius * (2.6 + 2.6 * g.tails * rng.uniform(0.6, 1.2))
        start = g.companion_angle + away - sense * 0.9 + rng.normal(0, 0.3)
        turn = sense * rng.uniform(0.5, 2.0)
        tail = _tail(x - np.float32(ox), y - np.float32(oy), length, start, turn, 0.3 * g.radius)
        bright = mean * 0.75 * g.tails * weight * rng.uniform(0.3, 1.1)
        add(light, tail * rough * np.float32(bright), _colour(min(g.lateness + 0.2, 1.0)))


def _add_irregular(light: Light, g: Galaxy, flux: float, x: Plane, y: Plane, axes: Axes, rng: Rng) -> None:
    """A lumpy body without symmetry."""
    warps = [0.5 * g.radius * _patches(*axes, rng, 20.0) for _ in range(2)]
    u, v = ellipse(x + warps[0], y + warps[1], g.position_angle, g.axis_ratio)
    body = _sersic(np.sqrt(u**2 + v**2 + 4), 1.1 * g.radius, 0.9) * np.float32(1.2 * flux / g.axis_ratio)
    body = body * np.exp(0.45 * g.clumps * _patches(*axes, rng, 9.0))
    add(light, body, _colour(g.lateness))
    add(light, _knots(g._replace(arms=0), g.axis_ratio, 0.6 * float(body.max()), axes, rng), _KNOT)


def add_galaxy(light: Light, g: Galaxy, x: Plane, y: Plane, axes: Axes, rng: Rng) -> None:
    """All components of the galaxy, without the light of a saturated star."""
    flux = g.surface_brightness * 2 * math.pi * g.radius**2 * max(g.axis_ratio, 0.35)
    if g.kind == IRREGULAR:
        _add_irregular(light, g, flux, x, y, axes, rng)
    elif g.kind != ARTIFACT or g.artifact > 0:
        if g.bulge_fraction:
            _add_bulge(light, g, flux, x, y)
        if g.bulge_fraction < 1:
            _add_disk(light, g, flux, x, y, axes, rng)
    if g.arc:  # a distant galaxy, lensed
        u, v = ellipse(x, y, g.phase, 1.0)
        arc = np.exp(-0.5 * ((np.hypot(u, v) - 1.6 * g.radius) / 1.6) ** 2 - 2 * (np.arctan2(v, u) / 0.6) ** 4)
        add(light, arc * np.float32(0.06 * g.arc), _YOUNG)
    if g.companion_flux:
        _add_companion(light, g, flux, x, y, axes, rng)
