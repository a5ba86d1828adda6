"""`--mode=evaluate` from a data set to files: names, partly unknown labels, test galaxies with and without labels."""

import numpy as np
import pytest
from galaxies import holes, images, pair

from configs import default
from gz_jax import resolve
from gz_jax.data import augment
from gz_jax.data.split import Dataset, Split, fraction_records
from gz_jax.inference import tables
from gz_jax.inference.trained import Trained
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.modes import reports

N = 11


def split_of(votes: np.ndarray, names: np.ndarray | None = None) -> Split:
    """Galaxies of 32 pixels whose galaxy_id falls, and so does not follow the names."""
    pictures = images(np.arange(len(votes)))
    ids = 10**15 - np.arange(len(votes))
    return Split(len(votes), lambda i: {"image": pictures[i], "galaxy_id": ids[i]} | fraction_records(votes[i]), names)


def network(workdir) -> Trained:
    """Predictions that follow from an image alone."""
    config = default.get_config()
    config.batch_size, config.data.pipeline = 4, "memory"
    config.data.image_size, config.data.crop, config.data.size = 32, 32, 32
    view = augment.unaugmented(resolve.parts(config, GALAXY_ZOO_2).view)

    def predict(seen):
        return np.linspace(0, 1, 37, dtype=np.float32) * (np.asarray(seen).mean((1, 2, 3)) / 255)[None, :, None]

    workdir.mkdir()
    how = (config, GALAXY_ZOO_2, view, resolve.seen(config), 1, workdir, "net", 0, {"val_loss": 0.1}, "w", "data")
    return Trained(predict, *how, lambda seen: (predict(seen), predict(seen)))


def test_a_split_with_names_is_known_by_them(tmp_path):
    votes, names = pair(N)[0], np.array([f"J{i}" for i in range(N)])
    plain = reports.predict_split(network(tmp_path / "net"), split_of(votes))
    named = reports.predict_split(network(tmp_path / "other"), split_of(votes, names))
    np.testing.assert_array_equal(plain[0], 10**15 - np.arange(N))
    np.testing.assert_array_equal(named[0], names)
    for one, other in zip(plain[1:], named[1:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_labelled_test_galaxies_get_a_table_and_unlabelled_ones_kaggles_file(tmp_path):
    truth, tested = holes(pair(N)[0]), holes(pair(N, 1)[0])
    tested[[2, 5]] = np.nan
    names = np.array([f"SDSS J{i}" for i in range(N)])
    splits = {"validation": split_of(truth, names), "test": split_of(tested, np.char.add("T", names))}
    model = network(tmp_path / "net")
    numbers = reports.evaluate(model, Dataset(splits, "data", {}, GALAXY_ZOO_2))
    folder = model.workdir / "report"
    ids, votes, predicted = tables.read_validation(folder / "test.parquet")
    rest = np.setdiff1d(np.arange(N), [2, 5])
    np.testing.assert_array_equal(ids, np.char.add("T", names)[rest])
    np.testing.assert_array_equal(votes, tested[rest])
    np.testing.assert_array_equal(predicted, reports.predict_split(model, splits["test"])[2][0][rest])
    np.testing.assert_array_equal(tables.read_validation(folder / "validation.parquet")[0], names)
    assert numbers["test scores"]["galaxies"] == N - 2
    assert not (folder / "submission.csv").exists()
    model = network(tmp_path / "kaggle")
    splits = {"validation": split_of(truth), "test": split_of(np.full((N, 37), np.nan, np.float32))}
    assert "test scores" not in reports.evaluate(model, Dataset(splits, "data", {}, GALAXY_ZOO_2))
    lines = (model.workdir / "report" / "submission.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(10**15 - N + 1, 10**15 + 1)]
    assert not (model.workdir / "report" / "test.parquet").exists()
