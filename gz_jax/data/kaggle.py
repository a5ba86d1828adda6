"""Find and read Kaggle's Galaxy Zoo files. TensorFlow is not needed.

The competition's one big zip, its inner zips and the extracted folders can all be read, also a mixture of them.
Source: Kaggle, "Galaxy Zoo - The Galaxy Challenge" (2013): 61,578 training JPEGs of 424 x 424 pixels with 37
vote fractions each, 79,975 test JPEGs.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from gz_jax.data import archive, identifiers
from gz_jax.runtime.errors import UserError

COMPETITION = "galaxy-zoo-the-galaxy-challenge"
TRAIN, TEST, SOLUTIONS = "images_training_rev1", "images_test_rev1", "training_solutions_rev1"
_MAX_CSV = 256 << 20  # bytes; Kaggle's has 17 MB


class NoKaggleFilesError(UserError):
    """The directory holds none of Kaggle's files."""


class Images(NamedTuple):
    """JPEG files by galaxy_id; `misnamed` are those whose name is no GalaxyID."""

    names: dict[int, str]
    sizes: dict[int, int]
    misnamed: tuple[str, ...]
    source: archive.Source

    def read(self, galaxy_id: int) -> bytes:
        """The original JPEG bytes; safe in threads. Raises one of archive.READ_ERRORS."""
        return self.source.read(self.names[galaxy_id])


class KaggleFiles(NamedTuple):
    """What `find` found; `test` is None where there is none."""

    directory: pathlib.Path
    solutions: archive.Source
    train: Images
    test: Images | None


def _images(source: archive.Source) -> Images:
    names: dict[int, str] = {}
    misnamed = []
    for name in sorted(source.sizes):
        galaxy_id, _ = identifiers.parse(pathlib.PurePosixPath(name).stem)
        if galaxy_id is None:
            misnamed.append(name)
        elif galaxy_id in names:
            raise UserError(f"{source.where} holds two images of galaxy {galaxy_id}: {names[galaxy_id]} and {name}")
        else:
            names[galaxy_id] = name
    sizes = {galaxy_id: source.sizes[name] for galaxy_id, name in names.items()}
    return Images(names, sizes, tuple(misnamed), source)


def _places(directory: pathlib.Path, stem: str, suffix: str) -> Iterator[archive.Source]:
    """Extracted files first, then the inner zip, then the big one. Each is opened only when it is needed."""
    if (directory / stem).is_dir():
        yield archive.from_folder(directory / stem, suffix)
    if (plain := directory / f"{stem}{suffix}").is_file():
        yield archive.Source(str(plain), {plain.name: plain.stat().st_size}, lambda _: plain.read_bytes())
    if (inner := directory / f"{stem}.zip").is_file():
        yield archive.from_zip(inner, suffix)
    big = directory if directory.is_file() else directory / f"{COMPETITION}.zip"
    if big.is_file():
        yield archive.from_zip(big, suffix, inner=stem)


def find(directory: str | os.PathLike) -> KaggleFiles:
    """Find Kaggle's files in a directory (or name the big zip itself).

    Raises:
      NoKaggleFilesError: the directory holds none of them.
      UserError: no such directory; a zip that is truncated or none; training images or solutions missing.
    """
    directory = pathlib.Path(directory).expanduser()
    if not directory.exists():
        raise UserError(
            f"the data directory {directory} does not exist: say where Kaggle's files are with "
            "--config.data.dir=FOLDER (with --mode=evaluate: --data_dir=FOLDER)"
        )
    solutions, train, test = (
        next((source for source in _places(directory, stem, suffix) if source.sizes), None)
        for stem, suffix in ((SOLUTIONS, ".csv"), (TRAIN, ".jpg"), (TEST, ".jpg"))
    )
    if not (solutions or train or test):
        raise NoKaggleFilesError(f"{directory} holds none of Kaggle's files ({COMPETITION}.zip, {TRAIN}.zip, ...)")
    missing = [stem for stem, source in ((SOLUTIONS, solutions), (TRAIN, train)) if source is None]
    if solutions is None or train is None:
        raise UserError(f"{directory} lacks {' and '.join(missing)}: as .zip, extracted, or in {COMPETITION}.zip")
    return KaggleFiles(directory, solutions, _images(train), _images(test) if test else None)


def csv_bytes(source: archive.Source) -> tuple[str, bytes]:
    """Name and content of the one CSV of a source. Raises UserError: several, too large, or unreadable."""
    if len(source.sizes) > 1:
        raise UserError(f"{source.where} holds several CSV files: {list(source.sizes)}")
    (name, size), *_ = source.sizes.items()
    if size > _MAX_CSV:
        raise UserError(f"{source.where}: {name} says it is {size} bytes; more than {_MAX_CSV} is refused")
    try:
        return name, source.read(name)
    except archive.READ_ERRORS as error:
        raise UserError(f"cannot read {name} from {source.where} ({error}): download it again") from error


def fingerprint(files: KaggleFiles, *, test: bool = True) -> str:
    """16 hex digits, of the CSV's bytes and the images' names and sizes (or without the test images); in any layout."""
    digest = hashlib.sha256(csv_bytes(files.solutions)[1])
    for side, images in (("train", files.train), ("test", files.test if test else None)):
        if images:
            for galaxy_id in sorted(images.names):
                digest.update(f"{side} {galaxy_id} {images.sizes[galaxy_id]}\n".encode())
            digest.update("".join(images.misnamed).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
