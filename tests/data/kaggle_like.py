"""Small files like Kaggle's, in every layout people have them in."""

import csv
import io
import pathlib
import zipfile

import numpy as np
from PIL import Image

from gz_jax import labels

COMPETITION = "galaxy-zoo-the-galaxy-challenge"
LAYOUTS = ("folders", "zips", "big_stored", "big_deflated", "mixed")


def jpeg(seed: int, size: tuple[int, int] = (424, 424), mode: str = "RGB", format: str = "JPEG") -> bytes:
    """A blob on a dark sky."""
    y, x = np.mgrid[: size[1], : size[0]] / max(size) - 0.5
    rng = np.random.default_rng(seed)
    light = np.exp(-((x / rng.uniform(0.05, 0.2)) ** 2) - (y / rng.uniform(0.05, 0.2)) ** 2)
    pixels = (light[..., None] * rng.uniform(100, 255, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format)
    return file.getvalue()


def fractions(count: int, seed: int = 0) -> np.ndarray:
    """Joint vote fractions [count, 37] that obey the tree."""
    rng = np.random.default_rng(seed)
    conditional = [rng.dirichlet(np.ones(len(q.answers)), count) for q in labels.GALAXY_ZOO_2.questions]
    return np.asarray(labels.joint(np.concatenate(conditional, 1, dtype=np.float32)), np.float64)


def solutions(rows: dict, columns=("GalaxyID", *labels.GALAXY_ZOO_2.columns)) -> bytes:
    """A CSV of {galaxy_id: values}; a value may be text."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [galaxy_id, *(v if isinstance(v, str) else f"{v:.9f}" for v in values)] for galaxy_id, values in rows.items()
    )
    return file.getvalue().encode()


def galaxies(train: int = 12, test: int = 3) -> dict[str, bytes]:
    """Kaggle's files by path: images 100000, 100007, ...; test images from 900000 on."""
    ids = [100_000 + 7 * i for i in range(train)]
    rows = dict(zip(ids, fractions(train), strict=True))
    return {
        "training_solutions_rev1.csv": solutions(rows),
        **{f"images_training_rev1/{i}.jpg": jpeg(i) for i in ids},
        **{f"images_test_rev1/{i}.jpg": jpeg(i) for i in range(900_000, 900_000 + test)},
    }


def _zip(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def write(directory: pathlib.Path, files: dict[str, bytes], layout: str = "zips") -> pathlib.Path:
    """Lay the files out as folders, as inner zips, as one big zip, or a mixture."""
    directory.mkdir(parents=True, exist_ok=True)
    stems = {name.split("/")[0].removesuffix(".csv") for name in files}
    groups = {stem: {n: d for n, d in files.items() if n.startswith(stem)} for stem in sorted(stems)}
    if layout.startswith("big"):
        compression = zipfile.ZIP_STORED if layout == "big_stored" else zipfile.ZIP_DEFLATED
        inner = {f"{stem}.zip": _zip(group) for stem, group in groups.items()}
        (directory / f"{COMPETITION}.zip").write_bytes(_zip(inner, compression))
        return directory
    for stem, group in groups.items():
        if layout == "folders" or (layout == "mixed" and "training" in stem):
            for name, data in group.items():
                (directory / name).parent.mkdir(exist_ok=True)
                (directory / name).write_bytes(data)
        else:
            compression = zipfile.ZIP_DEFLATED if stem.startswith("training_sol") else zipfile.ZIP_STORED
            junk = {f"__MACOSX/{stem}/._1.jpg": b"junk", f"{stem}/.DS_Store": b"junk"}
            (directory / f"{stem}.zip").write_bytes(_zip({**group, **junk}, compression))
    return directory
