"""The TFDS builder `galaxy_zoo_challenge`, and the choice of galaxies for each split."""

import contextlib
import functools
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gz_jax.data import kaggle, kaggle_check, kaggle_split, tensorflow_cpu
from gz_jax.data.problems import Problem
from gz_jax.labels import GALAXY_ZOO_2, Tree
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.progress import Bar

_PER_SHARD = 2048  # galaxies; TFDS holds one shard's records (30 MB) in memory while writing


class Contents(NamedTuple):
    """What to prepare: (images, galaxy_id [n], vote_fractions [n, answers]) by split, and the metadata."""

    splits: dict[str, tuple[kaggle.Images, np.ndarray, np.ndarray]]
    metadata: dict[str, Any]


@functools.cache
def builder_class() -> type:
    """The TFDS builder; in a function so that TFDS is imported only when needed.

    Its config's name identifies the data; `contents` is needed for preparing only.
    """
    tensorflow_cpu.quiet()
    import tensorflow_datasets as tfds

    class Info(tfds.core.DatasetInfo):
        def initialize_from_bucket(self):
            """TFDS' servers do not have this data set. Asking them leaves an empty temporary folder each time."""

    class GalaxyZooChallenge(tfds.core.ShardBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        bar: Bar  # counts what is written, see `prepare`
        url_infos = None  # no downloads by URL; looking for them needs a package TFDS forgets to install

        def __init__(self, *, contents: Contents | None = None, **kwargs):
            self.contents = contents
            super().__init__(file_format="array_record", **kwargs)

        def _info(self):
            return Info(
                builder=self,
                description="Galaxy images with volunteers' vote fractions (Galaxy Zoo 2; Kaggle, 2013).",
                features=tfds.features.FeaturesDict(
                    {
                        "galaxy_id": np.int64,
                        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                        "vote_fractions": tfds.features.Tensor(shape=(len(GALAXY_ZOO_2.columns),), dtype=np.float32),
                    }
                ),
                homepage=f"https://www.kaggle.com/c/{kaggle.COMPETITION}",
                metadata=tfds.core.MetadataDict(self.contents.metadata if self.contents else {}),
                disable_shuffling=True,
            )

        def _shard_iterators_per_split(self, dl_manager):
            del dl_manager

            def examples(images, ids, fractions):
                for galaxy_id, votes in zip(ids.tolist(), fractions, strict=True):
                    image = images.read(galaxy_id)
                    yield galaxy_id, {"galaxy_id": galaxy_id, "image": image, "vote_fractions": votes}
                    self.bar.advance()

            return {
                name: [
                    functools.partial(examples, images, ids[i : i + _PER_SHARD], fractions[i : i + _PER_SHARD])
                    for i in range(0, len(ids), _PER_SHARD)
                ]
                for name, (images, ids, fractions) in self.contents.splits.items()
            }

        def _example_writer(self):
            return _RecordWriter()

    return GalaxyZooChallenge


class _RecordWriter:
    """TFDS' ExampleWriter without compression: JPEGs do not shrink, and reading is faster by half."""

    def write(self, path: os.PathLike, examples: Iterable[tuple[int, bytes]]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, record in examples:
            writer.write(record)
        writer.close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what TFDS logs and prints about itself."""
    from absl import logging as absl_logging

    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(before)


def choose(
    files: kaggle.KaggleFiles,
    solutions: kaggle_check.Solutions,
    problems: Sequence[Problem],
    seed: int,
    validation_fraction: float,
    fold: kaggle_split.Fold | None,
    tree: Tree,
) -> Contents:
    """Leave out the galaxies with problems and assign the others to splits; `tree` is that of the solutions.

    Raises:
      UserError: no galaxy is left for training or for validation.
    """
    bad = {problem.galaxy_id for problem in problems}
    kept = np.array([str(i) not in bad for i in solutions.galaxy_id.tolist()], bool)
    ids, fractions = solutions.galaxy_id[kept], solutions.vote_fractions[kept]
    validates = kaggle_split.side(ids, seed, validation_fraction, fold)
    splits = {
        name: (files.train, ids[mask], fractions[mask])
        for name, mask in (("train", ~validates), ("validation", validates))
    }
    for name, (_, members, _) in splits.items():
        if not len(members):
            raise UserError(f"no galaxy is left for {name}: {files.directory} has {len(ids)} valid galaxies")
    statistics = kaggle_split.compare_splits(splits["train"][2], splits["validation"][2], tree)
    if files.test and (left := [i for i in sorted(files.test.names) if str(i) not in bad]):
        nothing = np.full((len(left), len(tree.columns)), np.nan, np.float32)
        splits["test"] = (files.test, np.array(left, np.int64), nothing)
    galaxies = {name: len(members) for name, (_, members, _) in splits.items()}
    skipped = [(p.galaxy_id, p.file, p.reason) for p in problems]
    return Contents(splits, {"statistics": {"galaxies": galaxies, **statistics}, "skipped": skipped})


@quiet()
def prepare(builder: Any, contents: Contents, store: pathlib.Path) -> None:
    """Write the data set, and say first how large it is and where it goes.

    Call it under the lock: what then lies there half-written was left by a process that has ended.
    """
    import tensorflow_datasets as tfds

    for stale in builder.data_path.parent.glob("incomplete.*"):
        shutil.rmtree(stale, ignore_errors=True)
    needed = 1.1 * sum(images.sizes[i] for images, ids, _ in contents.splits.values() for i in ids.tolist())
    if (free := shutil.disk_usage(store).free) < needed:
        raise UserError(f"{store} has {free / 1e9:.1f} GB left, {needed / 1e9:.1f} GB are needed")
    total, folder = sum(len(ids) for _, ids, _ in contents.splits.values()), builder.data_path.parent
    print(f"preparing {total:,} galaxies, once: {needed / 1e9:.2g} GB in {folder}", file=sys.stderr, flush=True)
    try:
        with Bar("Preparing galaxies", total, "galaxies") as builder.bar:
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except (OSError, RuntimeError) as error:  # RuntimeError is the record writer's
        raise UserError(f"preparing the data set in {store} failed: {error}") from error
