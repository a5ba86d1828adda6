"""Folds: each galaxy validates once, whatever the source."""

import numpy as np
import pytest

from gz_jax import fields, resolve
from gz_jax.data import synthetic
from gz_jax.data.kaggle_split import side
from gz_jax.runtime.errors import UserError


@pytest.mark.parametrize("folds", [2, 3, 5, 7])
def test_folds_are_a_partition_of_about_equal_parts(folds):
    ids = np.arange(100_000, 130_000)
    parts = np.array([side(ids, 3, 0.2, (k, folds)) for k in range(folds)])
    assert (parts.sum(0) == 1).all()
    spread = np.sqrt(len(ids) * (1 / folds) * (1 - 1 / folds))
    assert np.abs(parts.sum(1) - len(ids) / folds).max() < 4 * spread


def test_the_first_of_five_folds_is_the_usual_fifth():
    ids = np.arange(10_000)
    np.testing.assert_array_equal(side(ids, 0, 0.9, (0, 5)), side(ids, 0, 0.2))


def test_synthetic_folds_are_the_same_galaxies_divided_in_another_way():
    whole, folds = synthetic.make_dataset(40, seed=1, size=16), []
    for k in range(3):
        folds.append(synthetic.make_dataset(40, seed=1, size=16, fold=(k, 3)))
    ids = [dataset.splits["validation"].read(np.arange(dataset.splits["validation"].size)) for dataset in folds]
    everyone = np.concatenate([one["galaxy_id"] for one in ids])
    assert len(everyone) == len(set(everyone.tolist())) == 40
    assert len({whole.fingerprint, *(dataset.fingerprint for dataset in folds)}) == 4
    assert all(dataset.splits["train"].size + dataset.splits["validation"].size == 40 for dataset in folds)


def test_a_config_names_a_fold():
    config = fields.default()
    config.data.source, config.data.num_galaxies, config.data.folds, config.data.fold = "synthetic", 40, 4, 3
    fields.check(config)
    dataset = resolve.dataset(config, resolve.tree(config))
    expected = synthetic.make_dataset(40, seed=0, size=68, fold=(3, 4))
    assert dataset.fingerprint == expected.fingerprint


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (3, 3), (0, 1)])
def test_a_fold_that_is_none_is_refused(folds, fold):
    config = fields.default()
    config.data.folds, config.data.fold = folds, fold
    with pytest.raises(UserError, match=rf"--config.data.fold={fold} of --config.data.folds={folds}: take 2 folds"):
        fields.check(config)
