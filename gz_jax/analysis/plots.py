"""The style of all figures, and the figures of images and of training. From arrays to `Figure`.

Figures are matplotlib `Figure` objects, not pyplot's, so there is no global state and no display is needed. Colours are
those of Okabe & Ito (which colour-blind readers can tell apart, also in grey) and cividis, on white.
"""

import bisect
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from gz_jax.labels import Tree

BLUE, ORANGE, GREEN, RED, PINK, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#767676",
)  # fmt: skip
INK = "#1a1a1a"
CYCLE = (BLUE, RED, GREEN, PINK, ORANGE, SKY, INK)
WIDTH, NARROW = 7.2, 4.6  # inches: two columns of a journal page, and a single chart
BELOW = 0.1726  # inches of the panels' common x label above the figure's edge
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "image.interpolation": "antialiased",
    "image.cmap": "cividis",
}
styled = mpl.rc_context(STYLE)


def save(figure: Figure, kind: str, dpi: int = 160) -> bytes:
    """The figure as a file's bytes ('png', 'webp', 'svg', 'pdf'), the same for the same figure."""
    buffer, undated = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context({**STYLE, "svg.hashsalt": "gz_jax"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=undated.get(kind))
    return buffer.getvalue()


def fit(text: str, width: float, size: float, lines: int = 1, weight: str = "normal") -> str:
    """The text in at most `lines` lines of `width` inches at a font size in points; the rest becomes '…'."""
    font, done = FontProperties(family="DejaVu Sans", size=size, weight=weight), list[str]()

    def inches(part: str) -> float:
        return text_to_path.get_text_width_height_descent(part, font, False)[0] / 72

    while text and len(done) < lines:
        last = "…" if len(done) == lines - 1 and inches(text) > width else ""
        end = max(bisect.bisect(range(1, len(text) + 1), width, key=lambda i: inches(text[:i] + last)), 1)
        if end < len(text) and not last and (space := text.rfind(" ", 1, end + 1)) > 0:
            end = space
        done.append(text[:end].rstrip() + last)
        text = text[end:].lstrip()
    return "\n".join(done).replace("$", r"\$")  # no formula begins


def _rows(tree: Tree, columns: int = 7) -> list[list[slice]]:
    """Answers packed into rows of at most `columns`, by question; only a question with more is broken across rows."""
    rows: list[list[slice]] = [[]]
    for s in tree.slices:
        many = math.ceil((s.stop - s.start) / columns)
        edges = np.linspace(s.start, s.stop, many + 1).round().astype(int).tolist()
        for start, stop in itertools.pairwise(edges):
            if rows[-1] and stop - start + sum(part.stop - part.start for part in rows[-1]) > columns:
                rows.append([])
            rows[-1].append(slice(start, stop))
    return rows


def heading(tree: Tree, question: int) -> str:
    """A question's text after its number; a single question needs none."""
    text = tree.questions[question].text
    return f"{question + 1}  {text}" if len(tree.questions) > 1 else text


def answer_panels(tree: Tree, bottom: float = 0.55, left: float = 0.47) -> tuple[Figure, list[Axes]]:
    """One square panel for each answer, in their order, under a heading for each question.

    Args:
      bottom, left: inches kept free below and beside the panels.
    """
    rows, starts, right, gap, top = _rows(tree), [s.start for s in tree.slices], 0.08, 0.13, 0.05
    columns = max(sum(part.stop - part.start for part in row) for row in rows)
    side = min((WIDTH - left - right - gap * (columns - 1)) / columns, 2.5)
    width = left + right + columns * side + gap * (columns - 1)
    titles = [fit(text, side + gap - 0.06, 6.8, 3) for text in tree.texts]
    widths = [min(len(q.answers), columns) * (side + gap) - gap for q in tree.questions]
    heads = [fit(heading(tree, i), wide, 7.2, 3, "bold") for i, wide in enumerate(widths)]
    pitches = []  # of each row, and how much of that is for titles of several lines
    for row in rows:
        above = 0.11 * max(titles[j].count("\n") for part in row for j in range(part.start, part.stop))
        lines = max(heads[tree.question_of[part.start]].count("\n") for part in row)
        pitches.append((side + 0.5 + above + 0.12 * lines, above))
    height = top + sum(pitch for pitch, _ in pitches) + bottom
    figure, axes, y = Figure(figsize=(width, height)), [], height - top + 0.12
    for row, (pitch, above) in zip(rows, pitches, strict=True):
        x, y = left, y - pitch
        head = (y + side + 0.2 + above) / height
        for part in row:
            start = x / width
            for j in range(part.start, part.stop):
                axes.append(figure.add_axes((x / width, y / height, side / width, side / height)))
                axes[-1].set_title(titles[j], fontsize=6.8, pad=2.5)
                x += side + gap
            figure.add_artist(Line2D([start, (x - gap) / width], [head, head], color=GREY, linewidth=0.6))
            text = heads[tree.question_of[part.start]] if part.start in starts else "(continued)"
            figure.text(start, head + 0.03 / height, text, fontsize=7.2, weight="bold", va="bottom")
    return figure, axes


def outer_ticks(
    figure: Figure,
    axes: Sequence[Axes],
    tree: Tree,
    x: str,
    y: str,
    heights: Sequence[float] = (0, 0.5, 1),
    names: Sequence[str] | None = None,
) -> None:
    """Ticks at 0, 0.5, 1 on the panels' x and at `heights` on y, numbered at the outer edges only."""
    sizes = [sum(part.stop - part.start for part in row) for row in _rows(tree)]
    names, first = names or [f"{height:g}" for height in heights], 0
    for size, below in zip(sizes, [*sizes[1:], 0], strict=True):
        for i, ax in enumerate(axes[first : first + size]):
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"] if i >= below else [""] * 3, fontsize=6.2)
            ax.set_yticks(heights, names if i == 0 else [""] * len(heights), fontsize=6.2)
            ax.minorticks_off()
            ax.tick_params(pad=1.5)
        first += size
    height = figure.get_size_inches()[1]
    figure.supxlabel(x, fontsize=7.8, y=BELOW / height)
    figure.supylabel(fit(y, height - 0.1, 7.8, 2), fontsize=7.8, x=0.003)


def empty(ax: Axes) -> None:
    """Say in an empty panel that there are no labels of its answer."""
    ax.text(0.5, 0.5, "no labels", transform=ax.transAxes, fontsize=6.8, color=GREY, ha="center", va="center")


def show(ax: Axes, image: np.ndarray) -> None:
    """Draw one galaxy, [S, S, 3], without ticks or frame."""
    ax.imshow(image)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


@styled
def mosaic(images: np.ndarray, captions: Sequence[str], columns: int = 6) -> Figure:
    """Galaxies in a grid with a line of text under each (figures 1, 12 and 13).

    Args:
      images: uint8 [n, S, S, 3], n >= 1.
      captions: n strings.
      columns: of the grid.
    """
    rows, pad = math.ceil(len(images) / columns), 0.06
    side = (WIDTH - pad * (columns + 1)) / columns
    pitch = side + (0.32 if any("\n" in c for c in captions) else 0.2 if any(captions) else pad)
    height = rows * pitch + pad
    figure = Figure(figsize=(WIDTH, height))
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = pad + (i % columns) * (side + pad), height - pad - (i // columns) * pitch - side
        ax = figure.add_axes((x / WIDTH, y / height, side / WIDTH, side / height))
        show(ax, image)
        lines = caption.split("\n")
        size = 6.6 if max(map(len, lines)) <= 22 else 5.2
        ax.set_xlabel("\n".join(fit(line, side + pad, size) for line in lines), fontsize=size, labelpad=2.5)
    return figure


def _spread(values: np.ndarray, gap: float) -> np.ndarray:
    """Move label heights apart until they stand at least `gap` from one another, keeping their order."""
    order, moved = np.argsort(values), np.array(values, float)
    for _ in range(100):
        for low, high in itertools.pairwise(order):
            if (lack := gap - (moved[high] - moved[low])) > 1e-9:
                moved[low] -= lack / 2
                moved[high] += lack / 2
    return moved


def _label_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Name lines at their right ends: (x, y, text, colour), moved apart where they would overlap."""
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = np.array([to_axes.transform((x, y))[1] for x, y, _, _ in ends])
    for (_, _, text, colour), height in zip(ends, _spread(heights, 0.065), strict=True):
        ax.text(1.015, height, text, transform=ax.transAxes, color=colour, va="center", fontsize=8, weight="bold")


@styled
def loss_curve(history: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Training and validation loss of one run, its best epoch and cuts of the learning rate (figures 5-7).

    Args:
      history: float [epochs] columns with Keras' names; 'loss' is needed, 'epoch', 'val_loss' and 'learning_rate' may
        be absent. Epochs count from 1. NaN where an epoch has no value.
      title: the run's name.
    """
    loss = np.asarray(history["loss"], float)
    epoch = np.asarray(history.get("epoch", 1 + np.arange(len(loss))), float)
    val, rate = history.get("val_loss"), history.get("learning_rate")
    figure = Figure(figsize=(NARROW, 3.0), layout="constrained")
    ax = figure.add_subplot()
    ax.set(yscale="log", xlabel="epoch", ylabel="mean squared error")
    ax.set_title(title, loc="left", weight="bold")
    lines = [(loss, "training", GREY)] + ([] if val is None else [(np.asarray(val, float), "validation", BLUE)])
    ends = []
    for values, name, colour in lines:
        known = np.isfinite(values) & (values > 0)
        if known.any():
            ax.plot(epoch[known], values[known], color=colour, marker="o" if known.sum() < 30 else None, markersize=3)
            ends.append((epoch[known][-1], values[known][-1], name, colour))
    _pad_epochs(ax, epoch)
    if rate is not None:
        cuts = np.flatnonzero(np.asarray(rate)[1:] < 0.95 * np.asarray(rate)[:-1]) + 1
        if len(cuts) > min(10, len(loss) / 3):  # a schedule that always falls has no cuts
            cuts = cuts[:0]
        for cut in cuts:
            ax.axvline(epoch[cut] - 0.5, color=ORANGE, linewidth=0.9, linestyle=(0, (4, 2)), zorder=0)
            place: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "va": "top"}
            ax.text(epoch[cut] - 0.5, 0.99, f" {rate[cut]:.2g}", fontsize=7, color="#8a5f00", **place)
        if len(cuts):
            ax.set_title("dashed: learning rate cut to", loc="right", color="#8a5f00", fontsize=7)
    if val is not None and np.isfinite(val).any():
        best = int(np.nanargmin(val))
        ax.plot(epoch[best], val[best], "o", color=RED, markersize=6, zorder=5)
        # At the upper right, where falling curves leave room, below the rates of the cuts.
        ax.text(
            0.98, 0.9, f"best: epoch {epoch[best]:.0f}, {val[best]:.5f}",
            transform=ax.transAxes, color=RED, fontsize=7.5, va="top", ha="right",
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
        ax.margins(y=0.16)
    figure.draw_without_rendering()
    _label_ends(ax, ends)
    return figure


def _pad_epochs(ax: Axes, epoch: np.ndarray) -> None:
    low, high = (float(np.min(epoch)), float(np.max(epoch))) if len(epoch) else (0.0, 1.0)
    ax.set_xlim(low - 0.5, high + 0.5)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.6)

    def sparse(x: float, _: float) -> str:  # numbers at 2 and 5, or at all ticks where the axis spans less than 1 to 5
        bottom, top = ax.get_ylim()
        return f"{x:g}" if top < 5 * bottom or f"{x:e}"[0] in "25" else ""

    if ax.get_yscale() == "log":
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(sparse)


@styled
def run_curves(runs: Mapping[str, Mapping[str, np.ndarray]], column: str, ylabel: str, log: bool = False) -> Figure:
    """A logged column of several runs, the training counterpart thin and dotted (figures 8 and 9).

    Args:
      runs: name -> float [epochs] columns with Keras' names.
      column: such as 'val_loss'; 'loss' is then drawn thin.
      ylabel: of the axis.
      log: whether that axis is logarithmic.
    """
    figure = Figure(figsize=(5.9, 3.4), layout="constrained")
    ax = figure.add_subplot()
    ax.set(xlabel="epoch", ylabel=ylabel, yscale="log" if log else "linear")
    ax.set_title("solid: validation (dot: its best), dotted: training", loc="left", color=GREY, fontsize=7.5)
    ends, epochs = [], []
    for i, (name, history) in enumerate(runs.items()):
        colour = CYCLE[i % len(CYCLE)]
        epoch = np.asarray(history.get("epoch", 1 + np.arange(len(next(iter(history.values()), ())))), float)
        epochs.append(epoch)
        for which, style in ((column.removeprefix("val_"), (0, (1, 1.5))), (column, "-")):
            values = np.asarray(history.get(which, np.full(len(epoch), np.nan)), float)
            known = np.isfinite(values) & ((values > 0) | (not log))
            if not known.any():
                continue
            width = 1.6 if which == column else 1.0
            ax.plot(epoch[known], values[known], color=colour, linestyle=style, linewidth=width)
            if which == column:
                ends.append((epoch[known][-1], values[known][-1], name, colour))
                best = (np.nanargmin if "loss" in column else np.nanargmax)(np.where(known, values, np.nan))
                ax.plot(epoch[best], values[best], "o", color=colour, ms=6.5, mec="white", zorder=5)
    _pad_epochs(ax, np.concatenate(epochs) if epochs else np.zeros(1))
    figure.draw_without_rendering()
    _label_ends(ax, ends)
    return figure
