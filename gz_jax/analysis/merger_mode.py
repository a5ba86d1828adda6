"""`--mode=mergers`: tables of predictions and of labelled galaxies in, a folder with the fraction's report out."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gz_jax import labels, predict_tables
from gz_jax.analysis import plots_mergers
from gz_jax.analysis.merger_report import merger_report
from gz_jax.analysis.page import Picture, Section, Table, publish, text
from gz_jax.analysis.plots_mergers import ESTIMATES
from gz_jax.errors import UserError

Path = str | os.PathLike[str]


class _Scores(NamedTuple):
    """One answer of one table: ids as str [n], predicted and voted fraction [n] (or None), fingerprints."""

    ids: np.ndarray
    predicted: np.ndarray
    votes: np.ndarray | None
    models: list[str]


def merger_mode(
    predictions: Path | Sequence[Path],
    validation: Path | Sequence[Path],
    outdir: Path,
    *,
    answer: str = "Class8.6",
    threshold: float = 0.3,
    observability: tuple[float, float] | None = None,
    merging: float = 1.0,
    labels_csv: Path | None = None,
    confidence: float = 0.95,
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fraction of galaxies with an answer: report.html, metrics.json, fractions.csv ... and figures in `outdir`.

    Args:
      predictions: folders or files of `predict_catalogue`, one per network (or ensemble), of the same images.
      validation: as many tables of labelled galaxies outside training, by the same networks in the same order: from
        `predict_tables.write_validation`, or predictions whose ids are GalaxyIDs of `labels_csv`. One table for each
        network of an ensemble that made the predictions will do too; they are averaged.
      labels_csv: volunteers' fractions (Kaggle's training_solutions_rev1.csv); its galaxies outside `validation` give
        the training labels' own fraction.
      answer, threshold, observability, merging, confidence: see `merger_report.merger_report`.
      context: what the page should say of the run.

    Returns:
      The results of `merger_report`, which metrics.json has too.

    Raises:
      UserError: unknown answer; tables that are unfinished, no such tables, of other networks, or without labels.
    """
    if answer not in labels.COLUMNS:
        raise UserError(f"answer {answer!r} is not one of {labels.COLUMNS[0]} ... {labels.COLUMNS[-1]}")
    catalogue, tables = ([_load(path, answer) for path in _several(paths)] for paths in (predictions, validation))
    if len(catalogue) == 1 < len(tables) and catalogue[0].models == sorted(m for t in tables for m in t.models):
        ids, scores, _ = _aligned("validation tables", tables)  # an ensemble's members, judged one by one
        votes = tables[0].votes
        votes = None if votes is None else votes[_rows(ids, tables[0].ids)]
        tables = [_Scores(ids, scores.mean(0), votes, catalogue[0].models)]
    for one, other in zip(catalogue, tables, strict=False):
        if one.models and other.models and one.models != other.models:
            raise UserError(
                f"the catalogue was predicted by {', '.join(one.models)}, the validation table by "
                f"{', '.join(other.models)} (checkpoint and, last, test-time views): predict both with the same "
                "networks and views. --mode=evaluate --views=N makes a validation table of N views."
            )
    _, scores, fewer = _aligned("prediction tables", catalogue)
    ids, held_out, fewer_held_out = _aligned("validation tables", tables)
    votes, training = tables[0].votes, None
    if votes is not None:
        votes = votes[_rows(ids, tables[0].ids)]
    if labels_csv is not None:
        given = predict_tables.read_labels(labels_csv, [answer])
        voted = _Scores(_texts(given["GalaxyID"]), given[answer].to_numpy(), None, [])
        training = voted.predicted[~np.isin(voted.ids, ids)]
        training = training if len(training) else None
        if votes is None:
            known = np.isin(ids, voted.ids)
            if not known.any():
                raise UserError(f"none of the validation galaxies is in {labels_csv}")
            held_out, votes = held_out[:, known], voted.predicted[_rows(ids[known], voted.ids)]
    if votes is None:
        raise UserError("the validation table has no labels: give Kaggle's training_solutions_rev1.csv as well")
    results = merger_report(
        scores,
        held_out,
        votes,
        training,
        answer=answer,
        threshold=threshold,
        observability=observability,
        merging=merging,
        confidence=confidence,
    )
    results["caveats"] += fewer + fewer_held_out
    cards = []
    for name, estimate in results["estimates"].items():
        value, _, limits = text(estimate).partition(" [")
        limits = limits.rstrip("]").replace(", ", " to ") or "0 to 1"
        cards.append((ESTIMATES[name], value, f"{100 * confidence:g} % interval {limits}"))
    title = f"Galaxy Zoo: {results['meaning']} ({answer})"
    publish(outdir, title, _sections(results), results, cards, context)
    return results


