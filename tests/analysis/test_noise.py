"""The part of the squared error that is the votes' own noise."""

import numpy as np
import pytest

from gz_jax import labels
from gz_jax.analysis import noise

TREE = labels.GALAXY_ZOO_2


def true_fractions(count, seed=0):
    """Joint fractions of random galaxies, float64 [count, answers]."""
    rng = np.random.default_rng(seed)
    return np.float64(labels.joint(np.float32(labels.conditional(np.float32(rng.gamma(0.5, size=(count, 37)))))))


def votes(true, volunteers, seed=1):
    """Fractions of volunteers who walk down the tree, each galaxy with so many of them."""
    rng, found = np.random.default_rng(seed), np.zeros_like(true)
    for row, count in enumerate(volunteers):
        asked = np.zeros(len(TREE.questions), int)
        counts = np.zeros(true.shape[1])
        for question, part in enumerate(TREE.slices):
            parents = list(TREE.parents[question])
            asked[question] = counts[parents].sum() if parents else count
            shares = true[row, part] / max(true[row, part].sum(), 1e-30)
            counts[part] = rng.multinomial(asked[question], shares / max(shares.sum(), 1e-30))
        found[row] = counts / count
    return found


def test_the_estimate_is_the_error_of_a_network_that_knows_the_truth():
    """Mean of the estimate against the mean squared error of the true fractions, which are drawn once per galaxy."""
    count = 3000
    volunteers = np.random.default_rng(5).integers(2, 60, count)
    true = true_fractions(count)
    seen = votes(true, volunteers)
    squared, estimate = np.square(seen - true), noise.vote_noise(seen, volunteers)
    off = (squared - estimate).mean(1)
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(count)
    assert estimate.mean() > 20 * off.std() / np.sqrt(count)  # the test could see an error of a fifth
    assert abs(off[volunteers < 10].mean()) < 4 * off[volunteers < 10].std() / np.sqrt((volunteers < 10).sum())


def test_variance_by_hand():
    """Two volunteers who disagree: f = 1/2, so (1/2)(1/2)/(2 - 1)."""
    np.testing.assert_allclose(noise.vote_noise(np.array([[0.5, 0.0, 1.0]]), np.array([2])), [[0.25, 0, 0]])


def test_entropy_by_hand():
    """Half of the volunteers say smooth, half a disk, whose next question all answer alike: 1 bit."""
    joint = np.zeros((3, 37))
    joint[0, :2] = 0.5
    joint[0, TREE.columns.index("Class2.1")] = 0.5
    joint[0, TREE.columns.index("Class7.1")] = 0.5
    joint[0, TREE.columns.index("Class9.1")] = 0.5
    joint[0, TREE.columns.index("Class6.2")] = 1
    joint[1, [0, TREE.columns.index("Class7.1"), TREE.columns.index("Class6.2")]] = 1  # all agree
    joint[2] = joint[1]
    joint[2, TREE.columns.index("Class7.1")] = joint[2, TREE.columns.index("Class7.2")] = 0.5
    np.testing.assert_allclose(noise.entropy(joint, TREE), [1, 0, 1], atol=1e-12)


def test_parts_add_up_and_groups_are_ordered():
    true, volunteers = true_fractions(200), np.full(200, 44)
    seen = votes(true, volunteers)
    found = noise.budget(seen, true, volunteers, TREE, groups=5)
    assert found.error.sum() == pytest.approx(np.square(seen - true).mean(), rel=1e-12)
    assert found.noise.sum() == pytest.approx(noise.vote_noise(seen, volunteers).mean(), rel=1e-12)
    assert found.group_error.mean() == pytest.approx(found.error.sum(), rel=1e-12)  # five equal groups
    assert (np.diff(found.entropy) > 0).all()
    assert found.galaxies == 200


def test_galaxies_that_cannot_be_judged_are_left_out():
    true, volunteers = true_fractions(30), np.full(30, 44)
    truth = votes(true, volunteers)
    truth[:5, 3] = np.nan
    volunteers[5:10] = 1
    found = noise.budget(truth, true, volunteers, TREE, groups=4)
    assert found.galaxies == 20
    assert np.isfinite(np.concatenate(found[:-1])).all()
    assert noise.budget(truth, true, np.ones(30), TREE) is None
