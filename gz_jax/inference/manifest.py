"""Which images and which networks a table of predictions is of, so that different predictions are never mixed."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gz_jax.data import inputs
from gz_jax.inference.tables import BAD, MANIFEST, digest, record
from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError


class Rows(NamedTuple):
    """What a table is predicted from, row by row.

    Attributes:
      ids: int64 or str [n]; files: str [n], the images' names, None where they have none (images in memory).
      stamps: str [n], what else is known of the files without reading them (size and CRC in a zip), or None.
      scales: float64 [n], arcsec per pixel, null where unknown; None if no column of a table gives them.
      kept: columns of the catalogue that are copied into the table, or None.
    """

    ids: np.ndarray
    files: pa.Array | None = None
    stamps: pa.Array | None = None
    scales: pa.Array | None = None
    kept: pa.Table | None = None

    def part(self, start: int, stop: int) -> "Rows":
        return Rows(self.ids[start:stop], *(None if column is None else column[start:stop] for column in self[1:]))

    @property
    def digest(self) -> str:
        """Fingerprint, 16 hex digits, of the ids, file names, stamps, pixel scales and kept values."""
        columns = (pa.array(self.ids), self.files, self.stamps, self.scales)
        kept = [] if self.kept is None else [pa.array(map(str, one.to_pylist())) for one in self.kept.columns]
        return inputs.digest([*(one.cast(pa.string()) for one in columns if one is not None), *kept])


def claim(output: pathlib.Path, manifest: dict[str, Any], rows: Rows) -> dict[str, Any]:
    """Make the folder for this table, or check that it was begun with the same manifest; returns the folder's manifest.

    Finished parts must be of the same images, row by row. Only the file of an image that could not be read may change,
    so that such an image is tried again after a correction of the catalogue.

    Raises:
      UserError: the folder cannot be written, or holds another table; the message names the differences.
    """
    path, manifest = output / MANIFEST, json.loads(json.dumps(manifest))
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(output.glob("part-*.parquet")):
                raise UserError(f"{output} holds part-*.parquet without a {MANIFEST}: choose another folder.")
            files.write_json(path, manifest)
        before = record(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot use {output} for predictions ({error}): choose another folder.") from error
    differences = [
        f"{part} {name} was {before.get(part, {}).get(name)!r} and is now {manifest[part].get(name)!r}"
        for part in ("catalogue", "settings", "versions")
        for name in sorted(before.get(part, {}).keys() | manifest[part].keys())
        if before.get(part, {}).get(name) != manifest[part].get(name)
    ]
    were, are = networks_of(before), networks_of(manifest)
    if not same_networks(were, are):
        differences.insert(0, f"the network was {described(were)} and is now {described(are)}")
    if not differences:
        differences = _other_images(output, rows, manifest["settings"]["shard_size"])
    if differences:
        raise UserError(
            f"{output} was begun differently: {'; '.join(differences)}. "
            "Choose another folder, or the first settings to continue it."
        )
    return before


def _other_images(output: pathlib.Path, rows: Rows, shard_size: int) -> list[str]:
    """Differences between the images of the finished parts and these images, in words; [] if there are none."""
    for path in sorted(output.glob("part-*.parquet")):
        start = int(path.stem[5:]) * shard_size if path.stem[5:].isdecimal() else len(rows.ids)
        now = rows.part(start, start + shard_size)
        if not len(now.ids) or digest(path, len(now.ids)) in (None, now.digest):
            continue
        try:
            part = parquet.read_table(path)
        except (OSError, pa.ArrowException):  # damaged: it will be predicted again
            continue
        before, used = part["id"].to_pylist(), part["flag"].to_numpy() != BAD
        if before != now.ids.tolist():
            return ["the catalogue has other ids now, or the same in another order"]
        names = ["file"] if now.scales is None else ["file", "pixel_scale"]
        if now.files is None or not set(names) <= set(part.column_names):
            return ["the images are different ones"]
        pairs = list(zip(_seen(*part.select(names).columns), _seen(now.files, now.scales), strict=True))
        changed = np.array([one != other for one, other in pairs])
        for name, kept in () if now.kept is None else zip(now.kept.column_names, now.kept.columns, strict=True):
            if str(part[name].to_pylist()) != str(kept.to_pylist()):
                return [f"column {name!r} of the catalogue has other values now"]
        if not changed.any():
            return [f"the files of {path.name} have changed since (their names are the same)"]
        if other := np.flatnonzero(changed & used).tolist():
            one, now_one = pairs[other[0]]
            return [f"image {before[other[0]]!r} was predicted from {one} and is now {now_one}"]
    return []


def _seen(files: pa.Array, scales: pa.Array | None = None) -> list[str]:
    """Files, and their pixel scales if they have any, in words."""
    found = [repr(file) for file in files.to_pylist()]
    if scales is None:
        return found
    return [f"{one} at {scale} arcsec a pixel" for one, scale in zip(found, scales.to_pylist(), strict=True)]


def networks_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Identities (`trained.Trained.identity`) of the networks behind a table; [] if it has none."""
    found = manifest.get("models", {}).get("networks", [])
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def same_networks(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> bool:
    """Whether both are the same networks with the same numbers of views; folders and order do not matter."""
    keys = [sorted((str(one.get("weights")), str(one.get("views"))) for one in side) for side in (first, second)]
    return keys[0] == keys[1]


def described(networks: Sequence[dict[str, Any]]) -> str:
    """Networks in words, e.g. 'resnet50 (epoch 8, 1 view, weights 01ab23cd)'."""
    texts = []
    for one in networks:
        views = one.get("views")
        facts = [f"epoch {one['epoch']}"] if one.get("epoch") else []
        facts += [f"{views} view{'s' * (views != 1)}", f"weights {str(one.get('weights'))[:8]}"]
        texts.append(f"{one.get('run')} ({', '.join(facts)})")
    return " and ".join(texts) or "unknown"
