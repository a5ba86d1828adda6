"""How much of the squared error is the noise of the votes themselves, which no network can remove.

A vote fraction f of n volunteers scatters around p, the fraction that infinitely many would give. If they answer
independently, the number of those who give an answer, of all n, is binomial. The variance of f is then p (1 - p) / n,
of which f (1 - f) / (n - 1) is an unbiased estimate. A network that knew every p would still have this mean squared
error. Votes that are weighted, as Galaxy Zoo 2's are, scatter a little differently.
"""

from typing import NamedTuple

import numpy as np

from gz_jax.labels import Tree


class Budget(NamedTuple):
    """Where the mean squared error of N galaxies is. `error` includes `noise`, the part that is the votes' own.

    Attributes:
      error, noise: parts of the mean squared error that the answers of each question contribute, float64 [questions];
        their sums are the mean squared error and the noise of the whole.
      entropy: of the votes, bits per volunteer, mean of the galaxies in each group, from the clearest to the most
        disputed, float64 [groups].
      group_error, group_noise: mean squared error and noise of each group, float64 [groups].
      galaxies: how many there are.
    """

    error: np.ndarray
    noise: np.ndarray
    entropy: np.ndarray
    group_error: np.ndarray
    group_noise: np.ndarray
    galaxies: int


def vote_noise(truth: np.ndarray, volunteers: np.ndarray) -> np.ndarray:
    """Estimated variance of each vote fraction, f (1 - f) / (n - 1), of a binomial count: float64 [N, answers].

    Args:
      truth: joint vote fractions f, [N, answers]; volunteers: number of volunteers n of each galaxy, more than 1, [N].
    """
    truth = np.asarray(truth, np.float64)
    return truth * (1 - truth) / (np.asarray(volunteers, np.float64)[:, None] - 1)


def entropy(truth: np.ndarray, tree: Tree) -> np.ndarray:
    """Shannon entropy of a volunteer's answers, all the way down the tree, in bits: float64 [N].

    Of joint vote fractions [N, answers]. By the chain rule of entropy (Shannon 1948, section 6) it is the sum over the
    questions of the share who were asked times the entropy of their answers: 0 where all agree.
    """
    truth = np.asarray(truth, np.float64)
    total = np.zeros(len(truth))
    for part in tree.slices:
        shares = truth[:, part]
        asked = shares.sum(1, keepdims=True)
        of_asked = np.divide(shares, asked, out=np.ones_like(shares), where=shares > 0)
        total -= (shares * np.log2(of_asked)).sum(1)
    return total


def budget(
    truth: np.ndarray, predicted: np.ndarray, volunteers: np.ndarray, tree: Tree, groups: int = 10
) -> Budget | None:
    """Error and noise by question, and by how much the volunteers disagree.

    Args:
      truth, predicted: joint vote fractions [N, answers]; volunteers: number of volunteers of each galaxy [N].
      groups: of galaxies, equally many, by the entropy of their votes.

    Returns:
      Of the galaxies all of whose labels are known and that have more than one volunteer; None where these are fewer
      than the groups.
    """
    use = np.isfinite(truth).all(1) & (np.asarray(volunteers) > 1)
    if use.sum() < groups:
        return None
    truth, predicted = np.asarray(truth[use], np.float64), np.asarray(predicted[use], np.float64)
    squared, noise = np.square(predicted - truth), vote_noise(truth, np.asarray(volunteers)[use])
    starts, answers = [part.start for part in tree.slices], truth.shape[1]
    bits = entropy(truth, tree)
    parts = np.array_split(np.argsort(bits, kind="stable"), groups)
    by_group = [np.array([values[rows].mean() for rows in parts]) for values in (bits, squared.mean(1), noise.mean(1))]
    return Budget(
        error=np.add.reduceat(squared.mean(0), starts) / answers,
        noise=np.add.reduceat(noise.mean(0), starts) / answers,
        entropy=by_group[0],
        group_error=by_group[1],
        group_noise=by_group[2],
        galaxies=len(truth),
    )
