"""A decision tree as a value: its questions and answers, what follows from them, and what may be wrong with it."""

import dataclasses
import difflib
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gz_jax.runtime.errors import UserError

_MOST = 1000  # answers of a tree
_TAKEN = ("id", "file", "flag", "reason", "galaxy_id", "galaxyid")  # other columns of our tables
_PREFIXES = ("cond_", "spread_", "true_")


class Question(NamedTuple):
    """One question of a tree.

    Attributes:
      name, text: for files, and for people.
      answers, texts, columns: of each answer the name, the text for people and the column of tables.
      after: the answers that lead to the question, as '<question>_<answer>'; none: everyone is asked. If there are
        several, their shares add.
    """

    name: str
    text: str
    answers: tuple[str, ...]
    texts: tuple[str, ...]
    columns: tuple[str, ...]
    after: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """'<question>_<answer>' of each answer."""
        return tuple(f"{self.name}_{answer}" for answer in self.answers)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A decision tree; checked when it is made.

    Attributes:
      name, citation: of the survey.
      questions: in the order of their columns; a question may come before the one that leads to it.
      merger: the answer that means a merger, as '<question>_<answer>'; None if there is none.

    Raises:
      UserError: names the tree and what is wrong: a name that is unknown or used twice, a question with one answer, a
        cycle, several answers that lead to a question and do not exclude one another (their shares would not add).
    """

    name: str
    questions: tuple[Question, ...]
    citation: str = ""
    merger: str | None = None

    def __post_init__(self) -> None:
        if wrong := _fault(self):
            raise UserError(f"tree {self.name!r}: {wrong}")

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Name in tables of each answer."""
        return tuple(column for q in self.questions for column in q.columns)

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """'<question>_<answer>' of each answer."""
        return tuple(key for q in self.questions for key in q.keys)

    @functools.cached_property
    def texts(self) -> tuple[str, ...]:
        """Text for people of each answer."""
        return tuple(text for q in self.questions for text in q.texts)

    @functools.cached_property
    def slices(self) -> tuple[slice, ...]:
        """Of each question, where its answers stand among all."""
        stops = np.cumsum([len(q.answers) for q in self.questions]).tolist()
        return tuple(slice(stop - len(q.answers), stop) for q, stop in zip(self.questions, stops, strict=True))

    @functools.cached_property
    def question_of(self) -> tuple[int, ...]:
        """Of each answer, the number of its question in `questions`, from 0."""
        return tuple(i for i, q in enumerate(self.questions) for _ in q.answers)

    @functools.cached_property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """Of each question, the answers that lead to it, by their place among all."""
        return tuple(tuple(map(self.keys.index, q.after)) for q in self.questions)

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """Questions such that each comes after those that lead to it (topological order)."""
        return tuple(map(self.questions.index, _ordered(self.questions)))

    def index(self, answer: str) -> int:
        """Place of an answer, given as its column or as '<question>_<answer>'.

        Raises:
          UserError: there is no such answer.
        """
        for names in (self.columns, self.keys):
            if answer in names:
                return names.index(answer)
        near = nearest(answer, [*self.columns, *self.keys])
        raise UserError(f"{self.name} has no answer {answer!r}{near or f'; its answers are {_list(self.columns)}'}.")

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """int32 [questions, most answers]: questions as rows of a table, which keeps compiled graphs small."""
        widest = range(max(len(q.answers) for q in self.questions))
        return np.array([[min(s.start + i, s.stop - 1) for i in widest] for s in self.slices], np.int32)

    @functools.cached_property
    def mask(self) -> np.ndarray:
        """bool, shape of `rows`: False where a question has fewer answers."""
        widest = range(self.rows.shape[1])
        return np.array([[s.start + i < s.stop for i in widest] for s in self.slices])

    @functools.cached_property
    def chains(self) -> np.ndarray:
        """int32 [levels, answers]: each answer and those that lead to it, up to a question with several parents.

        What follows is the place of that question's share, n + 1, n + 2, ... in their order (`joined`), else n, of 1.
        """
        n, chains = len(self.columns), []
        for answer in range(n):
            chain = [answer]
            while len(parents := self.parents[self.question_of[chain[-1]]]) == 1:
                chain.append(parents[0])
            if parents:
                chain.append(n + 1 + self.joined.index(self.question_of[chain[-1]]))
            chains.append(chain)
        levels = max(map(len, chains))
        return np.array([chain + [n] * (levels - len(chain)) for chain in chains], np.int32).T

    @functools.cached_property
    def joined(self) -> tuple[int, ...]:
        """Questions that several answers lead to, in topological order."""
        return tuple(q for q in self.order if len(self.parents[q]) > 1)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 3)
    return f"; do you mean {' or '.join(near)}?" if near else ""


