"""Measure the level of the sky and the noise in a FITS image, and find pixels without data."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SAMPLES = 250_000  # pixels that tell the sky well enough
RARE = 0.001  # a repeated value in a smaller share of the pixels, or of such squares, is ignored
BLOCK = 12  # pixels across; noise and JPEG's blocks of 8 do not make squares of one value this large


class Sky(NamedTuple):
    """level: float [n], of each plane; noise: of the planes' mean, 0 where none could be measured; missing: for each
    plane bool [H, W], True where one repeated value stands for no data, or None.
    """

    level: np.ndarray
    noise: float
    missing: tuple[np.ndarray | None, ...]


def measure(
    pixels: np.ndarray,
    scales: Sequence[float],
    level: Sequence[float] | None = None,
    noise: Sequence[float] | None = None,
) -> Sky:
    """Sky, noise and missing pixels of planes [n, H, W] of any dtype; NaN and infinity are no data.

    The level is each plane's clipped median, the noise that of the planes' mean (`_noise`), after the planes were
    multiplied by their scale. In an image without noise no repeated value is taken for missing data.

    Args:
      scales: n numbers. level, noise: n numbers each in the file's unit, used instead of what would be measured;
        the noise of different planes is taken as independent.
    """
    missing = tuple(map(_no_data, pixels))
    sky = _measure(pixels, missing, scales, level, noise)
    if sky.noise > 0 or all(mask is None for mask in missing):
        return sky
    whole = tuple(
        mask if mask is not None and np.ptp(plane[np.isfinite(plane)]) == 0 else None
        for plane, mask in zip(pixels, missing, strict=True)
    )
    return _measure(pixels, whole, scales, level, noise)


def _measure(
    pixels: np.ndarray,
    missing: tuple[np.ndarray | None, ...],
    scales: Sequence[float],
    level: Sequence[float] | None,
    noise: Sequence[float] | None,
) -> Sky:
    from astropy.stats import sigma_clipped_stats

    step = _step(pixels[0])
    samples = _sampled(pixels, missing, scales, np.s_[::step, ::step])
    there = np.array([np.isfinite(plane).any() for plane in samples])
    if level is None:
        valid = (plane[np.isfinite(plane)] for plane in samples)
        levels = np.array([sigma_clipped_stats(v, maxiters=5)[1] if v.size else 0 for v in valid], samples.dtype)
    else:
        levels = np.array(level, samples.dtype) * np.array(scales, samples.dtype)
    if noise is not None:
        total = np.hypot.reduce(np.array(noise, float) * np.array(scales, float) * there)
        return Sky(levels, float(total) / len(pixels), missing)
    rows = _sampled(
        pixels, missing, scales, np.s_[:: 2 * step * step, :SAMPLES]
    )  # whole rows, for differences of neighbours
    samples[~there] = rows[~there] = 0  # a plane without data adds nothing
    rounding = float(np.spacing(np.abs(levels).max())) if pixels.dtype.kind == "f" else 0.0
    if np.isfinite(samples.mean(0)).any():
        return Sky(levels, _noise(samples, rows, rounding), missing)
    each = [_noise(samples[i : i + 1], rows[i : i + 1], rounding) for i in range(len(pixels))]
    return Sky(levels, float(np.hypot.reduce(each)) / len(pixels), missing)  # each pixel lacks a band


def _step(plane: np.ndarray) -> int:
    return max(1, int(np.sqrt(plane.size / SAMPLES)))


def _sampled(
    pixels: np.ndarray, missing: tuple[np.ndarray | None, ...], scales: Sequence[float], part: tuple[slice, slice]
) -> np.ndarray:
    """Some rows and columns of the scaled planes, in float32 or float64, NaN where data are missing."""
    kind = np.result_type(pixels.dtype, np.float32)
    samples = pixels[(slice(None), *part)].astype(kind)
    for plane, mask, scale in zip(samples, missing, scales, strict=True):
        plane *= kind.type(scale)
        if mask is not None:
            plane[mask[part]] = np.nan
    return samples


def _noise(samples: np.ndarray, rows: np.ndarray, rounding: float) -> float:
    """Noise of the mean of planes, of which are given samples [n, ...] and whole rows [n, r, W]; 0 if it has none.

    It is the clipped spread of the samples, unless smooth structure makes that: then the pixels a few apart differ less
    than the spread says. Their second differences (DER_SNR: Stoehr et al. 2008, ASPC 394, 505; here 4 pixels
    apart, where the noise of resampled images with a FWHM of 3 pixels is nearly independent) bound the noise.

    There is no noise at all where neighbours differ by what is rounded off, or where the image is smooth:
    fourth differences grow 16-fold from 1 to 2 pixels in any smooth image, 1-fold in white noise, 6-fold in noise of
    FWHM 3. Noise of a FWHM of 6 pixels and more is as smooth, but has a symmetric distribution, and pixels 4 apart
    differ by more than a quarter of the spread.
    """
    from astropy.stats import sigma_clipped_stats

    planes, mean, rows = len(samples), samples.mean(0), rows.mean(0)
    mean = mean[np.isfinite(mean)]
    if not mean.size:
        return 0.0
    _, middle, spread = (float(x) for x in sigma_clipped_stats(mean, maxiters=5, stdfunc="mad_std"))
    if not (spread > 0 and np.isfinite(spread)):
        return 0.0
    # The usual step between values: 1 in counts, next to nothing in floating point.
    step = planes * float(np.percentile(np.diff(np.unique(mean)), 10))
    if spread < 2 * step:
        return spread  # too few steps to tell noise from structure
    sky = np.where(np.abs(rows - middle) <= 3 * spread, rows - middle, np.nan)
    fine, coarse = (_roughness(sky, (1, -4, 6, -4, 1), lag) for lag in (1, 2))
    apart = _roughness(sky, (-1, 2, -1), 4)
    if np.isnan([fine, coarse, apart]).any():
        return spread
    low, half, high = np.percentile(sky[np.isfinite(sky)], (16, 50, 84))
    skewness = (high + low - 2 * half) / (high - low or 1)
    structure = float(np.clip(max(10 * skewness - 1, 3.5 - 10 * apart / spread), 0, 1))  # 0 is sky alone
    if fine <= 2 * rounding or (structure > 0.5 and (coarse > 12 * fine or fine <= 0.6 * step / planes**0.5)):
        return 0.0
    return spread - structure * max(0.0, spread - 1.25 * apart)


def _roughness(rows: np.ndarray, weights: Sequence[int], lag: int) -> float:
    """Robust sigma of a difference along rows [r, W], scaled to that of the pixels in white noise; NaN if too few."""
    from astropy.stats import mad_std

    width = rows.shape[1] - (len(weights) - 1) * lag
    if width < 1:
        return float("nan")
    total = np.asarray(sum(w * rows[:, i * lag : i * lag + width] for i, w in enumerate(weights)))
    total = total[np.isfinite(total)]
    return float(mad_std(total) / np.sqrt(np.square(weights).sum())) if total.size >= 100 else float("nan")


def _no_data(plane: np.ndarray) -> np.ndarray | None:
    """bool [H, W]: where values repeat as noise does not make them, so that they stand for no data; None: nowhere."""
    step = _step(plane)
    samples = plane[::step, ::step].astype(np.result_type(plane.dtype, np.float32))
    samples = samples[np.isfinite(samples)]
    values, counts = np.unique(samples, return_counts=True)
    if len(values) == 1:
        same = plane == values[0]
        return same if (same | ~np.isfinite(plane)).all() else None
    often = np.flatnonzero(counts >= max(9, RARE * samples.size))
    masks = []
    for value in values[often[np.argsort(counts[often])[-3:]]]:
        mask = _stands_for_nothing(plane, value, samples)
        masks += [] if mask is None else [mask]
    return np.logical_or.reduce(masks) if masks else None


def _stands_for_nothing(plane: np.ndarray, value: float, samples: np.ndarray) -> np.ndarray | None:
    """Where `value` is no data. Not so: sky of 0 photons, cores at the detector's limit, a sky cut off at 0."""
    from astropy.stats import mad_std

    same = plane == value
    rest = samples[samples != value]
    middle, spread = np.median(rest), mad_std(rest)
    lowest, highest = rest.min(), rest.max()
    cut_off = (value < lowest <= value + spread) or (value > highest >= value - spread)
    ordered = np.sort(plane[:: max(1, len(plane) // 64), :4096], axis=1)  # rows: compression has its own steps in each
    others = ordered[:, 1:] != value
    repeated = (ordered[:, 1:] == ordered[:, :-1])[others].sum() / max(1, others.sum())
    codes = not cut_off and repeated < 0.3  # else a pixel may well have this value by chance
    square = squares(same, BLOCK)
    if square.mean() < RARE:
        return same if codes else None
    near = _run(np.pad(square, 2), 5, np.logical_or) & ~square & np.isfinite(plane)
    if near.any() and same[near].mean() > 0.7:  # round the squares it is as common: chance makes them
        return None
    equal, outside = plane[:, 1:] == plane[:, :-1], ~square[:, 1:]
    if equal[outside].sum() > 0.4 * outside.sum():
        return None  # the sky is as smooth elsewhere: it has been a JPEG
    edge = plane[near & ~same]
    if edge.size:
        border = np.median(edge)
        if value >= np.percentile(rest, 99.5) and border > middle + 5 * spread:
            return None  # saturated
        if value <= np.percentile(rest, 1) and border - value < 0.6 * (middle - value):
            return None  # an object that was cut out fades towards it: it is the sky
    return same if codes else square


def squares(mask: np.ndarray, side: int) -> np.ndarray:
    """bool [H, W]: the parts of a mask that are covered by squares of `side` pixels which lie in it."""
    if min(mask.shape) < side:
        return np.zeros_like(mask)
    return _run(np.pad(_run(mask, side, np.logical_and), side - 1), side, np.logical_or)


def _run(mask: np.ndarray, length: int, combine: np.ufunc) -> np.ndarray:
    """`length` neighbours combined along each axis, which gets shorter by length - 1."""
    for _ in range(2):
        done = 1
        while done < length:
            step = min(done, length - done)
            mask, done = combine(mask[:-step], mask[step:]), done + step
        mask = mask.T
    return mask
