"""A table's label columns as joint vote fractions and votes: pure functions of arrays.

Four kinds of labels are published: counts of votes for each answer; conditional fractions, of those who were asked the
question; joint fractions, of all volunteers (Kaggle's); and classes, one answer for each question. All become
  fractions float32 [n, answers]: joint, NaN where unknown;
  votes float32 [n, answers]: how many votes each answer got, divided by a nominal number of volunteers; 0 where
    nobody was asked. If only fractions are known, the nominal number of volunteers is assumed.
The answers to a question that nobody was asked are unknown. Joint fractions give 0 for them, as Kaggle's do, and are
used as they are.

Source of the published kinds: Willett et al. 2013 (MNRAS 435, 2835), section 3; Walmsley et al. 2022 (MNRAS 509, 3966),
appendix A.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from gz_jax.labels import Tree, tree_violation
from gz_jax.trees.tree import nearest

Kind = Literal["counts", "conditional", "joint", "class"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ROUNDING = 0.005  # largest rounding error of a fraction: they are published with two digits or more
MOST = 1e9  # votes of an answer
_OUTSIDE = 1e-5  # a fraction may lie so far outside of 0..1


class Fault(NamedTuple):
    """What is wrong with a row's labels."""

    row: int
    kind: str
    detail: str


class Labels(NamedTuple):
    """Labels of all rows (see the module), NaN and 0 where they are faulty, and the faults."""

    fractions: np.ndarray
    votes: np.ndarray
    faults: list[Fault]


def of_counts(counts: np.ndarray, tree: Tree, nominal: float) -> Labels:
    """Labels from votes for each answer.

    Args:
      counts: float64 [n, answers], NaN where there is none; a whole question without votes was not asked. Weighted
        votes need not be whole.
      nominal: votes that count as one unit.
    """
    faults = [
        *_numbers(counts, tree, "count is infinite", "count is negative or above 1e9", 0, MOST),
        *_partial(counts, tree),
    ]
    counts = _without(counts, faults)
    conditional, totals = np.full(counts.shape, np.nan), np.empty((len(counts), len(tree.questions)))
    for q, answers in enumerate(tree.slices):
        totals[:, q] = total = np.nan_to_num(counts[:, answers].sum(1))
        asked = total > 0
        conditional[asked, answers] = counts[asked, answers] / total[asked, None]
    return _labels(conditional, totals, faults, tree, nominal)


def of_conditional(fractions: np.ndarray, totals: np.ndarray, tree: Tree, nominal: float) -> Labels:
    """Labels from fractions of those who were asked each question.

    Args:
      fractions: float64 [n, answers], NaN where unknown. A question whose fractions are all 0 was not asked.
      totals: float64 [n, questions], votes at each question, NaN where that is not known; 0 says that it was not asked.
      nominal: volunteers taken to have looked where no total is known.
    """
    faults = [
        *_numbers(fractions, tree, "fraction is infinite", "fraction outside 0..1", -_OUTSIDE, 1 + _OUTSIDE),
        *_totals(totals, tree),
        *_partial(fractions, tree),
    ]
    fractions, totals = _without(fractions, faults), _without(totals, faults)
    conditional = np.full(fractions.shape, np.nan)
    for q, answers in enumerate(tree.slices):
        some = fractions[:, answers]
        total = some.sum(1)
        asked = (total > 0) & ~(totals[:, q] == 0)
        wrong = np.flatnonzero(asked & (np.abs(total - 1) > rounding(some.shape[1])))
        faults += [
            Fault(i, "fractions do not add up to 1", f"{tree.questions[q].name}: {total[i]:g}") for i in wrong.tolist()
        ]
        asked[wrong] = False
        conditional[asked, answers] = np.clip(some[asked] / total[asked, None], 0, 1)
    return _labels(conditional, totals, faults, tree, nominal)


def of_joint(fractions: np.ndarray, totals: np.ndarray, tree: Tree, nominal: float) -> Labels:
    """Labels from fractions of all volunteers.

    Args:
      fractions: float64 [n, answers], NaN where unknown; totals: see `of_conditional`.
    """
    faults = [
        *_numbers(fractions, tree, "fraction is infinite", "fraction outside 0..1", -_OUTSIDE, 1 + _OUTSIDE),
        *_totals(totals, tree),
        *_partial(fractions, tree),
    ]
    fractions, totals = _without(fractions, faults), _without(totals, faults)
    sizes = [len(q.answers) + len(parents) for q, parents in zip(tree.questions, tree.parents, strict=True)]
    broken = tree_violation(fractions, tree) > np.array([rounding(size) for size in sizes])
    for i in np.flatnonzero(broken.any(1)).tolist():
        names = ", ".join(tree.questions[q].name for q in np.flatnonzero(broken[i]))
        faults.append(Fault(i, f"vote fractions break the decision tree {tree.name}", f"question {names}"))
    known = np.clip(fractions, 0, 1)
    volunteers = _volunteers(totals, tree, nominal)
    votes = np.empty(fractions.shape)
    for q, answers in enumerate(tree.slices):
        total, some = totals[:, q], np.nan_to_num(known[:, answers])
        asked = some.sum(1)
        enough = np.isfinite(total) & (asked > 1e-6)
        scale = np.where(enough, total / nominal / np.where(enough, asked, 1), volunteers)
        votes[:, answers] = some * scale[:, None]
    return _finish(known, votes, faults)