def _fault(tree: Tree) -> str:
    """What is wrong with a tree; '' if nothing is."""
    questions, keys = tree.questions, tree.keys
    columns = [column.casefold() for column in tree.columns]
    if not questions:
        return "it has no question"
    if len(columns) > _MOST:
        return f"it has {len(columns)} answers, more than {_MOST}"
    for q in questions:
        named = {"name": (q.name,), "answer": q.answers, "column": q.columns, "text": (q.text, *q.texts)}
        for what, texts in named.items():
            if bad := [text for text in texts if not text.strip() or not text.isprintable() or len(text) > 200]:
                return (
                    f"question {q.name!r} has the {what} {bad[0]!r}: it must be text of 1 to 200 characters on one line"
                )
        if len(q.answers) < 2:
            return (
                f"question {q.name!r} has one answer only, {q.answers[0]!r}"
                if q.answers
                else f"{q.name!r} has no answer"
            )
        if not len(q.answers) == len(q.texts) == len(q.columns):
            return f"question {q.name!r} has {len(q.answers)} answers, {len(q.texts)} texts, {len(q.columns)} columns"
    for what, names in (("question", [q.name for q in questions]), ("answer", keys), ("column", columns)):
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            return f"the {what} {twice[0]!r} is there twice"
    for column in columns:
        if column in _TAKEN or any(column == prefix + other for prefix in _PREFIXES for other in columns):
            return f"the column {column!r} has another meaning in tables; name it otherwise"
    for q in questions:
        if unknown := [key for key in q.after if key not in keys]:
            return f"question {q.name!r} comes after {unknown[0]!r}, which is no answer{nearest(unknown[0], keys)}"
        if len(set(q.after)) < len(q.after):
            return f"question {q.name!r} comes after the same answer twice"
    if tree.merger is not None and tree.merger not in keys:
        return f"its merger is {tree.merger!r}, which is no answer{nearest(tree.merger, keys)}"
    ordered = _ordered(questions)
    if len(ordered) < len(questions):
        left = [q for q in questions if q not in ordered]
        return f"these questions lead to themselves: {', '.join(repr(q.name) for q in left if _is_in_cycle(q, left))}"
    return _overlap(ordered)


def _ordered(questions: Sequence[Question]) -> list[Question]:
    """Each after those that lead to it; questions of a cycle, and what follows from them, are left out."""
    ordered: list[Question] = []
    asked: set[str] = set()
    while ready := [q for q in questions if q not in ordered and asked.issuperset(q.after)]:
        ordered += ready
        asked.update(key for q in ready for key in q.keys)
    return ordered


def _is_in_cycle(question: Question, among: Sequence[Question]) -> bool:
    """Whether its own answers lead to it."""
    reached, new = set[str](), set(question.keys)
    while new:
        reached |= new
        new = {key for q in among if reached.intersection(q.after) for key in q.keys} - reached
    return not reached.isdisjoint(question.after)


def _overlap(ordered: Sequence[Question]) -> str:
    """Two answers that lead to the same question although one volunteer may give both; '' if there are none.

    For each answer: the questions that everyone who gives it has been asked, and what they may have answered there. Two
    answers exclude one another where these sets have nothing in common for one of the questions.
    """
    given: dict[str, dict[str, set[str]]] = {}
    for q in ordered:
        for i, one in enumerate(q.after):
            for other in q.after[:i]:
                if not any(
                    given[one][name].isdisjoint(given[other][name]) for name in given[one].keys() & given[other]
                ):
                    return (
                        f"question {q.name!r} comes after {other!r} and {one!r}, which one volunteer may both give: "
                        "their shares cannot be added"
                    )
        paths = [given[key] for key in q.after]
        common = set.intersection(*(set(path) for path in paths)) if paths else set[str]()
        before = {name: set.union(*(path[name] for path in paths)) for name in common}
        given |= {key: before | {q.name: {key}} for key in q.keys}
    return ""
