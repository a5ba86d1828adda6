"""The report of the data: the paper's figures 1 to 4, from one pass over the labels."""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gz_jax.analysis import explore, plots, plots_labels
from gz_jax.analysis.page import Picture, Section, Table, note_on, publish, text
from gz_jax.labels import Tree

EXAMPLES = 24


class PipelineExamples(NamedTuple):
    """A few galaxies on their way to the network: see `plots_labels.pipeline_examples`."""

    raw: np.ndarray
    crop: np.ndarray
    augmented: np.ndarray
    names: Sequence[str] | None = None
    first: str = ""


def explore_report(
    train: explore.Side,
    validation: explore.Side | None,
    outdir: str | os.PathLike[str],
    context: Mapping[str, Any] | None = None,
    pipeline: PipelineExamples | None = None,
    seed: int = 0,
    *,
    tree: Tree,
) -> pathlib.Path:
    """What the data look like (the paper's figures 1 to 4).

    One pass over the labels of each side; returns the page.
    """
    a = explore.summarise(train.blocks(), tree)
    b = None if validation is None else explore.summarise(validation.blocks(), tree)
    chosen = np.sort(np.random.default_rng(seed).choice(a.seen, min(EXAMPLES, a.seen), replace=False))
    correlation = explore.correlation(a)
    pairs = [
        {
            "first": tree.columns[i],
            "its answer": tree.texts[i],
            "second": tree.columns[j],
            "the other answer": tree.texts[j],
            "correlation": correlation[i, j],
        }
        for i, j in itertools.combinations(range(len(tree.columns)), 2)
        if tree.question_of[i] != tree.question_of[j]
    ]
    pairs.sort(key=lambda row: -abs(np.nan_to_num(row["correlation"])))
    prototypes = [
        {"column": c, "galaxy_id": str(i), "vote fraction": v}
        for c, i, v in zip(tree.columns, a.prototype_id, a.high, strict=True)
        if np.isfinite(v)
    ]
    numbers = {"training galaxies": a.count, "correlation": correlation}
    missing = a.seen - a.count
    cards = [("training galaxies", text(a.count), f"{missing:,} more have no labels" if missing else "all have labels")]
    prose: list[str] = []
    if (a.known < a.count).any():
        prose.append(
            "Labels are partly unknown. Every number is over the galaxies that have the label; a correlation, over "
            "those that have both."
        )
    if b is not None:
        compared, sentences = _against(a, b)
        prose += sentences
        numbers |= compared
        cards += [
            ("validation galaxies", text(b.count), f"{100 * b.count / (a.count + b.count):.1f} % of all"),
            ("guess RMSE", f"{compared['guess RMSE']:.4f}", "always answering the training means"),
        ]
    shares = explore.histograms(a), None if b is None else explore.histograms(b)
    pictures = {
        "examples": lambda: plots.mosaic(train.images(chosen), [""] * len(chosen)),
        "label_histograms": lambda: plots_labels.label_histograms(*shares, tree),
        "prototypes": lambda: plots_labels.answer_images(train.images(np.maximum(a.prototype, 0)), a.high, tree),
        "correlation": lambda: plots_labels.correlation_matrix(correlation, tree),
    }
    examples, distributions, highest, matrix = (Picture(name, draw) for name, draw in pictures.items())
    sections = [
        Section("examples", [examples]),
        Section("labels", [distributions, Table("labels", explore.label_table(a, b, tree))], text=prose),
        Section("prototypes", [highest, Table("prototypes", prototypes)]),
        Section("correlation", [matrix, *([Table("correlations", pairs[:15])] if pairs else [])]),
    ]
    if pipeline is not None:
        sections.append(Section("pipeline", [Picture("pipeline", lambda: plots_labels.pipeline_examples(*pipeline))]))
    words, note = {"answers": len(tree.columns)}, note_on((context or {}).get("config"))
    return publish(outdir, f"{tree.name}: the data", sections, numbers, cards, context, words, note)


def _against(a: explore.LabelSummary, b: explore.LabelSummary) -> tuple[dict[str, Any], list[str]]:
    """How the validation labels stand to the training ones: numbers, and what to say of them."""
    guess, distance = explore.guess_rmse(a, b), explore.ks_distance(a, b)
    x, y = (np.where(side.known > 0, side.known, np.nan) for side in (a, b))
    critical = 1.358 * np.sqrt((x + y) / (x * y))  # asymptotic, two samples, 5 %
    alike = (a.known == a.count).all() and (b.known == b.count).all()
    limit = f"{critical[0]:.3f}" if alike else "its 5 % limit"
    beyond = int((distance > critical).sum())
    numbers = {
        "validation galaxies": b.count,
        "guess RMSE": guess,
        "critical KS distance": float(critical[0]) if alike else critical,
        "answers beyond it": beyond,
    }
    return numbers, [
        f"Always predicting the training galaxies' mean fractions gives an RMSE of {guess:.4f} on the validation "
        "galaxies. A model must have a lower RMSE to be useful.",
        "Training and validation galaxies should have similar labels. The Kolmogorov-Smirnov distance is the largest "
        "difference between the cumulative distributions of the two. With a random split it is above "
        f"{limit} for about one answer in twenty. Here it is for {beyond} of {int(np.isfinite(distance).sum())}.",
    ]
