"""Figure of galaxies with what a network says of them. Arrays in, `Figure` out."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gz_jax.analysis.plots import INK, WIDTH, fit, show, styled
from gz_jax.inference.words import Said

COLUMNS, LINE, SIZE = 4, 0.15, 6.4  # inches of an answer's bar, and points of its text
RIGHT, WRONG, TRACK = "#b5d6ec", "#f9c99b", "#f2f2f2"
PAD, GAP, NUMBER = 0.13, 0.06, 0.31  # inches between galaxies, above the bars, and for a share in numbers


@styled
def galaxies_in_words(images: np.ndarray, said: Sequence[Sequence[Said]], true: str = "volunteers' share") -> Figure:
    """Galaxies in a grid, under each the network's answers as bars, with lines at the true shares.

    Args:
      images: uint8 [n, S, S, 3].
      said: of each galaxy the answers, see `inference.words.beside`.
      true: what the lines are called.
    """
    side = (WIDTH - PAD * (COLUMNS + 1)) / COLUMNS
    rows = [said[i : i + COLUMNS] for i in range(0, len(said), COLUMNS)]
    pitches = [side + GAP + LINE * max(map(len, row)) + PAD for row in rows]
    height = sum(pitches) + PAD + 0.26
    figure = Figure(figsize=(WIDTH, height))
    for i, (image, answers) in enumerate(zip(images, said, strict=True)):
        left = (PAD + (i % COLUMNS) * (side + PAD)) / WIDTH
        bottom = height - PAD - sum(pitches[: i // COLUMNS]) - side
        show(ax := figure.add_axes((left, bottom / height, side / WIDTH, side / height)), image)
        ax.images[0].set_interpolation("bicubic")
        tall = LINE * len(answers)
        _bars(figure.add_axes((left, (bottom - GAP - tall) / height, side / WIDTH, tall / height)), answers, side)
    _key(figure, side, true)
    return figure


def _bars(ax: Axes, answers: Sequence[Said], side: float) -> None:
    """One bar below the other with the answers' texts on them and the shares on their right, `side` inches together."""
    y, end = np.arange(len(answers)), side / (side - NUMBER)
    ax.barh(y, 1, 0.84, color=TRACK)
    ax.barh(y, [a.predicted for a in answers], 0.84, color=[WRONG if a.wrong else RIGHT for a in answers])
    ax.vlines([a.true for a in answers], y - 0.42, y + 0.42, color=INK, linewidth=1.2)
    for row, answer in enumerate(answers):
        ax.text(0.03, row, fit(answer.text, side - NUMBER - 0.05, SIZE), fontsize=SIZE, va="center_baseline")
        share = f"{100 * answer.predicted:.0f} %"
        ax.text(end, row, share, fontsize=SIZE, va="center_baseline", ha="right")
    ax.set(xlim=(0, end), ylim=(len(answers) - 0.5, -0.5))
    ax.set_axis_off()


def _key(figure: Figure, side: float, true: str) -> None:
    """What the colours and the line mean, at the foot of the figure."""
    height = figure.get_size_inches()[1]
    other = "predicted share, where another answer is the largest one"
    texts = ((RIGHT, 0.16, "predicted share"), (INK, 0.02, true), (WRONG, 0.16, other))
    for i, (colour, wide, text) in enumerate(texts):
        x = PAD + i * (side + PAD)
        place = (x / WIDTH, 0.09 / height, wide / WIDTH, 0.126 / height)
        figure.add_artist(Rectangle(place[:2], *place[2:], facecolor=colour, transform=figure.transFigure))
        figure.text((x + wide + 0.06) / WIDTH, 0.153 / height, text, fontsize=7, va="center_baseline")
