"""What training's validation, `--mode=evaluate` and prediction show one network: the same images, bit for bit."""

import io
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from configs import default
from gz_jax import resolve
from gz_jax.data import augment, look, packed
from gz_jax.data import pipeline as batches_of
from gz_jax.data.inputs import Catalogue
from gz_jax.data.split import Dataset, Split, fraction_records
from gz_jax.inference import tables
from gz_jax.inference.predict import predict_arrays, predict_catalogue
from gz_jax.inference.trained import Trained
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.modes import reports
from gz_jax.training import dispatch, feed, resident, state, step

SIZE, CROP, SIDE, COUNT = 34, 102, 160, 21


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = images.astype(np.float32) / 255
        return nn.Dense(37)(nn.relu(nn.Dense(16)(x.reshape(len(x), -1))))


def picture(i):
    """Coarse noise of strong colours: a JPEG decoder's interpolation of colours shows."""
    coarse = np.random.default_rng(i).integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
    return np.kron(coarse, np.ones((4, 4, 1), np.uint8))


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def dataset():
    files = np.array([jpeg(picture(i)) for i in range(COUNT)], object)
    rng = np.random.default_rng(0)
    fractions = rng.random((COUNT, 37), np.float32)
    fractions[:, 1:][rng.random((COUNT, 36)) < 0.3] = np.nan
    votes = np.nan_to_num(fractions) * rng.integers(1, 50, (COUNT, 1)).astype(np.float32)
    records = {"image": files, "vote_fractions": fractions, "votes": votes, "galaxy_id": 1000 + 7 * np.arange(COUNT)}
    split = Split(COUNT, lambda i: {name: array[i] for name, array in records.items()})
    return Dataset({"train": split, "validation": split}, "of_jpegs", {}, GALAXY_ZOO_2)


def config_of(pipeline: str, store: pathlib.Path, *, size=SIZE, zoom=1.3):
    config = default.get_config()
    config.batch_size, config.data.pipeline, config.data.store = 8, pipeline, str(store)
    config.data.image_size, config.data.crop, config.data.size = SIDE, CROP, size
    config.augment.update(rotate=True, flip=True, zoom=zoom, shift=3.0)
    return config


def network(config, predict, views=1, weights="a"):
    view = augment.unaugmented(resolve.parts(config, GALAXY_ZOO_2).view)
    return Trained(
        predict,
        config,
        GALAXY_ZOO_2,
        view,
        resolve.seen(config),
        views,
        pathlib.Path("net"),
        "net",
        0,
        {"val_loss": 0.1},
        weights,
        "none",
        lambda images: (predict(images), predict(images)),
    )


@pytest.mark.parametrize("size", [SIZE, 40], ids=["boxes", "samples"])
@pytest.mark.parametrize("pipeline", ["stream", "memory", "device"])
def test_evaluation_sees_what_trainings_validation_saw(dataset, pipeline, size, tmp_path):
    config = config_of(pipeline, tmp_path, size=size)
    _, view, augmentation = resolve.parts(config, GALAXY_ZOO_2)
    mesh, recipe = state.make_mesh(jax.devices()[:1]), resolve.recipe(config, GALAXY_ZOO_2, Tiny(), 1)
    data, steps = feed.feed(dataset, view, augmentation, recipe, resolve.feeding(config), mesh)
    params = state.initial_variables(Tiny(), size, jax.random.key(0))["params"]
    if pipeline == "device":
        there = resident.put(feed.pack(dataset, view, augmentation, config.data.store)[1], mesh)
        batches = [resident.look(there, p, i, view) for p in data.validation() for i in range(p.count)]
    else:
        batches = list(data.validation())
    validated = np.concatenate([np.asarray(b["image"])[np.asarray(b["mask"])] for b in batches])
    log = dispatch.evaluate(steps, params, {}, data.validation())

    shown = []
    one = jax.jit(
        lambda x: step.predict_step(params, {}, x, apply=Tiny().apply, activation="sigmoid", tree=GALAXY_ZOO_2)
    )

    def predict(images):
        shown.append(images)
        return np.asarray(one(images))[None]

    _, truth, predicted, _ = reports.predict_split(network(config, predict), dataset.splits["validation"])
    np.testing.assert_array_equal(np.concatenate(shown)[:COUNT], validated)
    assert np.isnan(truth).any()
    by_galaxy = np.nanmean(np.square(predicted[0] - truth), axis=1, dtype=np.float64)
    assert by_galaxy.mean() == pytest.approx(log["loss"], rel=2e-6)
    files = dataset.splits["validation"].read(np.arange(COUNT))["image"]
    catalogue = Catalogue(np.arange(COUNT), files.__getitem__, "memory")
    shown.clear()
    predict_catalogue(catalogue, tmp_path / "out", [network(config, predict)], batch_size=4, progress=False)
    assert sum(map(len, shown)) >= COUNT
    np.testing.assert_array_equal(np.concatenate(shown)[:COUNT], validated)


