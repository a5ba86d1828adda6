"""Training on a person's own table, from its files to a log and pages."""

import csv
import json
import zipfile

import catalogue_files
import numpy as np
import pytest
from catalogue_files import as_fits, config_of, counted, flux, log_of, named, png, sample, totals

from configs import default
from gz_jax.data import synthetic
from gz_jax.data.kaggle_split import side
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.modes import training

PIPELINES = ("stream", "memory", "device")
TURNED = {"augment__rotate": True, "augment__flip": True, "augment__zoom": 1.2, "augment__shift": 2.0}


@pytest.fixture
def log_alone(monkeypatch):
    """No page at the end of a training, which takes longer than these trainings do."""
    monkeypatch.setattr(training, "_report", lambda path, dataset: None)


@pytest.fixture(scope="module")
def galaxies():
    return sample(160, 40)


@pytest.fixture(scope="module")
def cube(galaxies, tmp_path_factory):
    """Parquet, and a FITS file of three planes a galaxy."""
    files = named(galaxies.ids, ".fits")
    images = dict(zip(files, map(as_fits, map(flux, galaxies.images)), strict=True))
    table = tmp_path_factory.mktemp("cube") / "table" / "galaxies.parquet"
    return catalogue_files.write(table, {"id": galaxies.ids, "file": files, **counted(galaxies)}, images)


@pytest.fixture(scope="module")
def pictures(galaxies, tmp_path_factory):
    """CSV, and a PNG a galaxy."""
    files = named(galaxies.ids, ".png")
    images = dict(zip(files, map(png, galaxies.images), strict=True))
    table = tmp_path_factory.mktemp("pictures") / "table" / "galaxies.csv"
    return catalogue_files.write(table, {"id": galaxies.ids, "file": files, **counted(galaxies)}, images)


def trained(config, workdir):
    assert training.train(config, str(workdir)) == 0
    return log_of(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cube", "bands"])
def test_the_three_pipelines_train_alike_on_fits(layout, cube, galaxies, tmp_path, log_alone):
    table, changed = cube, {}
    if layout == "bands":
        columns = {band: named(galaxies.ids, f"_{band}.fits") for band in ("z", "r", "g")}
        bands = [flux(pixels) for pixels in galaxies.images]
        images = {names[i]: as_fits(b[k]) for k, names in enumerate(columns.values()) for i, b in enumerate(bands)}
        table = tmp_path / "table" / "galaxies.parquet"
        catalogue_files.write(table, {"id": galaxies.ids, **columns, **counted(galaxies)}, images)
        changed["data__file_columns"] = "z, r, g"
    logs = {
        pipeline: trained(config_of(table, data__pipeline=pipeline, **TURNED, **changed), tmp_path / pipeline)
        for pipeline in PIPELINES
    }
    np.testing.assert_array_equal(logs["memory"], logs["stream"])
    # The warps of TensorFlow and JAX may differ by 1 of 255 here and there.
    np.testing.assert_allclose(logs["device"], logs["stream"], rtol=1e-5, atol=2e-5)
    assert len(logs["stream"]) == 3
    if layout == "bands":  # one picture, however it is stored
        whole = trained(config_of(cube, data__pipeline="memory", **TURNED), tmp_path / "whole")
        np.testing.assert_array_equal(logs["memory"], whole)


@pytest.mark.slow
def test_votes_may_be_written_in_any_way(galaxies, pictures, tmp_path, log_alone):
    """Counts, fractions of those who were asked with totals, fractions of all with totals: one set of labels."""
    tree, counts, asked = galaxies.tree, galaxies.counts, totals(galaxies)
    files = {"id": galaxies.ids, "file": named(galaxies.ids, ".png")}
    total = {f"{q.name}_total-votes": asked[:, i] for i, q in enumerate(tree.questions)}
    conditional, joint = np.full(counts.shape, np.nan), np.full(counts.shape, np.nan)
    volunteers = asked[:, 0]
    for q, answers in enumerate(tree.slices):
        some = asked[:, q] > 0
        conditional[some, answers] = counts[some, answers] / asked[some, q, None]
        joint[some, answers] = counts[some, answers] / volunteers[some, None]
    logs = {}
    for kind, values in (("counts", counts), ("conditional", conditional), ("joint", joint)):
        columns = dict(zip(tree.columns, values.T, strict=True)) | (total if kind != "counts" else {})
        table = catalogue_files.write(pictures.parent / f"{kind}.csv", {**files, **columns}, {})
        for loss in ("mse", "multinomial"):
            config = config_of(table, kind, data__pipeline="memory", loss=loss, model__activation="softmax")
            logs[kind, loss] = trained(config, tmp_path / f"{kind}_{loss}")
    for (_, loss), log in logs.items():
        np.testing.assert_allclose(log, logs["counts", loss], rtol=2e-6, atol=1e-7)
    assert not np.allclose(logs["counts", "mse"], logs["counts", "multinomial"])


@pytest.mark.slow
def test_fits_trains_as_well_as_the_pictures_do(tmp_path, log_alone):
    """The best validation losses of four seeds each: the means differ by less than three times that difference's error.

    The error is that of the means of four draws, from the spread over the seeds of either kind, in quadrature. The
    networks have learnt something: they are better than the means of the training galaxies.
    """
    many = sample(300, 40, seed=1)
    found = {}
    for kind, encode in (("png", png), ("fits", lambda pixels: as_fits(flux(pixels)))):
        files = named(many.ids, f".{kind}")
        images = dict(zip(files, map(encode, many.images), strict=True))
        table = tmp_path / "table" / f"{kind}.csv"
        catalogue_files.write(table, {"id": many.ids, "file": files, **counted(many)}, images)
        how = {"data__pipeline": "memory", "num_epochs": 10, "model__momentum": 0.8, "learning_rate": 1e-3}
        logs = [trained(config_of(table, seed=seed, **how), tmp_path / f"{kind}{seed}") for seed in range(4)]
        found[kind] = np.array([log[:, -2].min() for log in logs])
    error = np.hypot(*(losses.std(ddof=1) / len(losses) ** 0.5 for losses in found.values()))
    png_loss, fits_loss = (losses.mean() for losses in found.values())
    assert abs(png_loss - fits_loss) < 3 * error, found
    data = json.loads((tmp_path / "png0" / "metrics.json").read_text())["data"]
    assert max(png_loss, fits_loss) < 0.8 * data["guess_the_means_rmse"] ** 2


def kaggle_table(folder, ids, fractions, images, **changed):
    """Kaggle's galaxies as a table with a column of splits, and its configs: Kaggle's own reader, and the table."""
    validation = side(ids, 0, 0.2)
    columns = {"id": ids, "file": named(ids, ".jpg"), "split": np.where(validation, "validation", "train")}
    columns |= dict(zip(GALAXY_ZOO_2.columns, fractions.T, strict=True))
    shuffled = np.random.default_rng(0).permutation(len(ids))
    columns = {name: np.asarray(values)[shuffled].tolist() for name, values in columns.items()}
    return catalogue_files.write(folder / "table" / "galaxies.csv", columns, images)


def solutions_of(path):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))[1:]
    return np.array([int(row[0]) for row in rows]), np.array([row[1:] for row in rows], np.float64)


