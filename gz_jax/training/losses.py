"""What training minimises, for each galaxy: pure functions of the network's logits and the labels.

All take logits float32 [B, answers], joint vote fractions float32 [B, answers] with NaN where unknown, and votes
float32 [B, answers] in units of a nominal number of volunteers (0 where nobody was asked); they return float32 [B].
Unknown answers change neither the loss nor its gradient.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from gz_jax import labels
from gz_jax.labels import Tree

Loss = Callable[[jax.Array, jax.Array, jax.Array, labels.Activation, Tree], jax.Array]
Name = Literal["mse", "binomial", "multinomial", "dirichlet"]
_TINY = 1e-6  # probabilities stay so far below 1; one vote of 44 is much more


def mean_of_known(values: jax.Array, known: jax.Array) -> jax.Array:
    """Mean of `values` [..., answers] over the answers that are known: [...], 0 if none is known."""
    return jnp.where(known, values, 0).sum(-1) / jnp.maximum(known.sum(-1), 1)


def _known(fractions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The fractions, 0 where unknown, so that no NaN reaches a gradient; and a mask, True where they are known."""
    known = ~jnp.isnan(fractions)
    return jnp.where(known, fractions, 0), known


def squared_error(
    logits: jax.Array, fractions: jax.Array, votes: jax.Array, activation: labels.Activation, tree: Tree
) -> jax.Array:
    """Mean over the known answers (paper equation 2, squared): what the competition and the log measure.

    The votes are not used: every galaxy weighs the same.
    """
    fractions, known = _known(fractions)
    return mean_of_known(jnp.square(labels.activate(logits, activation, tree) - fractions), known)


def binomial(
    logits: jax.Array, fractions: jax.Array, votes: jax.Array, activation: labels.Activation, tree: Tree
) -> jax.Array:
    """Binary cross entropy, averaged over the known answers, times the number of volunteers.

    Each volunteer gives each answer or does not. Up to a constant this is minus the logarithm of the likelihood of the
    votes, in nats (Walmsley et al. 2020, MNRAS 491, 1554, section 3.1), divided by the number of known answers. The
    number of volunteers, in nominal units, is the largest number of votes of a question, since nobody is asked a
    question twice; without votes the loss is 0.
    """
    volunteers = jnp.where(tree.mask, votes[..., tree.rows], 0).sum(-1).max(-1)
    fractions, known = _known(fractions)
    if activation == "sigmoid":  # from the logits: the gradient does not vanish where the network is wrong
        return volunteers * mean_of_known(optax.losses.sigmoid_binary_cross_entropy(logits, fractions), known)
    log_p = labels.log_joint(logits, activation, tree)
    log_not = jnp.log1p(-jnp.minimum(jnp.exp(log_p), 1 - _TINY))
    return -volunteers * mean_of_known(fractions * log_p + (1 - fractions) * log_not, known)


def multinomial(
    logits: jax.Array, fractions: jax.Array, votes: jax.Array, activation: labels.Activation, tree: Tree
) -> jax.Array:
    """Cross entropy of each question's answers among those who were asked it, summed over the questions.

    The votes are the weights, so a question counts in proportion to the volunteers who were asked it. The fractions are
    not used. Up to a constant this is minus the logarithm of the multinomial likelihood of the votes, in nats; for two
    answers it is the binomial likelihood of Walmsley et al. 2020 (MNRAS 491, 1554), section 3.1. Needs an activation
    that obeys the tree.
    """
    if activation == "sigmoid":
        raise ValueError("the multinomial loss needs an activation that obeys the tree, not 'sigmoid'")
    return -(votes * labels.log_conditional(logits, activation, tree)).sum(-1)


def log_rising(x: jax.Array, n: jax.Array) -> jax.Array:
    """ln Gamma(x + n) - ln Gamma(x), for x > 0 and n >= 0, without the difference of two large numbers.

    From Stirling's series at x + 8 (Abramowitz & Stegun 6.1.40), and the recurrence of Gamma down to x. It is exactly 0
    at n = 0, and so is its gradient with respect to x.
    """

    def rest(z: jax.Array) -> jax.Array:
        return (1 / 12 - (1 / 360 - 1 / (1260 * z * z)) / (z * z)) / z

    y = x + 8
    steps = sum(jnp.log1p(n / (x + k)) for k in range(8))
    found = (y + n - 0.5) * jnp.log1p(n / y) + n * (jnp.log(y) - 1) + (rest(y + n) - rest(y)) - steps
    return jnp.where(n > 0, found, 0)  # otherwise rounding may leave a gradient at n = 0


def dirichlet(
    logits: jax.Array,
    fractions: jax.Array,
    votes: jax.Array,
    activation: labels.Activation,
    tree: Tree,
    nominal: float = 44.0,
) -> jax.Array:
    """Minus the logarithm of the Dirichlet-multinomial likelihood of each question's votes, summed over the questions.

    The volunteers who are asked a question draw their answers from fractions that are themselves drawn from a Dirichlet
    distribution, whose concentrations are the network's outputs (Walmsley et al. 2022, MNRAS 509, 3966, section 3.2).
    The loss is in nats, without the multinomial coefficient, which does not depend on the outputs. It is divided by
    `nominal`, the number of volunteers that is the unit of the votes, so that its scale is that of the other losses.
    The fractions are not used.
    """
    if activation != "dirichlet":
        raise ValueError(f"the dirichlet loss needs activation 'dirichlet', not {activation!r}")
    counts, concentrations = nominal * votes, jnp.exp(labels.log_concentrations(logits))
    asked, total = labels.of_questions(counts, tree), labels.of_questions(concentrations, tree)
    return (log_rising(total, asked).sum(-1) - log_rising(concentrations, counts).sum(-1)) / nominal


LOSSES: dict[Name, Loss] = {
    "mse": squared_error,
    "binomial": binomial,
    "multinomial": multinomial,
    "dirichlet": dirichlet,
}