def of_class(names: np.ndarray, tree: Tree, nominal: float) -> Labels:
    """Labels from the name of one answer for each question, as if all volunteers had agreed.

    Args:
      names: object [n, questions] of str, None where there is none. An answer is called by its name, its column, its
        key or its text.
    """
    faults: list[Fault] = []
    conditional = np.full((len(names), len(tree.columns)), np.nan)
    for q, (question, answers) in enumerate(zip(tree.questions, tree.slices, strict=True)):
        called = [
            (question.answers[i], question.columns[i], f"{question.name}_{question.answers[i]}", question.texts[i])
            for i in range(len(question.answers))
        ]
        place = {name.strip().lower(): i for i, several in reversed(list(enumerate(called))) for name in several}
        for i, name in enumerate(names[:, q]):
            if name is None or not name.strip():
                continue
            found = place.get(name.strip().lower())
            if found is None:
                near = nearest(name, question.answers)
                faults.append(Fault(i, f"unknown answer of {question.name}", f"{name[:60]!r}{near}"))
                continue
            conditional[i, answers] = 0
            conditional[i, answers.start + found] = 1
    totals = np.full((len(names), len(tree.questions)), np.nan)
    labels = _labels(_without(conditional, faults), totals, faults, tree, nominal)
    answered = np.stack([np.isfinite(conditional[:, answers]).all(1) for answers in tree.slices], 1)
    for q, parents in enumerate(tree.parents):
        reached = labels.fractions[:, list(parents)].sum(1) if parents else np.ones(len(names))
        for i in np.flatnonzero(answered[:, q] & (reached == 0)).tolist():
            detail = f"{tree.questions[q].name}: {names[i, q]!r}"
            faults.append(Fault(i, "answers a question that its other answers do not lead to", detail))
    return _finish(labels.fractions, labels.votes, faults)


def rounding(terms: int) -> float:
    """Largest rounding error of the sum of so many fractions."""
    return terms * ROUNDING + 1e-6


def _labels(conditional: np.ndarray, totals: np.ndarray, faults: list[Fault], tree: Tree, nominal: float) -> Labels:
    """From conditional fractions (NaN: not asked, or unknown) and totals (NaN: not known)."""
    joint, votes = np.full(conditional.shape, np.nan), np.zeros(conditional.shape)
    down = joint.copy()  # the same, but 0 instead of NaN where nobody reached the question: parents' sums need it
    volunteers = _volunteers(totals, tree, nominal)
    for q in tree.order:
        answers, parents = tree.slices[q], list(tree.parents[q])
        reached = down[:, parents].sum(1) if parents else np.ones(len(joint))
        joint[:, answers] = conditional[:, answers] * reached[:, None]
        down[:, answers] = np.where(reached[:, None] == 0, 0, joint[:, answers])
        guess = np.where(np.isfinite(reached), reached, 1) * volunteers
        asked = np.where(np.isfinite(totals[:, q]), totals[:, q] / nominal, guess)
        votes[:, answers] = np.nan_to_num(conditional[:, answers]) * asked[:, None]
    return _finish(joint, votes, faults)


def _volunteers(totals: np.ndarray, tree: Tree, nominal: float) -> np.ndarray:
    """Volunteers of each galaxy, in nominal units [n]: the total of the first question that all are asked; else 1."""
    first = [q for q, parents in enumerate(tree.parents) if not parents]
    known = totals[:, first] / nominal
    given = np.isfinite(known) & (known > 0)
    return np.where(given.any(1), known[np.arange(len(known)), given.argmax(1)], 1.0)


def _finish(fractions: np.ndarray, votes: np.ndarray, faults: list[Fault]) -> Labels:
    bad = sorted({fault.row for fault in faults})
    fractions, votes = fractions.astype(np.float32), votes.astype(np.float32)
    fractions[bad], votes[bad] = np.nan, 0
    return Labels(fractions, votes, faults)


def _without(values: np.ndarray, faults: Sequence[Fault]) -> np.ndarray:
    """A copy with NaN in the rows that have faults, so that one fault does not make others."""
    values = values.copy()
    values[sorted({fault.row for fault in faults})] = np.nan
    return values


def _numbers(values: np.ndarray, tree: Tree, infinite: str, outside: str, low: float, high: float) -> Iterator[Fault]:
    """One fault for each row and kind, even if several of its answers have it."""
    for kind, wrong in (
        (infinite, np.isinf(values)),
        (outside, np.isfinite(values) & ((values < low) | (values > high))),
    ):
        counts, first = wrong.sum(1), wrong.argmax(1)
        for i in np.flatnonzero(counts).tolist():
            more = f" and {counts[i] - 1} more" if counts[i] > 1 else ""
            yield Fault(i, kind, f"{tree.columns[first[i]]} = {values[i, first[i]]:g}{more}")


def _totals(totals: np.ndarray, tree: Tree) -> Iterator[Fault]:
    for i, q in zip(*np.nonzero((totals < 0) | (totals > MOST)), strict=True):
        yield Fault(int(i), "number of votes is negative or above 1e9", f"{tree.questions[q].name}: {totals[i, q]:g}")


def _partial(values: np.ndarray, tree: Tree) -> Iterator[Fault]:
    """Questions that have a label for some of their answers only."""
    for question, answers in zip(tree.questions, tree.slices, strict=True):
        gone = np.isnan(values[:, answers])
        for i in np.flatnonzero(gone.any(1) & ~gone.all(1)):
            lacking = ", ".join(np.array(question.columns)[gone[i]])
            yield Fault(int(i), "labels of a part of a question's answers", f"no number for {lacking[:80]}")
