import io

import numpy as np
import pytest
from PIL import Image

from gz_jax.data import augment, packed, pipeline
from gz_jax.data.augment import Augmentation
from gz_jax.data.split import Split, fraction_records

ROTATE = Augmentation(rotate=True, flip=True)
SIZE, CROP, SIDE = 34, 102, 160


def jpeg(i):
    image = np.random.default_rng(i).integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.kron(image, np.ones((4, 4, 1), np.uint8))).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def split():
    """23 galaxies as JPEG bytes, ids 1000 + 7 i, the first vote fraction i / 100, the last one of some unknown."""
    records = {"image": np.array([jpeg(i) for i in range(23)], object), "galaxy_id": 1000 + 7 * np.arange(23)}
    fractions = np.repeat(np.arange(23, dtype=np.float32)[:, None] / 100, 37, 1)
    fractions[::3, -1] = np.nan
    records |= {"vote_fractions": fractions, "votes": np.nan_to_num(fractions) * np.float32(7)}
    return Split(23, lambda index: {name: array[index] for name, array in records.items()})


def epoch(split, augmentation=ROTATE, **kwargs):
    view = augment.view(SIZE, CROP, SIDE, augmentation)
    arguments = {"batch_size": 8, "seed": 0, "epoch": 0, **kwargs}
    return list(pipeline.train_batches(split, view, augmentation, **arguments))


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x[k], y[k], True) for x, y in zip(a, b, strict=True) for k in x)


def test_three_runs_of_a_seed_agree_bit_for_bit(split):
    first, *others = [epoch(split) for _ in range(3)]
    assert [b["image"].shape for b in first] == [(8, SIZE, SIZE, 3)] * 3
    assert first[0]["image"].dtype == np.uint8
    assert all(same(first, other) for other in others)
    assert not same(first, epoch(split, seed=1))
    assert not same(first, epoch(split, epoch=1))


def test_an_epoch_begun_in_the_middle_goes_on_the_same(split):
    assert same(epoch(split)[1:], epoch(split, first_step=1))
    assert epoch(split, first_step=3) == []


def test_a_galaxy_is_turned_the_same_whatever_else_is_in_the_set(split):
    view = augment.view(SIZE, CROP, SIDE, ROTATE)
    one = Split(1, lambda index: split.read(index + 5))
    (alone,) = pipeline.train_batches(one, view, ROTATE, batch_size=1, seed=0, epoch=0)
    (everyone,) = epoch(split, batch_size=23)
    np.testing.assert_array_equal(alone["image"], everyone["image"][everyone["galaxy_id"] == 1035])


def test_every_epoch_is_another_permutation(split):
    orders = [pipeline.train_indices(1000, 1000, seed=0, epoch=e)[0] for e in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert (orders[0] == orders[1]).mean() < 0.02
    labels = np.concatenate([b["vote_fractions"][:, 0] for b in epoch(split)])
    ids = np.concatenate([b["galaxy_id"] for b in epoch(split)])
    np.testing.assert_allclose(labels, (ids - 1000) / 700)
    votes = np.concatenate([b["votes"] for b in epoch(split)])
    np.testing.assert_allclose(votes[:, 0], (ids - 1000) / 100)
    np.testing.assert_array_equal(votes[:, -1] == 0, (ids - 1000) % 21 == 0)


def test_processes_share_each_batch(split):
    whole = epoch(split)
    parts = [epoch(split, process_index=p, process_count=2) for p in range(2)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    assert same(whole, joined)


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_meets_every_galaxy_once(split, processes):
    view = augment.view(SIZE, CROP, SIDE)
    ids = []
    for p in range(processes):
        for b in pipeline.eval_batches(split, view, batch_size=8, process_index=p, process_count=processes):
            assert b["image"].shape == (8 // processes, SIZE, SIZE, 3)
            ids.extend(b["galaxy_id"][b["mask"]])
    assert sorted(ids) == [1000 + 7 * i for i in range(23)]


def test_evaluation_without_a_view_is_the_box_mean_of_the_centre(split):
    view = augment.view(SIZE, CROP, SIDE)
    (first, *_) = pipeline.eval_batches(split, view, batch_size=8)
    cut = np.stack([packed.cut_out(data, CROP) for data in split.read(np.arange(8))["image"]])
    step = CROP // SIZE
    mean = cut.reshape(8, SIZE, step, SIZE, step, 3).astype(float).mean((2, 4))
    np.testing.assert_array_equal(first["image"], np.rint(mean))


@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize("augmentation", [Augmentation(), ROTATE], ids=["plain", "rotated"])
def test_cached_cutouts_give_the_same_batches(split, augmentation, to_file, tmp_path):
    view = augment.view(SIZE, CROP, SIDE, augmentation)
    path = tmp_path / "cache" / "train.npy" if to_file else None
    if to_file:
        path.parent.mkdir()
        (path.parent / ".train.npy.partial").write_bytes(b"of a process that was killed")
    cached = packed.pack(split, view, final=augmentation.is_identity, path=path).split()
    for a, b in zip(epoch(split, augmentation), epoch(cached, augmentation), strict=True):
        np.testing.assert_array_equal(a["galaxy_id"], b["galaxy_id"])
        np.testing.assert_array_equal(a["vote_fractions"], b["vote_fractions"])
        np.testing.assert_array_equal(a["votes"], b["votes"])
        np.testing.assert_array_equal(a["image"], b["image"])
    if to_file:
        files = sorted(p.name for p in path.parent.iterdir())
        assert files == [".lock", "train.labels.npz", "train.npy"]
        nothing = {"image": np.empty(1, object), **fraction_records(np.empty((0, 37)))}
        again = packed.pack(Split(23, lambda index: nothing), view, final=augmentation.is_identity, path=path).split()
        assert same([again.read(np.arange(23))], [cached.read(np.arange(23))])
        (path.parent / "train.labels.npz").unlink()  # half of it is lost: decoded again
        anew = packed.pack(split, view, final=augmentation.is_identity, path=path).split()
        assert same([anew.read(np.arange(23))], [cached.read(np.arange(23))])


def test_every_galaxy_is_met_in_every_epoch():
    for size, batch_size, steps in [(23, 8, 3), (24, 8, 3), (5, 8, 1)]:
        indices = pipeline.train_indices(size, batch_size, seed=0, epoch=4)
        assert indices.shape == (steps, batch_size)
        counts = np.bincount(indices.ravel(), minlength=size)
        assert counts.min() >= 1
        assert counts.max() <= -(-steps * batch_size // size)
