"""The head and the sections of a fraction's page, from the results of `merger_report`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gz_jax.analysis import plots_mergers
from gz_jax.analysis.page import Picture, Section, Table, text
from gz_jax.analysis.plots_mergers import ESTIMATES


def cards(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers at the head of the page: what is found of the labelled galaxies, then the estimates."""
    found = _found(results["confusion"], results["threshold"])
    for name, estimate in results["estimates"].items():
        value, _, limits = text(estimate).partition(" [")
        limits = f"{100 * results['confidence']:g} % interval {limits.rstrip(']').replace(', ', ' to ')}"
        found.append((ESTIMATES[name], value, limits if np.isfinite(estimate.value) else "cannot be measured"))
    return found


def _found(confusion: Mapping[str, Any], threshold: float) -> list[tuple[str, str, str]]:
    """Completeness and purity as counts, for the head of the page: no fraction can be judged without them."""
    right = confusion["true_positive"]
    positive, chosen = right + confusion["false_negative"], right + confusion["false_positive"]
    return [
        ("found of those labelled", f"{right:,} of {positive:,}", f"completeness {text(confusion['completeness'])}"),
        (f"correct of those above {threshold:g}", f"{right:,} of {chosen:,}", f"purity {text(confusion['purity'])}"),
    ]


def sections(results: dict[str, Any]) -> list[Section]:
    """Figures, tables and texts, section by section."""
    curve, seeds = results["curve"], results["seeds"]
    parts = (
        ("", "estimates"),
        (f"votes above {results['threshold']:g}, ", "labels"),
        ("rate per Gyr, ", "rate_per_gyr"),
    )
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
    values = _words(results)
    by_threshold = [dict(zip(columns, step, strict=True)) for step in steps]
    found = [
        Section("fraction", [draw("estimates"), *tables], values),
        Section("fraction_caveats", [], text=results["caveats"]),
        Section("fraction_threshold", [draw("threshold"), Table("fraction_curve", by_threshold)]),
        Section("fraction_validation", [draw("reliability"), Table("confusion", counted)], values),
    ]
    if seeds:
        each = [
            {"network": i, **dict(zip(seeds, v, strict=True))} for i, v in enumerate(zip(*seeds.values(), strict=True))
        ]
        each.append({"network": "standard deviation", **results["seed_scatter"]})
        found.append(Section("fraction_seeds", [Table("fraction_seeds", each)]))
    return found


def _words(results: dict[str, Any]) -> dict[str, Any]:
    """What the texts of the page are filled with."""
    confusion, published = results["confusion"], bool(results["published"])
    positive = confusion["true_positive"] + confusion["false_negative"]
    return {
        "threshold": results["threshold"],
        "validation": results["validation"]["galaxies"],
        "found": f"On the {results['validation']['galaxies']:,} labelled galaxies, the network puts "
        f"{confusion['true_positive']:,} of {positive:,} positive galaxies above the threshold of "
        f"{results['threshold']:g}, and {confusion['false_positive']:,} that are not positive.",
        "rate": "The rate per Gyr is the fraction divided by the observability time, over which a merger can be "
        "recognised in an image."
        if results["rate_per_gyr"]
        else "",
        "published_remark": "Published values are grey; a bar without a dot means that the source gives a range. They "
        "use other definitions of a merger, so compare orders of magnitude."
        if published
        else "",
        "published_alt": " and published values" if published else "",
    }
