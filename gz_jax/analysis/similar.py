"""Galaxies that a network sees as alike: the nearest neighbours of some galaxies, and galaxies far from all others.

Two galaxies are compared by the cosine between their embeddings, after the catalogue's mean embedding is subtracted.
The distance is 1 - cosine, 0 to 2. It was chosen by how well mergers find other mergers, with three networks:
of cosine and Euclidean distances, each plain, centred or standardised, it was the best or within 0.001 of the best.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gz_jax.runtime.errors import UserError

SAMPLE = 2_048  # galaxies drawn from the catalogue, for its mean and for the distance of unusual galaxies
NEAR = 10  # a galaxy is unusual if its mean distance to so many neighbours in the sample is large
_AT_ONCE = 2_048  # rows compared at a time

Blocks = Iterable[np.ndarray]  # embeddings [n, width] of a catalogue, one block after another; NaN where there is none


class Found(NamedTuple):
    """Rows of the catalogue, nearest first: int64 [queries, count] and float32 distances; -1 and inf where too few.

    unusual, unusual_distance: int64 [count], float32 [count]: the most unusual first, and the mean distance to `NEAR`.
    """

    rows: np.ndarray
    distance: np.ndarray
    unusual: np.ndarray
    unusual_distance: np.ndarray


def sample_rows(total: int, seed: int = 0, most: int = SAMPLE) -> np.ndarray:
    """Rows of a catalogue of `total` that stand for it: ascending, all of them where there are no more than `most`."""
    return np.sort(np.random.default_rng(seed).choice(total, min(total, most), replace=False))


def directions(embeddings: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Embeddings [n, width] without the mean [width], of length 1, float32; an embedding that is the mean stays 0."""
    found = embeddings.astype(np.float32) - mean
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def search(
    blocks: Callable[[], Blocks], queries: np.ndarray, own: np.ndarray, sample: np.ndarray, count: int, near: int = NEAR
) -> Found:
    """The nearest and the most unusual galaxies, in one pass over a catalogue of any length.

    Args:
      blocks: gives the catalogue's embeddings; queries: [q, width].
      own: int64 [q], the query's own row in the catalogue, which is no neighbour of it; -1 where it has none.
      sample: rows of `sample_rows`; those without an embedding are left out.
      count: neighbours of each, and unusual galaxies; near: see `NEAR`.

    Raises:
      UserError: no galaxy of the sample has an embedding.
    """
    chosen, first = list[np.ndarray](), 0
    for block in blocks():
        rows = sample[np.searchsorted(sample, first) : np.searchsorted(sample, first + len(block))]
        chosen.append(block[rows - first])
        first += len(block)
    drawn = np.concatenate(chosen)
    has = np.isfinite(drawn).all(axis=1)
    if not has.any():
        raise UserError("none of these galaxies has an embedding: no image could be used.")
    sample, drawn = sample[has], drawn[has].astype(np.float32)
    mean = drawn.mean(0)
    asked, drawn = directions(queries, mean), directions(drawn, mean)
    rows, distance = np.full((len(asked), count), -1), np.full((len(asked), count), np.inf, np.float32)
    odd, oddness = np.full(count, -1), np.full(count, -np.inf, np.float32)
    near = min(near, len(drawn) - 1)
    for first, block in _numbered(blocks()):
        here = np.arange(first, first + len(block))
        missing = np.isnan(block.sum(1, dtype=np.float32))
        unit = directions(np.where(missing[:, None], 0, block), mean)
        new = np.clip(1 - asked @ unit.T, 0, 2)
        new[:, missing] = np.inf
        new[own[:, None] == here] = np.inf
        rows, distance = _least(rows, distance, np.broadcast_to(here, new.shape), new, count)
        if near < 1:
            continue
        apart = np.clip(1 - unit @ drawn.T, 0, 2)
        apart[here[:, None] == sample] = np.inf
        far = np.partition(apart, near - 1, axis=1)[:, :near].mean(1)
        far[missing] = -np.inf
        least, negative = _least(odd[None], -oddness[None], here[None], -far[None], count)
        odd, oddness = least[0], -negative[0]
    rows[~np.isfinite(distance)] = -1
    odd = odd[np.isfinite(oddness)]
    return Found(rows, distance, odd, oddness[: len(odd)])


def _least(
    rows: np.ndarray, values: np.ndarray, more_rows: np.ndarray, more: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` smallest of each row of two sets, ascending; of equal ones those of the first set, then in order."""
    rows, values = np.concatenate([rows, more_rows], 1), np.concatenate([values, more], 1)
    order = np.argsort(values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(values, order, 1)


def _numbered(blocks: Blocks) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of at most `_AT_ONCE` rows, and the number of the first."""
    first = 0
    for block in blocks:
        for start in range(0, len(block), _AT_ONCE):
            part = block[start : start + _AT_ONCE]
            yield first, part
            first += len(part)
