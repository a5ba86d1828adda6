"""Kaggle's Galaxy Zoo files as the TFDS data set `galaxy_zoo_challenge`: prepared once, then read by index.

Preparing first checks everything. Then it writes ArrayRecord files with the original JPEG bytes into a temporary
folder, which is renamed when it is complete. The data set's name depends on everything that decides its content: with
other files, another split or another treatment of bad galaxies, a new data set is prepared. TFDS does not need
TensorFlow for this.
"""

import functools
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from gz_jax.data import galaxy_zoo_builder, kaggle, kaggle_check, kaggle_split, problems, tensorflow_cpu
from gz_jax.data.galaxy_zoo_builder import Contents, quiet
from gz_jax.data.problems import Problem, report
from gz_jax.data.split import Dataset, Records, Split, fraction_records, tree_mark
from gz_jax.data.synthetic_votes import unanswerable
from gz_jax.labels import GALAXY_ZOO_2, Tree
from gz_jax.runtime import lock
from gz_jax.runtime.errors import UserError
from gz_jax.trees.tree import listed

_log = logging.getLogger(__name__)


def _split_reader(shards: Sequence[Any]) -> Callable[[np.ndarray], Records]:
    """Random access to the records of a split, TFDS' file instructions; images stay JPEG bytes.

    The function raises UserError where a file has gone or its checksums do not fit.
    """
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    ends = np.cumsum([shard.examples_in_shard for shard in shards])
    options = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 1 << 15}  # for random access
    reader = functools.cache(lambda shard: ArrayRecordReader(os.fspath(shards[shard].filename), **options))

    def read(indices: np.ndarray) -> Records:
        indices = np.asarray(indices, np.int64)
        n, shard_of = len(indices), np.searchsorted(ends, indices, side="right")
        galaxy_id, image = np.empty(n, np.int64), np.empty(n, object)
        fractions = np.empty((n, len(GALAXY_ZOO_2.columns)), np.float32)
        for shard in np.unique(shard_of).tolist():
            wanted = np.nonzero(shard_of == shard)[0]
            start = ends[shard] - shards[shard].examples_in_shard
            try:
                records = reader(shard).read((indices[wanted] - start).tolist())
                for i, record in zip(wanted.tolist(), records, strict=True):  # of a truncated file they are empty
                    feature = tf_example_pb2.Example.FromString(record).features.feature
                    galaxy_id[i] = feature["galaxy_id"].int64_list.value[0]
                    image[i] = feature["image"].bytes_list.value[0]
                    fractions[i] = feature["vote_fractions"].float_list.value
            except (RuntimeError, ValueError, IndexError) as error:
                folder = pathlib.Path(shards[shard].filename).parent
                raise UserError(
                    f"the prepared galaxies cannot be read ({error}). Remove {folder}, and the same command prepares "
                    "them again and goes on."
                ) from error
        return {"galaxy_id": galaxy_id, "image": image, **fraction_records(fractions)}

    return read


