"""Vote fractions: pure functions over any decision tree.

Volunteers answer a tree of questions about each galaxy. The *conditional* fraction of an answer is its share among
those who were asked the question; the *joint* fraction is its share among all volunteers: conditional times the sum of
the joint fractions of the answers that lead to the question. Kaggle's vote fractions are joint.

`GALAXY_ZOO_2` is the default tree. `load` reads the trees of other surveys (`trees/`) or a file of your own.

Sources: paper section 4.3 (rescaling); the trees' citations. Every function accepts any leading batch shape and runs
under jit, grad and vmap; a `Tree` is hashable, so it can be a static argument of `jax.jit`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gz_jax.trees.reading import as_dict, differences, from_dict, load, names
from gz_jax.trees.tree import Question, Tree

__all__ = [
    "GALAXY_ZOO_2", "Activation", "Question", "Tree", "activate", "as_dict", "conditional", "differences", "from_dict",
    "joint", "load", "log_concentrations", "log_conditional", "log_joint", "names", "of_questions", "rescale",
    "tree_violation",
]  # fmt: skip

Activation = Literal["sigmoid", "divisive", "softmax", "dirichlet"]
Method = Literal["divisive", "softmax", "dirichlet"]

GALAXY_ZOO_2: Tree = load("galaxy_zoo_2")


def _by_question(columns: jax.Array, tree: Tree) -> jax.Array:
    if columns.shape[-1] != len(tree.columns):
        wanted = f"{len(tree.columns)} answers of {tree.name}"
        raise ValueError(f"the last axis of an array {columns.shape} must have the {wanted}")
    return columns[..., tree.rows]


def _by_column(table: jax.Array, tree: Tree) -> jax.Array:
    return table.reshape(*table.shape[:-2], -1)[..., np.flatnonzero(tree.mask).astype(np.int32)]


def of_questions(values: jax.Array, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """Sum of each question's answers: [..., answers] -> [..., questions]."""
    return jnp.where(tree.mask, _by_question(values, tree), 0).sum(-1)


def joint(conditional: jax.Array, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """Multiply each question's conditional fractions by the share of those who were asked it.

    Args:
      conditional: [..., answers]; each question's answers sum to 1.

    Returns:
      [..., answers] joint fractions; each question sums to the sum of the answers that lead to it.
    """
    one = jnp.ones((*conditional.shape[:-1], 1), conditional.dtype)
    found = jnp.concatenate([conditional, one], -1)
    for question in tree.joined:
        parents = jnp.prod(found[..., tree.chains[:, list(tree.parents[question])]], axis=-2)
        found = jnp.concatenate([found, parents.sum(-1, keepdims=True)], -1)
    return jnp.prod(found[..., tree.chains], axis=-2)


def conditional(joint_fractions: jax.Array, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """Divide each question by its sum: the fractions among those who were asked it. Inverse of `joint`.

    Where nobody was asked (the sum is 0) the answers share equally, so `joint(conditional(x)) == x` for x that obeys
    the tree, and no NaN can arise, in the value or in the gradient.

    Args:
      joint_fractions: [..., answers], non-negative.

    Returns:
      [..., answers]; each question's answers sum to 1.
    """
    table = jnp.where(tree.mask, _by_question(joint_fractions, tree), 0)
    total = table.sum(-1, keepdims=True)
    asked = total > 0
    equal = (1 / tree.mask.sum(-1, keepdims=True)).astype(np.float32)
    return _by_column(jnp.where(asked, table / jnp.where(asked, total, 1), equal), tree)


def log_concentrations(logits: jax.Array) -> jax.Array:
    """Logarithms of the concentrations of each question's Dirichlet distribution: [..., answers], between -9 and 9.

    Logits near 0 are almost unchanged. The bounds of the concentrations, 1e-4 and 8,100, keep the likelihood of any
    votes finite.
    """
    return 9 * jnp.tanh(logits / 9)


def _values(logits: jax.Array, method: Method) -> jax.Array:
    """The values whose softmax over each question's answers gives the fractions."""
    if method == "divisive":
        return jax.nn.log_sigmoid(logits)
    return log_concentrations(logits) if method == "dirichlet" else logits


def rescale(logits: jax.Array, method: Method, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """The paper's rescaling activation (section 4.3): normalise each question, then multiply down the tree.

    'divisive' divides the sigmoids of a question's logits by their sum; it is computed as the softmax of the
    log-sigmoids, which is the same number without the 0/0 at strongly negative logits. 'softmax' exponentiates the
    logits themselves. 'dirichlet' divides concentrations by their sum: the expected fractions.

    Args:
      logits: [..., answers], any finite values.
      method: 'divisive', 'softmax' or 'dirichlet'.

    Returns:
      [..., answers] joint vote fractions in 0..1 that obey the tree, in the dtype of `logits`.
    """
    softmax = jax.nn.softmax(_by_question(_values(logits, method), tree), axis=-1, where=tree.mask)
    return joint(_by_column(softmax, tree), tree)


def log_conditional(logits: jax.Array, method: Method, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """Logarithms of the fractions among those who were asked: [..., answers], finite for finite logits."""
    values = _by_question(_values(logits, method), tree)
    return _by_column(jax.nn.log_softmax(jnp.where(tree.mask, values, -1e30), axis=-1), tree)


def log_joint(logits: jax.Array, method: Method, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """Logarithms of the vote fractions that `rescale` gives: [..., answers], finite for finite logits."""
    logs = log_conditional(logits, method, tree)
    found = jnp.concatenate([logs, jnp.zeros((*logs.shape[:-1], 1), logs.dtype)], -1)
    for question in tree.joined:
        parents = found[..., tree.chains[:, list(tree.parents[question])]].sum(-2)
        found = jnp.concatenate([found, jax.nn.logsumexp(parents, -1, keepdims=True)], -1)
    return found[..., tree.chains].sum(-2)


def activate(logits: jax.Array, activation: Activation, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """Vote fractions [..., answers] from a network's logits [..., answers].

    'sigmoid' treats the answers independently (the paper's first two models); the others obey the tree (see `rescale`).

    Raises:
      ValueError: unknown activation.
    """
    if activation == "sigmoid":
        return jax.nn.sigmoid(logits)
    if activation in ("divisive", "softmax", "dirichlet"):
        return rescale(logits, activation, tree)
    raise ValueError(f"activation {activation!r} is not one of 'sigmoid', 'divisive', 'softmax', 'dirichlet'")


def tree_violation(fractions: np.ndarray, tree: Tree = GALAXY_ZOO_2) -> np.ndarray:
    """Absolute difference of each question's sum and the sum of the answers leading to it: float64 [..., questions]."""
    fractions = np.asarray(fractions, np.float64)
    asked = [fractions[..., list(p)].sum(-1) if p else 1.0 for p in tree.parents]
    sums = [fractions[..., s].sum(-1) for s in tree.slices]
    return np.abs(np.stack(np.broadcast_arrays(*sums), -1) - np.stack(np.broadcast_arrays(*asked, sums[0])[:-1], -1))
