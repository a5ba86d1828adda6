"""The Galaxy Zoo 2 decision tree as data, and pure functions over it.

The 37 vote fractions of a galaxy are *joint*: an answer's fraction is already multiplied by the fraction of the
answer that leads to its question, so Class7.1 + Class7.2 + Class7.3 = Class1.1, and so on down the tree. Question 6
("anything odd?") sums to 1 in Kaggle's files, as question 1 does.

Sources: Willett et al. 2013 (MNRAS 435, 2835), table 2; Kaggle's "Galaxy Zoo - The Galaxy Challenge"; paper
section 4.3 (rescaling). Every function accepts any leading batch shape and runs under jit, grad and vmap.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Activation = Literal["sigmoid", "divisive", "softmax"]


class Question(NamedTuple):
    """One question: its columns are `start:stop` of the 37; `parent` is the column of the answer leading to it."""

    number: int
    text: str
    start: int
    stop: int
    parent: int | None
    answers: tuple[str, ...]

    @property
    def columns(self) -> slice:
        return slice(self.start, self.stop)


def _questions() -> tuple[Question, ...]:
    table = (
        ("smooth, features or star", None, ("smooth", "features or disk", "star or artifact")),
        ("edge-on disk?", 1, ("edge-on", "not edge-on")),
        ("bar?", 4, ("bar", "no bar")),
        ("spiral arms?", 4, ("spiral", "no spiral")),
        ("bulge prominence", 4, ("no bulge", "just noticeable", "obvious", "dominant")),
        ("anything odd?", None, ("odd", "not odd")),
        ("how rounded?", 0, ("completely round", "in between", "cigar-shaped")),
        (
            "odd feature",
            13,
            ("ring", "lens or arc", "disturbed", "irregular", "other", "merger", "dust lane"),
        ),
        ("bulge shape, edge-on", 3, ("rounded bulge", "boxy bulge", "no bulge, edge-on")),
        ("arm tightness", 7, ("tight arms", "medium arms", "loose arms")),
        ("number of arms", 7, ("1 arm", "2 arms", "3 arms", "4 arms", "more than 4", "can't tell")),
    )
    questions, start = [], 0
    for number, (text, parent, answers) in enumerate(table, 1):
        questions.append(Question(number, text, start, start + len(answers), parent, answers))
        start += len(answers)
    return tuple(questions)


QUESTIONS: tuple[Question, ...] = _questions()
COLUMNS: tuple[str, ...] = tuple(f"Class{q.number}.{i}" for q in QUESTIONS for i in range(1, len(q.answers) + 1))
ANSWERS: tuple[str, ...] = tuple(answer for q in QUESTIONS for answer in q.answers)
QUESTION_OF: tuple[int, ...] = tuple(i for i, q in enumerate(QUESTIONS) for _ in q.answers)
NUM_ANSWERS: int = len(COLUMNS)
MERGER: int = COLUMNS.index("Class8.6")


def joint(conditional: jax.Array) -> jax.Array:
    """Multiply each question's conditional fractions down the tree.

    Args:
      conditional: [..., 37]; each question's answers sum to 1.

    Returns:
      [..., 37] joint fractions; each question sums to the fraction of the answer that leads to it.
    """
    # A question's parent may stand in a later question of the list only by mistake: the table is in tree order
    # (1, then 2 and 7, then 3-5 and 9, then 10 and 11; 6, then 8), so one pass suffices.
    columns: list[jax.Array] = []
    for q in QUESTIONS:
        part = conditional[..., q.columns]
        if q.parent is not None:
            part = part * columns[q.parent][..., None]
        columns.extend(part[..., i] for i in range(len(q.answers)))
    return jnp.stack(columns, axis=-1)


def conditional(joint_fractions: jax.Array) -> jax.Array:
    """Divide each question by its sum: the fractions among those who were asked it. Inverse of `joint`.

    Where nobody was asked (the sum is 0) the answers share equally, so `joint(conditional(x)) == x` always and no
    NaN can arise, in the value or in the gradient.

    Args:
      joint_fractions: [..., 37], non-negative.

    Returns:
      [..., 37]; each question's answers sum to 1.
    """
    parts = []
    for q in QUESTIONS:
        part = joint_fractions[..., q.columns]
        total = part.sum(-1, keepdims=True)
        asked = total > 0
        parts.append(jnp.where(asked, part / jnp.where(asked, total, 1), 1 / len(q.answers)))
    return jnp.concatenate(parts, axis=-1)


def rescale(logits: jax.Array, method: Literal["divisive", "softmax"]) -> jax.Array:
    """The paper's rescaling activation (section 4.3): normalise each question, then multiply down the tree.

    'divisive' divides the sigmoids of a question's logits by their sum; it is computed as the softmax of the
    log-sigmoids, which is the same number without the 0/0 at strongly negative logits. 'softmax' exponentiates the
    logits themselves.

    Args:
      logits: [..., 37], any finite values.
      method: 'divisive' or 'softmax'.

    Returns:
      [..., 37] joint vote fractions in 0..1 that obey the tree, in the dtype of `logits`.
    """
    values = jax.nn.log_sigmoid(logits) if method == "divisive" else logits
    return joint(jnp.concatenate([jax.nn.softmax(values[..., q.columns], axis=-1) for q in QUESTIONS], axis=-1))


def activate(logits: jax.Array, activation: Activation) -> jax.Array:
    """Vote fractions [..., 37] from a network's logits [..., 37].

    'sigmoid' treats the 37 answers independently (the paper's first two models); 'divisive' and 'softmax' obey the
    tree (see `rescale`).

    Raises:
      ValueError: unknown activation.
    """
    if activation == "sigmoid":
        return jax.nn.sigmoid(logits)
    if activation in ("divisive", "softmax"):
        return rescale(logits, activation)
    raise ValueError(f"activation {activation!r} is not one of 'sigmoid', 'divisive', 'softmax'")


def tree_violation(fractions: np.ndarray) -> np.ndarray:
    """How far each question's sum lies from the answer that leads to it: [..., 11], absolute, NumPy float64."""
    fractions = np.asarray(fractions, np.float64)
    return np.stack(
        [
            np.abs(fractions[..., q.columns].sum(-1) - (1.0 if q.parent is None else fractions[..., q.parent]))
            for q in QUESTIONS
        ],
        axis=-1,
    )