def both_configs(folder, pipeline, *, image_size, crop, augmented, size=32):
    """Of Kaggle's files in `folder`/kaggle and of the same in `folder`/table."""
    kaggle, table = default.get_config(), config_of(folder / "table" / "galaxies.csv", "joint", "galaxy_zoo_2")
    kaggle.data.dir, kaggle.data.image_size, kaggle.data.store = str(folder / "kaggle"), image_size, str(folder)
    for config in (kaggle, table):
        config.data.update(pipeline=pipeline, crop=crop, size=size)
        config.update(batch_size=16, num_epochs=2, learning_rate=1e-4)
        if augmented:
            config.augment.update(rotate=True, flip=True, zoom=1.3, shift=3.0)
    return kaggle, table


@pytest.fixture(scope="module")
def kaggle_like(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kaggle_like")
    synthetic.write_kaggle_files(folder / "kaggle", 100, seed=0, num_test=2, size=128, layout="folders")
    ids, fractions = solutions_of(folder / "kaggle" / "training_solutions_rev1.csv")
    there = folder / "kaggle" / "images_training_rev1"
    kaggle_table(folder, ids, fractions, {f"images/{i}.jpg": (there / f"{i}.jpg").read_bytes() for i in ids})
    return folder


@pytest.mark.parametrize(
    ("pipeline", "augmented"),
    [
        ("memory", True),  # the one training on a table of the default suite
        *(
            pytest.param(p, a, marks=pytest.mark.slow)
            for p in PIPELINES
            for a in (True, False)
            if (p, a) != ("memory", True)
        ),
    ],
)
def test_kaggles_files_as_a_table_train_to_the_same_digits(pipeline, augmented, kaggle_like, tmp_path, log_alone):
    configs = both_configs(kaggle_like, pipeline, image_size=128, crop=60, augmented=augmented)
    own, table = (trained(config, tmp_path / str(i)) for i, config in enumerate(configs))
    assert len(own) == 2
    np.testing.assert_array_equal(table, own)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_real_galaxies_as_a_table_train_to_the_same_digits(pipeline, galaxy_zoo_sample, tmp_path, log_alone):
    with zipfile.ZipFile(galaxy_zoo_sample / "training_solutions_rev1.zip") as archive:
        archive.extractall(tmp_path)
    ids, fractions = solutions_of(next(tmp_path.rglob("training_solutions_rev1.csv")))
    ids, fractions = ids[:300], fractions[:300]
    with zipfile.ZipFile(galaxy_zoo_sample / "images_training_rev1.zip") as archive:
        members = {name.split("/")[-1]: name for name in archive.namelist()}
        jpegs = {int(i): archive.read(members[f"{i}.jpg"]) for i in ids}
    kaggle_table(tmp_path, ids, fractions, {f"images/{i}.jpg": data for i, data in jpegs.items()})
    folder = tmp_path / "kaggle" / "images_training_rev1"
    folder.mkdir(parents=True)
    for i, data in jpegs.items():
        (folder / f"{i}.jpg").write_bytes(data)
    lines = next(tmp_path.glob("**/training_solutions_rev1.csv")).read_text().splitlines(keepends=True)
    (folder.parent / "training_solutions_rev1.csv").write_text("".join(lines[:301]))
    configs = both_configs(tmp_path, pipeline, image_size=424, crop=204, augmented=True, size=34)
    own, table = (trained(config, tmp_path / f"run{i}") for i, config in enumerate(configs))
    np.testing.assert_array_equal(table, own)
