"""Predictions of a few galaxies in words, for people."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from gz_jax import labels
from gz_jax.inference import tables
from gz_jax.labels import Tree
from gz_jax.runtime.errors import UserError

MOST = 10  # images that are described at one time
SHOWN = 0.095  # answers with a smaller share are left out (10 % after rounding)
ABOUT = "Percentages are of the volunteers who are asked the question."


def path(fractions: np.ndarray, tree: Tree) -> list[tuple[int, np.ndarray]]:
    """The questions that most volunteers would be asked, each with the shares of its answers.

    Args:
      fractions: joint vote fractions of one galaxy, [answers].

    Returns:
      Pairs of a question's number and the conditional fractions of its answers, float32 [answers of the question].
      Questions that everyone is asked are included. Another question is included if an answer that leads to it is the
      largest of an included question; it comes after that question, before the next one that everyone is asked.
    """
    shares = np.asarray(labels.conditional(jnp.asarray(fractions, jnp.float32), tree))
    found: dict[int, np.ndarray] = {}

    def ask(question: int) -> None:
        part = tree.slices[question]
        found[question] = shares[part]
        chosen = part.start + int(shares[part].argmax())
        for other, parents in enumerate(tree.parents):
            if chosen in parents and other not in found:
                ask(other)

    for question, parents in enumerate(tree.parents):
        if not parents:
            ask(question)
    return list(found.items())


class Said(NamedTuple):
    """An answer to a question on a network's path, for one galaxy.

    Attributes:
      text: the answer in words.
      predicted, true: its shares among those who are asked the question, by the network and by the volunteers. `true`
        is NaN if nobody was asked or the label is unknown.
      wrong: whether the network prefers this answer, but most volunteers another one.
    """

    text: str
    predicted: float
    true: float
    wrong: bool


def beside(predicted: np.ndarray, true: np.ndarray, tree: Tree) -> list[Said]:
    """The largest answer of each question on the network's path, and that of the volunteers if it is another one.

    Args:
      predicted, true: joint vote fractions of one galaxy, [answers]; `true` is NaN where a label is unknown.

    Returns:
      Answers in the order of `path`. The volunteers' answer is added only for questions on their own path.
    """
    theirs, found = dict(path(np.nan_to_num(true), tree)), list[Said]()
    for question, shares in path(predicted, tree):
        part = tree.slices[question]
        votes = np.asarray(true[part], np.float64)
        known = votes / votes.sum() if votes.sum() > 0 else np.full(len(votes), np.nan)
        best = [int(shares.argmax())]
        if question in theirs and np.isfinite(known).all() and known[best[0]] < known.max():
            best.append(int(known.argmax()))
        for rank, i in enumerate(best):
            text = tree.questions[question].texts[i]
            found.append(Said(text, float(shares[i]), float(known[i]), rank == 0 and len(best) > 1))
    return found


def headline(fractions: np.ndarray, tree: Tree) -> str:
    """The likeliest answers, from the first question on: 'features or disk, not edge-on, bar, spiral; not odd'.

    An answer that fewer than half of those asked would give is called possible: 'possibly 2 arms'. A semicolon stands
    before another question that everyone is asked.
    """
    texts = ""
    for question, shares in path(fractions, tree):
        best = int(shares.argmax())
        text = tree.questions[question].texts[best]
        texts += ", " if tree.parents[question] else "; "
        texts += text if shares[best] >= 0.5 else f"possibly {text}"
    return texts.removeprefix("; ")


def describe(fractions: np.ndarray, tree: Tree) -> str:
    """One galaxy in words: the likeliest answers in a line, then question by question, with shares.

    Args:
      fractions: joint vote fractions of one galaxy, [answers].

    Returns:
      Lines. Answers with less than a tenth of those asked are left out. A merger that a tenth of all volunteers would
      see is named last, if its question is not among the others.
    """
    found = path(fractions, tree)
    width = max(len(tree.questions[question].text) for question, _ in found)
    lines = [headline(fractions, tree)]
    for question, shares in found:
        texts, order = tree.questions[question].texts, np.argsort(-shares, kind="stable")
        answers = [f"{texts[i]} {100 * shares[i]:.0f} %" for i in order if shares[i] >= SHOWN]
        lines.append(f"  {tree.questions[question].text:<{width}}  {', '.join(answers)}")
    if tree.merger is not None:
        place = tree.index(tree.merger)
        seen = tree.question_of[place] in dict(found)
        if not seen and fractions[place] >= SHOWN:
            lines.append(f"  {'merger?':<{width}}  {100 * fractions[place]:.0f} % of all volunteers")
    return "\n".join(lines)


def of_table(table: pa.Table, tree: Tree) -> list[str]:
    """Each row of a table of predictions in words (see `tables.to_table`), with its id first and its `reason`."""
    columns: Sequence[Any] = [table[name].to_numpy(zero_copy_only=False) for name in tree.columns]
    fractions, texts = np.stack(columns, axis=1), []
    names, flags, reasons = (table[name].to_pylist() for name in ("id", "flag", "reason"))
    for row, (name, flag, reason) in enumerate(zip(names, flags, reasons, strict=True)):
        if flag == tables.BAD:
            texts.append(f"{name}: cannot be used ({reason})")
            continue
        remark = f"\n  (used with a remark: {reason})" if reason else ""
        texts.append(f"{name}: {describe(fractions[row], tree)}{remark}")
    return texts


def check(images: int, most: int | None, where: str) -> None:
    """Raise UserError if there are too many images to describe in words."""
    if most is not None and images > most:
        raise UserError(
            f"{where} has {images:,} images, and at most {most} are described in words: add --output=FOLDER for a "
            "table of them all (in Python: gz_jax.predict)."
        )