@pytest.mark.parametrize("pipeline", ["stream", "memory", "device"])
@pytest.mark.parametrize("named", [True, False])
def test_a_batch_is_named_by_the_ids_that_a_person_knows(dataset, pipeline, named, tmp_path):
    """The galaxies of a batch whose loss is not finite: texts where the ids are texts."""
    split, config = dataset.splits["train"], config_of(pipeline, tmp_path)
    names = np.array([f"J{i:03}" for i in range(COUNT)])
    split = split._replace(names=names if named else None)
    dataset = dataset._replace(splits={"train": split, "validation": split})
    _, view, augmentation = resolve.parts(config, GALAXY_ZOO_2)
    mesh, recipe = state.make_mesh(jax.devices()[:1]), resolve.recipe(config, GALAXY_ZOO_2, Tiny(), 1)
    data, _ = feed.feed(dataset, view, augmentation, recipe, resolve.feeding(config), mesh)
    rows = batches_of.train_indices(COUNT, 8, seed=config.seed, epoch=1)[2]
    np.testing.assert_array_equal(data.galaxy_ids(1, 2), names[rows] if named else 1000 + 7 * rows)
    np.testing.assert_array_equal(packed.decoded(split, view, final=True).names, split.names)


def recorder(shown):
    def predict(images, **how):
        shown.append(images)
        return np.full((16 if images.ndim == 5 else 1, len(images), 37), 0.1, np.float32)

    return predict


def ramp():
    """Brightness that rises along x in red and along y in green: any view of it is known."""
    at = np.broadcast_to((np.arange(SIDE) - (SIDE - 1) / 2) * 0.8 + 128, (SIDE, SIDE))
    return np.rint(np.stack([at, at.T, np.full_like(at, 77)], -1)).astype(np.uint8)


def turned_ramp():
    at = (np.arange(SIZE) - (SIZE - 1) / 2) * CROP / SIZE * 0.8 / np.sqrt(2)
    return 128 + np.stack([at[None, :] - at[:, None], at[None, :] + at[:, None]], -1)


@pytest.mark.parametrize("pipeline", ["stream", "memory"])
def test_sixteen_views_of_evaluation_show_the_sky_beyond_the_square(pipeline, tmp_path):
    file, shown = jpeg(ramp()), []
    files, labels = np.array([file] * 3, object), fraction_records(np.zeros((3, 37), np.float32))
    split = Split(3, lambda i: {"image": files[i], "galaxy_id": i, **{name: x[i] for name, x in labels.items()}})
    _, _, predicted, _ = reports.predict_split(network(config_of(pipeline, tmp_path), recorder(shown), 16), split)
    assert predicted.shape == (16, 3, 37)
    (batch,) = shown
    assert batch.shape[1:] == (2, SIZE, SIZE, 3)
    whole = packed.cut_out(file, SIDE)
    np.testing.assert_array_equal(batch[0], look.cutouts(whole, CROP, SIZE, turned=True))
    assert np.abs(batch[0, 1, ..., :2] - turned_ramp()).max() <= 4  # a JPEG's colours
    assert np.abs(turned_ramp()[0, -1] - 128).max() > 1.3 * 0.8 * CROP / 2  # brighter than any pixel of the square


@pytest.mark.parametrize("kind", ["files", "arrays", "ensemble"])
def test_sixteen_views_of_prediction_show_the_sky_beyond_the_square(kind, tmp_path, monkeypatch):
    config, shown, plain = config_of("memory", tmp_path), [], []
    many = network(config, recorder(shown), 16)
    networks = [many, network(config, recorder(plain), weights="b")] if kind == "ensemble" else [many]
    paths = [tmp_path / "ramp.png", tmp_path / "none.png"]
    Image.fromarray(ramp()).save(paths[0])
    if kind == "arrays":
        monkeypatch.setattr("gz_jax.inference.trained.load", lambda path, views: many)
        fractions = predict_arrays(ramp()[None], "anywhere", views=16)[1].fractions[0, :1]
    else:
        catalogue = Catalogue(np.arange(2), paths.__getitem__, "two paths")
        predict_catalogue(catalogue, tmp_path / "out", networks, batch_size=4, progress=False)
        fractions = tables.read(tmp_path / "out")["Class1.1"].to_numpy()
    (batch,) = shown
    assert len(batch) == 4
    np.testing.assert_array_equal(batch[0], look.cutouts(ramp(), CROP, SIZE, turned=True))
    assert np.abs(batch[0, 1, ..., :2] - turned_ramp()).max() <= 1
    assert not batch[1:].any()  # no such file, and padding
    np.testing.assert_allclose(fractions, [0.1, np.nan][: len(fractions)], rtol=1e-5)
    for images in plain:
        np.testing.assert_array_equal(images, batch[:, 0])
    assert len(plain) == (kind == "ensemble")