def open_dataset(
    data_dir: str | os.PathLike | None,
    *,
    tree: Tree = GALAXY_ZOO_2,
    seed: int = 0,
    validation_fraction: float = 0.2,
    fold: kaggle_split.Fold | None = None,
    on_bad: Literal["fail", "skip"] = "fail",
    image_size: int = 424,
    store: str | os.PathLike | None = None,
    workers: int | None = None,
    prepared: bool = True,
) -> Dataset:
    """Kaggle's galaxies with random access; checked and prepared the first time, opened after that.

    Args:
      data_dir: where Kaggle's files lie (see `kaggle.find`); None downloads, given Kaggle credentials.
      tree: of some of Kaggle's columns, which become the vote fractions; every row must obey it, as it must that of
        Galaxy Zoo 2. The prepared files are the same for every tree.
      seed: of the split between train and validation.
      validation_fraction: share of the training images that validates, above 0 and below 1; fold: which of them
        instead, see `kaggle_split.side`.
      on_bad: 'fail' refuses files with bad galaxies, 'skip' leaves these out (`Dataset.skipped`).
      image_size: side of the images in pixels; another is a fault.
      store: TFDS' data directory; default TFDS' own (`~/tensorflow_datasets`, or TFDS_DATA_DIR).
      workers: threads that check images; default one per core.
      prepared: write and read TFDS' files; else Kaggle's own are read, TFDS is not needed, and only what the check
        found is kept, in `cache_dir`.

    Returns:
      Dataset with splits 'train', 'validation' and, given test images, 'test'; ordered by galaxy_id.
      `statistics` has the galaxies per split and what `kaggle_split.compare_splits` says.

    Raises:
      UserError: wrong arguments or files, with all that is wrong.
    """
    if on_bad not in ("fail", "skip"):
        raise UserError(f"config.data.on_bad is {on_bad!r}; it must be 'fail' or 'skip'")
    if not 0 < validation_fraction < 1:
        raise UserError(f"the validation fraction is {validation_fraction}; it must lie between 0 and 1")
    if lacking := [column for column in tree.columns if column not in GALAXY_ZOO_2.columns]:
        raise UserError(
            f"Kaggle's files lack the columns {listed(lacking)} of the decision tree {tree.name!r}: "
            + ("name a tree of Kaggle's columns" if unanswerable(tree) else "--config.data.source=synthetic has them")
        )
    store = store_dir(store)
    files = _find_or_download(data_dir, store)
    how = f"{kaggle_split.mark(seed, validation_fraction, fold)}_size{image_size}_{on_bad}"
    name, labelled = (f"{kaggle.fingerprint(files, test=test)}_{how}" for test in (True, False))
    choose = functools.partial(_checked, files, image_size, workers, on_bad, (seed, validation_fraction, fold), tree)
    mark = tree_mark(tree)
    known = {"fingerprint": name + mark, "labelled": labelled + mark, "tree": tree}
    if not prepared:
        return _as_they_are(cache_dir(store, name), choose, known)
    tensorflow_cpu.quiet()
    import tensorflow_datasets as tfds

    @quiet()
    def open_builder(contents: Contents | None = None) -> Any:
        config = tfds.core.BuilderConfig(name=name)
        return galaxy_zoo_builder.builder_class()(data_dir=store, config=config, contents=contents)

    builder = open_builder()
    if not builder.info.initialized:
        with lock.waited_for(pathlib.Path(builder.data_path.parent)):
            builder = open_builder()  # another process may have prepared it while we waited
            if not builder.info.initialized:
                contents, _ = choose()
                galaxy_zoo_builder.prepare(open_builder(contents), contents, store)
                builder = open_builder()
    found = builder.info.splits.items()
    splits = {key: Split(info.num_examples, _split_reader(info.file_instructions)) for key, info in found}
    metadata = builder.info.metadata
    if mark:
        whole, chosen = choose(problems=[Problem(*problem) for problem in metadata["skipped"]])
        metadata = chosen.metadata
        splits = {
            key: _narrowed(splits[key], np.searchsorted(whole.splits[key][1], ids), votes)
            for key, (_, ids, votes) in chosen.splits.items()
        }
    return _dataset(splits, metadata, known)


def _narrowed(split: Split, rows: np.ndarray, votes: np.ndarray) -> Split:
    """Some rows of a split, with other vote fractions."""
    return Split(len(rows), lambda index: split.read(rows[index]) | fraction_records(votes[index]))


