"""Which columns of a table hold the labels: by the tree's names, or as a user maps them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gz_jax.data.catalogue_labels import Kind
from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError
from gz_jax.trees.tree import listed, nearest

REST = "rest"  # in place of a column: 1 minus the other answers of the question
# What published tables have after an answer's name (Galaxy Zoo DECaLS, DESI, Euclid; Galaxy Zoo 2, Hart et al. 2016).
_ENDINGS: dict[Kind, tuple[str, ...]] = {
    "counts": ("", "_count"),
    "conditional": ("_fraction", ""),
    "joint": ("",),
    "class": ("",),
}


class Columns(NamedTuple):
    """Names of a table's label columns.

    Attributes:
      answers: one for each answer of the tree, with its count or fraction; `REST` for 1 minus the question's other
        answers. Empty if the labels are classes.
      totals: one for each question, with its number of votes; None where the table has none, or the labels are counts.
      classes: one for each question, with the name of an answer. Empty unless the labels are classes.
    """

    answers: tuple[str, ...]
    totals: tuple[str | None, ...]
    classes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """All of them, once."""
        return list(dict.fromkeys(c for c in (*self.answers, *self.totals, *self.classes) if c and c != REST))


def parse(text: str, tree: Tree) -> dict[str, str]:
    """'answer=column, ...' as a mapping.

    On the left stands an answer (its column or key in the tree, or its name where no other question has that);
    '<question>.total', the number of votes at a question; 'votes', the number of volunteers of a galaxy; or, for
    classes, a question.

    Raises:
      UserError: something else stands there, or twice.
    """
    first = next(q for q, parents in zip(tree.questions, tree.parents, strict=True) if not parents)
    known = dict(zip(tree.keys, tree.columns, strict=True)) | {column: column for column in tree.columns}
    known |= {f"{q.name}.total": f"{q.name}.total" for q in tree.questions} | {"votes": f"{first.name}.total"}
    known |= {q.name: q.name for q in tree.questions if q.name not in known}
    answers = [answer for question in tree.questions for answer in question.answers]
    alone = [name for name in answers if answers.count(name) == 1 and name not in known]
    known |= {name: tree.columns[answers.index(name)] for name in alone}
    found: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        left, equals, right = (part.strip() for part in pair.partition("="))
        if not (equals and left and right):
            raise UserError(f"--config.data.columns: {pair!r} is not of the form answer=column.")
        if left not in known:
            raise UserError(
                f"--config.data.columns: {left!r} is no answer of the decision tree {tree.name}"
                f"{nearest(left, list(known)) or f', whose answers are {listed(tree.columns, 20)}.'}"
            )
        if known[left] in found:
            raise UserError(f"--config.data.columns maps {left!r} twice.")
        found[known[left]] = right
    return found


def choose(there: Sequence[str], tree: Tree, kind: Kind, mapped: dict[str, str], suffix: str) -> Columns:
    """The columns of a table's labels.

    Args:
      there: the table's columns; mapped: see `parse`; suffix: what they have after the tree's names; '' tries what the
        published tables have.

    Returns:
      Columns; some may not be there (see `tables.lacking`).
    """
    known = set(there)
    of_kind = _mappable(tree, kind)
    for left, right in mapped.items():
        if left not in of_kind:
            raise UserError(
                f"--config.data.columns: {left!r} cannot be given with --config.data.labels={kind}; possible are "
                f"{listed(of_kind, 20)}."
            )
        if right == REST and left not in tree.columns:
            raise UserError(f"--config.data.columns: {REST!r} can only be given for an answer, and {left!r} is none.")
        answers = [one for one in tree.columns if mapped.get(one) == right != REST]
        if len(answers) > 1:
            raise UserError(f"--config.data.columns: {' and '.join(answers)} are both {right!r}.")

    def named(names: Sequence[str]) -> str:
        endings = (suffix,) if suffix else _ENDINGS[kind]
        candidates = [name + ending for ending in endings for name in names]
        return next((name for name in candidates if name in known), candidates[0])

    if kind == "class":
        single = ("class",) if len(tree.questions) == 1 else ()
        classes = [mapped.get(q.name) or named((q.name, *single)) for q in tree.questions]
        return Columns((), (None,) * len(classes), tuple(classes))
    answers = [mapped.get(column) or named((column, key)) for column, key in zip(tree.columns, tree.keys, strict=True)]
    totals: list[str | None] = []
    for question in tree.questions:
        prefix = question.columns[0].removesuffix(f"_{question.answers[0]}")
        usual = (f"{name}_total-votes" for name in (prefix, question.name))
        totals.append(mapped.get(f"{question.name}.total") or next((name for name in usual if name in known), None))
    return Columns(tuple(answers), (None,) * len(totals) if kind == "counts" else tuple(totals), ())


def _mappable(tree: Tree, kind: Kind) -> list[str]:
    """What of `parse` the labels of a kind are made of."""
    if kind == "class":
        return [q.name for q in tree.questions]
    return [*tree.columns, *(f"{q.name}.total" for q in tree.questions if kind != "counts")]


def rest_of(columns: Columns, tree: Tree, kind: Kind) -> Iterator[tuple[int, list[int]]]:
    """(answer, the other answers of its question) for each answer that is 1 minus the others.

    Raises:
      UserError: two answers of one question, or labels that do not add up to 1.
    """
    for answers, parents in zip(tree.slices, tree.parents, strict=True):
        places = [i for i in range(answers.start, answers.stop) if columns.answers and columns.answers[i] == REST]
        if places and (kind == "counts" or (kind == "joint" and parents)):
            raise UserError(
                f"--config.data.columns: {tree.columns[places[0]]} cannot be {REST!r}, since the labels of its "
                f"question ({kind}) do not add up to 1."
            )
        if len(places) > 1:
            raise UserError(f"--config.data.columns: only one answer of a question can be {REST!r}.")
        for i in places:
            yield i, [j for j in range(answers.start, answers.stop) if j != i]