def _sections(results: dict[str, Any]) -> list[Section]:
    curve, seeds = results["curve"], results["seeds"]
    parts = (("", "estimates"), ("labels, ", "labels"), ("rate per Gyr, ", "rate_per_gyr"))
    rows = [
        {"quantity": prefix + ESTIMATES.get(name, name), "fraction": e}
        for prefix, part in parts
        for name, e in results[part].items()
    ]
    published = [
        {"source": source, "fraction": e.value, "low": e.low, "high": e.high}
        for source, e in results["published"].items()
    ]
    steps = zip(curve["threshold"], curve["count"], curve["corrected"], *curve["labels"].values(), strict=True)
    columns = ("threshold", "count", "corrected", *(f"{k} labels" for k in curve["labels"]))
    counted = [{"quantity": k, "value": v} for k, v in results["confusion"].items()]
    draw = lambda name: Picture(f"fraction_{name}", lambda: plots_mergers.FIGURES[name](results))  # noqa: E731
    tables = [Table("fractions", rows), *([Table("published", published)] if published else [])]
    values = {"threshold": results["threshold"], "validation": results["validation"]["galaxies"]}
    by_threshold = [dict(zip(columns, step, strict=True)) for step in steps]
    sections = [
        Section("fraction", [draw("estimates"), *tables], values),
        Section("fraction_caveats", [], text=results["caveats"]),
        Section("fraction_threshold", [draw("threshold"), Table("fraction_curve", by_threshold)]),
        Section("fraction_validation", [draw("reliability"), Table("confusion", counted)]),
    ]
    if seeds:
        each = [
            {"network": i, **dict(zip(seeds, v, strict=True))} for i, v in enumerate(zip(*seeds.values(), strict=True))
        ]
        each.append({"network": "standard deviation", **results["seed_scatter"]})
        sections.append(Section("fraction_seeds", [Table("fraction_seeds", each)]))
    return sections


def _several(paths: Path | Sequence[Path]) -> Sequence[Path]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _load(path: Path, answer: str) -> _Scores:
    names = predict_tables.names(path)
    key, voted = ("galaxy_id" if "galaxy_id" in names else "id"), f"true_{answer}"
    table = predict_tables.read(path, [key, answer, *([voted] if voted in names else [])])
    votes = table[voted].to_numpy() if voted in names else None
    return _Scores(_texts(table[key]), table[answer].to_numpy(), votes, predict_tables.models_of(table))


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    """Ids as str, so that numbers and names can be compared."""
    return column.cast(pa.string()).to_numpy(zero_copy_only=False).astype(str)


def _rows(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where in `ids` each of `wanted` is."""
    order = np.argsort(ids)
    return order[np.searchsorted(ids, wanted, sorter=order)]


def _aligned(what: str, tables: Sequence[_Scores]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Ids [n] that all tables have, in the first one's order; predictions [tables, n]; a remark on ids left out."""
    first = tables[0].ids
    ids = first[np.all([np.isin(first, table.ids) for table in tables], 0)]
    if not len(ids):
        raise UserError(f"the {what} have no galaxy in common")
    most = max(len(table.ids) for table in tables)
    remark = f"Only the {len(ids):,} galaxies that all {len(tables)} {what} hold are used; the largest has {most:,}."
    scores = np.stack([table.predicted[_rows(ids, table.ids)] for table in tables])
    return ids, scores, [remark] if len(ids) < most else []
