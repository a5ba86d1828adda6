"""What training minimises, for each galaxy: pure functions of the network's logits and the vote fractions.

All take logits float32 [B, answers] and joint vote fractions float32 [B, answers], and return float32 [B].
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from gz_jax import labels
from gz_jax.labels import Tree

Loss = Callable[[jax.Array, jax.Array, labels.Activation, Tree], jax.Array]
Name = Literal["mse", "binomial", "multinomial"]
_TINY = 1e-6  # from 1, which no vote of 44 can tell


def squared_error(logits: jax.Array, votes: jax.Array, activation: labels.Activation, tree: Tree) -> jax.Array:
    """Mean over the answers (paper equation 2, squared): what the competition and the log measure."""
    return jnp.square(labels.activate(logits, activation, tree) - votes).mean(-1)


def binomial(logits: jax.Array, votes: jax.Array, activation: labels.Activation, tree: Tree) -> jax.Array:
    """Binary cross entropy, mean over the answers: each volunteer gives each answer or not."""
    if activation == "sigmoid":  # from the logits, whose gradient never vanishes where the network is wrong
        return optax.losses.sigmoid_binary_cross_entropy(logits, votes).mean(-1)
    log_p = labels.log_joint(logits, activation, tree)
    return -(votes * log_p + (1 - votes) * jnp.log1p(-jnp.minimum(jnp.exp(log_p), 1 - _TINY))).mean(-1)


def multinomial(logits: jax.Array, votes: jax.Array, activation: labels.Activation, tree: Tree) -> jax.Array:
    """Cross entropy of each question's answers among those who were asked it, summed over the questions.

    The joint vote fractions are its weights, so a question counts as much as volunteers came to it. Needs an activation
    that obeys the tree. Source: Walmsley et al. 2020 (MNRAS 491, 1554), section 3.1, for many volunteers.
    """
    if activation == "sigmoid":
        raise ValueError("the multinomial loss needs an activation that obeys the tree, not 'sigmoid'")
    return -(votes * labels.log_conditional(logits, activation, tree)).sum(-1)


LOSSES: dict[Name, Loss] = {"mse": squared_error, "binomial": binomial, "multinomial": multinomial}