def store_dir(store: str | os.PathLike | None) -> pathlib.Path:
    """Where prepared data goes: `store`, else TFDS' own choice."""
    return pathlib.Path(store or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def cache_dir(store: str | os.PathLike | None, name: str) -> pathlib.Path:
    """Where decoded cutouts of the data set `name` are kept."""
    return store_dir(store) / "galaxy_zoo_cutouts" / name


def _checked(
    files: kaggle.KaggleFiles,
    image_size: int,
    workers: int | None,
    on_bad: str,
    split: tuple[int, float, kaggle_split.Fold | None],
    tree: Tree,
    problems: Sequence[Problem] | None = None,
) -> tuple[Contents, Contents]:
    """Contents of each split after all checks, with the answers of Kaggle's whole tree and with those of `tree`.

    `problems` are those of an earlier check, by Kaggle's tree; `split` is seed, validation fraction and fold.
    """
    solutions = kaggle_check.read_solutions(files.solutions)
    if problems is None:
        problems = [*solutions.problems, *kaggle_check.match(files.train, solutions)]
        for images in filter(None, (files.train, files.test)):
            problems += kaggle_check.check_images(images, image_size, workers)
    chosen = kaggle_check.read_solutions(files.solutions, tree) if tree_mark(tree) else solutions
    found = list({(p.galaxy_id, p.file, p.reason): p for p in [*problems, *chosen.problems]}.values())
    if found and on_bad == "fail":
        raise UserError(
            f"{report(found, files.directory)}\n"
            "Repair the files, or go on without these galaxies: --config.data.on_bad=skip"
        )
    whole = galaxy_zoo_builder.choose(files, solutions, problems, *split, GALAXY_ZOO_2)
    return whole, whole if chosen is solutions else galaxy_zoo_builder.choose(files, chosen, found, *split, tree)


def _as_they_are(cache: pathlib.Path, choose: Callable[..., tuple[Contents, ...]], known: dict[str, Any]) -> Dataset:
    """The data set read from Kaggle's files; what a check found is kept, since it takes a while."""
    found = problems.kept(cache)
    whole, contents = choose(problems=found)
    if found is None:
        problems.keep(cache, whole.metadata["skipped"])

    def split(images: kaggle.Images, ids: np.ndarray, votes: np.ndarray) -> Split:
        def read(index: np.ndarray) -> Records:
            files = np.empty(len(index), object)
            files[:] = [images.read(i) for i in ids[index].tolist()]
            return {"galaxy_id": ids[index], "image": files, **fraction_records(votes[index])}

        return Split(len(ids), read)

    return _dataset({key: split(*value) for key, value in contents.splits.items()}, contents.metadata, known)


def _dataset(splits: dict[str, Split], metadata: dict[str, Any], known: dict[str, Any]) -> Dataset:
    warn_of_differences(statistics := metadata["statistics"])
    return Dataset(splits, statistics=statistics, skipped=tuple(map(tuple, metadata["skipped"])), **known)


def warn_of_differences(statistics: dict[str, Any]) -> None:
    """Log a warning if training and validation galaxies have different labels."""
    if statistics["ks_exceeded"]:
        worst = ", ".join(f"{c} ({statistics['ks_distance'][c]:.3f})" for c in statistics["ks_exceeded"])
        _log.warning("train and validation differ more than chance allows (KS distance) in %s", worst)


def _find_or_download(data_dir: str | os.PathLike | None, store: pathlib.Path) -> kaggle.KaggleFiles:
    reason = "config.data.dir is not set"
    if data_dir is not None:
        try:
            return kaggle.find(data_dir)
        except kaggle.NoKaggleFilesError as error:
            reason = str(error)
    page = f"https://www.kaggle.com/c/{kaggle.COMPETITION}"
    folder = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR", "~/.kaggle")).expanduser()
    credentials = {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= set(os.environ) or (folder / "kaggle.json").is_file()
    if data_dir is not None or not credentials:
        raise UserError(
            f"{reason}. To get Galaxy Zoo's images:\n"
            f"  1. log in at {page} and accept the competition's rules;\n"
            f"  2. download {kaggle.TRAIN}.zip, {kaggle.SOLUTIONS}.zip and, if you like, {kaggle.TEST}.zip\n"
            f"     (or all in one, {kaggle.COMPETITION}.zip) into one directory; do not unpack them;\n"
            "  3. set --config.data.dir to that directory.\n"
            "Or try without: --config.data.source=synthetic"
        )
    if shutil.which("kaggle") is None:
        raise UserError(f"{reason}; there are Kaggle credentials, but no `kaggle` command: pip install kaggle")
    tensorflow_cpu.import_tensorflow()  # TFDS needs it to download
    import tensorflow_datasets as tfds

    downloads = store / "downloads"
    _log.warning("%s: with your Kaggle credentials, getting %s (2 GB) into %s", reason, page, downloads)
    try:
        with quiet():
            manager = tfds.download.DownloadManager(download_dir=downloads)
            return kaggle.find(manager.download_kaggle_data(kaggle.COMPETITION))
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"Kaggle's download failed; are the rules at {page} accepted?\n{error}") from error
