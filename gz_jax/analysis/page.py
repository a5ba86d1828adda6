"""A page with figures and tables: a self-contained `report.html`, with every figure and number in files beside it.

`publish` writes all of it: figures as PNG and PDF, tables as CSV, all numbers in `metrics.json`, and at the end the
page. Each file is written completely or not at all. The page loads nothing: pictures are inside it, there is no script,
and its own Content-Security-Policy forbids both.
"""

import base64
import csv
import importlib.resources
import io
import json
import math
import os
import pathlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from gz_jax.analysis import plots
from gz_jax.analysis.evaluate import Estimate
from gz_jax.runtime.files import atomic, harmless
from gz_jax.runtime.progress import Bar

SYNTHETIC = (
    "The galaxies of this page are synthetic: they were drawn by a computer, for trying the package. Its numbers say "
    "nothing about real galaxies."
)
MOST_PIXELS = 16_000  # on a side of a picture; WebP has no more than 16,383


class Picture(NamedTuple):
    """A figure to draw. `name` is that of its files and of its caption in report.toml."""

    name: str
    draw: Callable[[], Figure]


class Table(NamedTuple):
    """Rows of name -> text, number, `Estimate` or None. `name` is that of its CSV and of its caption in report.toml."""

    name: str
    rows: Sequence[Mapping[str, Any]]


class Section(NamedTuple):
    """Content below a heading of report.toml. `values` fill the braces there; `text` comes before the words there."""

    key: str
    items: Sequence[Picture | Table]
    values: Mapping[str, Any] = {}
    text: Sequence[str] = ()


def note_on(config: Mapping[str, Any] | None) -> str:
    """What a page must say first of the galaxies of a flat config: `SYNTHETIC` where they are, else ''."""
    return SYNTHETIC if (config or {}).get("data.source") == "synthetic" else ""


def _packaged(name: str) -> str:
    return importlib.resources.files("gz_jax.analysis").joinpath(name).read_text("utf-8")


def plain(value: Any) -> Any:
    """The value as JSON has it: Estimates as value, low, high; what is not a finite number as null."""
    if isinstance(value, Estimate):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def text(value: Any) -> str:
    """The value as text for people: four digits; with an interval, as many as its width justifies."""
    if isinstance(value, Estimate):
        number, low, high = (float(part) for part in value)
        if not math.isfinite(number):
            return "–"
        width = high - low
        digits = min(max(1 - math.floor(math.log10(width)), 0), 7) if width > 0 else 4
        number, low, high = (round(part, digits) + 0.0 for part in (number, low, high))  # + 0.0: no minus zero
        return f"{number:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{value:,}" if abs(int(value)) < 10_000_000 else str(value)
    return f"{float(value):.4g}" if np.ndim(value) == 0 else str(plain(value))


