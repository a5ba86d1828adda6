"""A decision tree as a value: questions, answers, the index tables derived from them, and checks."""

import collections
import dataclasses
import difflib
import functools
import graphlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gz_jax.runtime.errors import UserError

_MOST = 1000  # answers of a tree
_LONGEST = 200  # characters of a name or text
_LONGEST_COLUMN = 60  # of a column: FITS has room for 68, with a prefix
_TAKEN = ("id", "file", "flag", "reason", "galaxy_id", "galaxyid")  # other columns of our tables
_PREFIXES = ("cond_", "spread_", "true_")


class Question(NamedTuple):
    """One question of a tree.

    Attributes:
      name, text: the question's name in files, and its text for people.
      answers, texts, columns: each answer's name, its text for people and its column in tables.
      after: the answers that lead to the question, as '<question>_<answer>'; if empty, everyone is asked. If there are
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
        """For each question, the slice of its answers among all answers."""
        stops = np.cumsum([len(q.answers) for q in self.questions]).tolist()
        return tuple(slice(stop - len(q.answers), stop) for q, stop in zip(self.questions, stops, strict=True))

    @functools.cached_property
    def question_of(self) -> tuple[int, ...]:
        """For each answer, the index of its question in `questions`."""
        return tuple(i for i, q in enumerate(self.questions) for _ in q.answers)

    @functools.cached_property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """For each question, the indices (among all answers) of the answers that lead to it."""
        place = {key: i for i, key in enumerate(self.keys)}
        return tuple(tuple(place[key] for key in q.after) for q in self.questions)

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """Questions such that each comes after those that lead to it (topological order)."""
        graph = {i: [self.question_of[key] for key in parents] for i, parents in enumerate(self.parents)}
        return tuple(graphlib.TopologicalSorter(graph).static_order())

    def index(self, answer: str) -> int:
        """Index of an answer, given as its column, as '<question>_<answer>', or as a text that no other answer has.

        Raises:
          UserError: there is no such answer.
        """
        for names in (self.columns, self.keys):
            if answer in names:
                return names.index(answer)
        if self.texts.count(answer) == 1:
            return self.texts.index(answer)
        near = nearest(answer, [*self.columns, *self.keys, *self.texts])
        raise UserError(f"{self.name} has no answer {answer!r}{near or f'; its answers are {listed(self.columns)}.'}")

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
        """int32 [levels, answers]: indices of each answer and of those that lead to it.

        A chain ends at a question with several parents: its last index is n + 1, n + 2, ... for the share of those who
        are asked the first, second, ... question of `joined`, where n is the number of answers. Shorter chains are
        filled up with n, which stands for a share of 1.
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


def listed(names: Sequence[str], most: int = 6, between: str = ", ") -> str:
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 3)
    return f"; do you mean {' or '.join(near)}?" if near else ""


def _fault(tree: Tree) -> str:
    """What is wrong with a tree; '' if nothing is."""
    questions, keys, columns = tree.questions, tree.keys, [column.casefold() for column in tree.columns]
    known, folded = set(keys), [key.casefold() for key in keys]
    if not questions:
        return "it has no question"
    if len(keys) > _MOST:
        return f"it has {len(keys)} answers, more than {_MOST}"
    named: list[tuple[str, dict[str, tuple[str, ...]]]] = [
        ("the tree", {"name": (tree.name,), "citation": (tree.citation,) if tree.citation else ()})
    ]
    for i, q in enumerate(questions, 1):
        texts = {
            "name": (q.name,),
            "text": (q.text, *q.texts),
            "answer": q.answers,
            "column": q.columns,
            "parent": q.after,
        }
        named.append((f"question {i}", texts))
    for of, texts in named:
        for what, values in texts.items():
            longest = _LONGEST_COLUMN if what == "column" else _LONGEST
            if bad := [text for text in values if not _is_text(text) or len(text) > longest]:
                shown = bad[0][:40] + "..." * (len(bad[0]) > 40)
                return f"{of} has the {what} {shown!r}: it must be 1 to {longest} characters on one line"
            if what == "column" and (bad := [text for text in values if not text.isascii() or "'" in text]):
                return f"{of} has the column {bad[0]!r}: FITS tables need ASCII without quotes"
    for q in questions:
        if len(q.answers) < 2:
            return f"question {q.name!r} has {'one answer only' if q.answers else 'no answer'}; it needs at least two"
        if not len(q.answers) == len(q.texts) == len(q.columns):
            return f"question {q.name!r} has {len(q.answers)} answers, {len(q.texts)} texts, {len(q.columns)} columns"
        if len(set(q.after)) < len(q.after):
            return f"question {q.name!r} comes after the same answer twice"
        if unknown := [key for key in q.after if key not in known]:
            return f"question {q.name!r} comes after {unknown[0]!r}, which is no answer{nearest(unknown[0], keys)}"
    for what, names in (("question", [q.name for q in questions]), ("answer", keys), ("column", columns)):
        if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
            return f"the {what} {twice[0]!r} is there twice"
    for column, key in zip(columns, folded, strict=True):
        others = {column.removeprefix(prefix) for prefix in _PREFIXES} - {column}
        if column in _TAKEN or not others.isdisjoint(columns) or (column != key and column in folded):
            return f"the column {column!r} has another meaning in tables; name it otherwise"
    if tree.merger is not None and tree.merger not in keys:
        return f"its merger is {tree.merger[:_LONGEST]!r}, which is no answer{nearest(tree.merger[:_LONGEST], keys)}"
    try:
        order = tree.order
    except graphlib.CycleError as error:
        return f"these questions lead to themselves: {listed([questions[i].name for i in error.args[1][:0:-1]])}"
    return _overlap(tree, order)


def _is_text(text: str) -> bool:
    return 0 < len(text) <= _LONGEST and text.isprintable() and text == text.strip()


def _overlap(tree: Tree, order: Sequence[int]) -> str:
    """Two answers that lead to the same question although one volunteer may give both; '' if there are none.

    A volunteer may give both an answer and an earlier answer if the earlier answer can be given together with one of
    the answers that lead to the later question.
    """
    both = np.zeros((len(tree.keys),) * 2, bool)
    done = np.zeros(len(tree.keys), bool)
    for question in order:
        own, parents = tree.slices[question], list(tree.parents[question])
        clash = np.argwhere(np.triu(both[np.ix_(parents, parents)], 1))
        if clash.size:
            one, other = (tree.keys[parents[i]] for i in clash[0])
            return (
                f"question {tree.questions[question].name!r} comes after {one!r} and {other!r}, which one volunteer "
                "may both give: their shares cannot be added"
            )
        with_earlier: np.ndarray = np.any(both[parents], 0) if parents else done.copy()
        both[own] = with_earlier
        both[:, own] = with_earlier[:, None]
        both[own, own] = np.eye(own.stop - own.start, dtype=bool)
        done[own] = True
    return ""
