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


def _ancestors() -> np.ndarray:
    """[4, 37]: each answer's own column and those of the answers that lead to it; 37 where there are no more."""
    rows = np.full((4, NUM_ANSWERS), NUM_ANSWERS, np.int32)
    for column in range(NUM_ANSWERS):
        at: int | None = column
        for level in range(4):
            if at is not None:
                rows[level, column] = at
                at = QUESTIONS[QUESTION_OF[at]].parent
    return rows


# Index tables keep the compiled graphs small: questions as the rows of an 11 x 7 table, padded where MASK is False.
_WIDEST = max(len(q.answers) for q in QUESTIONS)
_TABLE = np.array([[min(q.start + i, q.stop - 1) for i in range(_WIDEST)] for q in QUESTIONS], np.int32)
_MASK = np.array([[q.start + i < q.stop for i in range(_WIDEST)] for q in QUESTIONS])
_FLAT = np.flatnonzero(_MASK).astype(np.int32)
_ANCESTORS = _ancestors()


def _by_question(columns: jax.Array) -> jax.Array:
    return columns[..., _TABLE]


def _by_column(table: jax.Array) -> jax.Array:
    return table.reshape(*table.shape[:-2], -1)[..., _FLAT]


def joint(conditional: jax.Array) -> jax.Array:
    """Multiply each question's conditional fractions down the tree.

    Args:
      conditional: [..., 37]; each question's answers sum to 1.

    Returns:
      [..., 37] joint fractions; each question sums to the fraction of the answer that leads to it.
    """
    one = jnp.ones((*conditional.shape[:-1], 1), conditional.dtype)
    return jnp.prod(jnp.concatenate([conditional, one], -1)[..., _ANCESTORS], axis=-2)


def conditional(joint_fractions: jax.Array) -> jax.Array:
    """Divide each question by its sum: the fractions among those who were asked it. Inverse of `joint`.

    Where nobody was asked (the sum is 0) the answers share equally, so `joint(conditional(x)) == x` for x that obeys
    the tree, and no NaN can arise, in the value or in the gradient.

    Args:
      joint_fractions: [..., 37], non-negative.

    Returns:
      [..., 37]; each question's answers sum to 1.
    """
    table = jnp.where(_MASK, _by_question(joint_fractions), 0)
    total = table.sum(-1, keepdims=True)
    asked = total > 0
    equal = (1 / _MASK.sum(-1, keepdims=True)).astype(np.float32)
    return _by_column(jnp.where(asked, table / jnp.where(asked, total, 1), equal))


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
    return joint(_by_column(jax.nn.softmax(_by_question(values), axis=-1, where=_MASK)))


def log_conditional(logits: jax.Array, method: Literal["divisive", "softmax"]) -> jax.Array:
    """Logarithms of the fractions among those who were asked: [..., 37], finite for finite logits (see `rescale`)."""
    values = _by_question(jax.nn.log_sigmoid(logits) if method == "divisive" else logits)
    return _by_column(jax.nn.log_softmax(jnp.where(_MASK, values, -1e30), axis=-1))


def log_joint(logits: jax.Array, method: Literal["divisive", "softmax"]) -> jax.Array:
    """Logarithms of the vote fractions that `rescale` gives: [..., 37], finite for finite logits."""
    logs = log_conditional(logits, method)
    zero = jnp.zeros((*logs.shape[:-1], 1), logs.dtype)
    return jnp.concatenate([logs, zero], -1)[..., _ANCESTORS].sum(-2)


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