def write_table(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV with full precision; an Estimate becomes three columns (x, x_low, x_high).

    Text that a spreadsheet would take for a formula is written as `files.harmless` does.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    wide = {name for row in rows for name in row if isinstance(row[name], Estimate)}

    def cells(row: Mapping[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name in names:
            value = plain(row.get(name))
            if name in wide:
                parts = value if isinstance(value, Mapping) else {"value": value}
                out |= {name: parts.get("value"), f"{name}_low": parts.get("low"), f"{name}_high": parts.get("high")}
            else:
                out[name] = harmless(value) if isinstance(value, str) else value
        return out

    table = [cells(row) for row in rows]
    with atomic(path, newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, list(table[0]) if table else [], lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
        )  # so quoted, a carriage return in a text begins no row
        writer.writeheader()
        writer.writerows(table)


def _inlined(png: bytes, dpi: int) -> dict[str, Any]:
    """The picture as a data URI, with its size. It is lossless if that makes a small file, as for charts."""
    image, best = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    image.save(
        best, "webp", lossless=True, quality=20
    )  # quality is the effort: 40 % of the time of the best, files 10 % larger
    if best.tell() > 300_000:
        best = io.BytesIO()
        image.save(best, "webp", quality=88)
    data = base64.b64encode(best.getvalue()).decode()
    width, height = (round(side * 100 / dpi) for side in image.size)
    return {"source": f"data:image/webp;base64,{data}", "width": width, "height": height}


def render(
    title: str,
    sections: Sequence[Mapping[str, Any]],
    highlights: Sequence[tuple[str, str, str]] = (),
    context: Mapping[str, Any] | None = None,
    note: str = "",
) -> str:
    """The page as HTML.

    Args:
      title: of the page.
      sections: dicts with title, text, and items: pictures (name, caption, alt, source, width, height) and tables
        (name, caption, columns, rows of texts, numeric: which columns hold numbers).
      highlights: (what, value, remark), shown large at the top.
      context: what is known of the run (config, versions, commit, data fingerprint, timings); nested dicts fold.
      note: stands under the title, before everything else.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    short = {key: text(value) for key, value in (context or {}).items() if not isinstance(value, Mapping)}
    long = {key: _flat(value) for key, value in (context or {}).items() if isinstance(value, Mapping)}
    return environment.from_string(_packaged("report.html.jinja")).render(
        title=title, sections=sections, highlights=highlights, short=short, long=long, note=note
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", text(value))]
    return rows


def _table(item: Table, caption: str, folder: pathlib.Path) -> dict[str, Any]:
    """Write the CSV; what the page needs of it."""
    write_table(folder / f"{item.name}.csv", item.rows)
    columns = list(dict.fromkeys(name for row in item.rows for name in row))
    return {
        "kind": "table",
        "name": item.name,
        "caption": caption,
        "columns": columns,
        "numeric": [not any(isinstance(row.get(name), str) for row in item.rows) for name in columns],
        "rows": [[text(row.get(name)) for name in columns] for row in item.rows],
    }


def _picture(item: Picture, words: Mapping[str, str], folder: pathlib.Path) -> dict[str, Any]:
    """Write the PNG and the PDF; what the page needs of it."""
    figure = item.draw()
    dpi = min(200, int(MOST_PIXELS / max(figure.get_size_inches())))
    png = plots.save(figure, "png", dpi=dpi)
    for kind, content in (("png", png), ("pdf", plots.save(figure, "pdf", dpi=dpi))):
        with atomic(folder / "figures" / f"{item.name}.{kind}", "wb") as file:
            file.write(content)
    return {"kind": "picture", "name": item.name, **words, **_inlined(png, dpi)}


def publish(
    outdir: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    numbers: Mapping[str, Any],
    highlights: Sequence[tuple[str, str, str]] = (),
    context: Mapping[str, Any] | None = None,
    common: Mapping[str, Any] = {},
    note: str = "",
) -> pathlib.Path:
    """Write figures/, the tables' CSVs, metrics.json and, last, report.html to `outdir`; returns the page.

    `common` fills the braces of every section's texts, beside its own `values`. `note` stands under the title.
    """
    folder, words, prepared = pathlib.Path(outdir), tomllib.loads(_packaged("report.toml")), []
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawn = sum(isinstance(item, Picture) for section in sections for item in section.items)
    with Bar("writing figures", drawn, "figures", even=False) as bar:
        for key, items, values, extra in sections:
            heading, blocks, values = words["section"][key], [], {**common, **values}
            for item in items:
                if isinstance(item, Table):
                    blocks.append(_table(item, words["table"][item.name].format(**values), folder))
                    continue
                bar.say(f"drawing {item.name}")
                filled = {name: words["picture"][item.name][name].format(**values) for name in ("caption", "alt")}
                blocks.append(_picture(item, filled, folder))
                bar.advance(note="")
            paragraphs = [*extra, *filter(None, (paragraph.format(**values) for paragraph in heading.get("text", ())))]
            prepared.append({"title": heading["title"], "text": paragraphs, "items": blocks})
    tables = {item.name: item.rows for section in sections for item in section.items if isinstance(item, Table)}
    with atomic(folder / "metrics.json", encoding="utf-8") as file:
        everything = plain({**numbers, "tables": tables, "context": context or {}})
        json.dump(everything, file, indent=1, allow_nan=False)
    with atomic(folder / "report.html", encoding="utf-8") as file:
        file.write(render(title, prepared, highlights, context, note))
    return folder / "report.html"
