"""A picture of synthetic galaxies with what a network says of them.

    python launch.py --config=configs/demo.py --workdir=runs/demo
    python -m gz_jax.analysis.showcase runs/demo .github/galaxies.webp

The galaxies took no part in training. They are chosen by their true answers alone, as different as possible.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from gz_jax.analysis import plots, plots_words
from gz_jax.analysis.evaluate import varied
from gz_jax.data import synthetic
from gz_jax.data.synthetic_render import CENTRE_FIELD, render
from gz_jax.inference import trained, words
from gz_jax.inference.predict import predict_arrays
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.files import atomic

FIRST = 5_000_000  # GalaxyID, far above those of any data set
SIDE = 240  # pixels in the picture
KINDS = ("webp", "png")


def showcase(workdir: pathlib.Path, kind: str = "webp", count: int = 8, among: int = 400) -> bytes:
    """A figure, as a file of `KINDS`, of `count` of `among` new galaxies, rendered for it and at the network's size.

    Raises:
      UserError: no trained network there; its questions are not those of synthetic galaxies.
    """
    model = trained.load(workdir)
    data = model.config.data
    how = {"seed": data.seed, "merger_fraction": data.merger_fraction}
    _, truth = synthetic.truth(FIRST + np.arange(among), tree=model.tree, **how)
    rows = varied(truth, count)
    parameters, truth = synthetic.truth(FIRST + rows, tree=model.tree, **how)
    seen = render(parameters, size=model.view.size, field=CENTRE_FIELD)
    _, found, tree = predict_arrays(seen, model, crop=model.view.size)  # the square already, so it is all of it
    said = [words.beside(one, true, tree) for one, true in zip(found.fractions, truth, strict=True)]
    shown = render(parameters, size=SIDE, field=CENTRE_FIELD)
    return plots.save(plots_words.galaxies_in_words(shown, said, true="true share"), kind, dpi=160)


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out the command line, or `arguments` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=pathlib.Path, help="of a network for Galaxy Zoo 2 or Galaxy Zoo DECaLS 5")
    parser.add_argument("output", type=pathlib.Path, help="file to write: .webp or .png")
    parser.add_argument("--count", type=int, default=8, help="galaxies in the figure")
    given = parser.parse_args(arguments)
    if (kind := given.output.suffix[1:]) not in KINDS:
        parser.error(f"{given.output}: its name must end in .{' or .'.join(KINDS)}")
    if given.count < 1:
        parser.error(f"--count={given.count}: at least one galaxy")
    try:
        picture = showcase(given.workdir, kind, given.count)
        with atomic(given.output, "wb") as file:
            file.write(picture)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
