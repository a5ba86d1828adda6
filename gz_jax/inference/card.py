"""The page about a shared network: README.md of its folder, written from what is known of the network."""

from collections.abc import Mapping
from typing import Any

from gz_jax import resolve
from gz_jax.inference.onnx_export import INPUT, MODEL, OUTPUT
from gz_jax.inference.shared import CONFIG, VERSION, WEIGHTS, Network, epoch_of, without_folders

_KINDS = {
    "galaxy_zoo": "Galaxies of Kaggle's Galaxy Zoo challenge (SDSS; Galaxy Zoo 2's vote fractions)",
    "synthetic": "Synthetic galaxies drawn from known parameters",
    "catalogue": "A table of images and labels",
}
_LOSSES = {"mse": "by mean squared error"}  # the others are likelihoods
_NAMES = {
    "mse": "mean squared error over galaxies and answers",
    "rmse": "square root of the MSE",
    "accuracy": "share of galaxies whose largest answer is the right one",
    "r2": "share of the labels' variance explained",
}


def text(network: Network, fingerprint: str, figure: str = "", onnx: bool = False) -> str:
    """Markdown: what the network answers, sees and was trained on, its scores, and how to load it.

    The same network always gives the same text.

    Args:
      fingerprint: of the network; figure: name of a picture beside the page, or ''; onnx: whether an ONNX model is
        beside the page.
    """
    record = network.record
    config, tree, model = record.config, record.tree, record.config.model
    body = "CNN" if model.name == "cnn" else f"ResNet50 ({'v1' if model.variant == 'keras' else 'v1.5'})"
    start = f"from the weights {without_folders(model.pretrained)}" if model.pretrained else "from random weights"
    lines = [
        "---",
        "library_name: gz_jax",
        "tags: [astronomy, galaxies, image-classification]",
        "---",
        "",
        f"# {network.run}: {tree.name}",
        "",
        f"A {body} that predicts, from a galaxy's image, the vote fractions of {len(tree.columns)} answers to "
        f"{len(tree.questions)} question{'s' * (len(tree.questions) > 1)}. "
        f"{tree.citation and f'Questions: {tree.citation}.'}".strip(),
        "",
        "## What it was trained on",
        "",
        f"{_KINDS[config.data.source]}, {start}, {_LOSSES.get(config.loss, 'by the likelihood of the votes')}"
        f"{_augmented(config.augment)}. Data fingerprint: `{record.data}`.",
        "",
        "## What it sees",
        "",
        f"The central square, {resolve.seen(config).text}, brought to {config.data.size} x {config.data.size} pixels. "
        "Predictions are less reliable for images that show galaxies at another scale.",
        "",
        "## Scores",
        "",
        *_scores(network),
        *([f"![Predicted against volunteers' fractions]({figure})", ""] if figure else []),
        "## Questions and answers",
        "",
        "| question | answers | columns |",
        "|---|---|---|",
        *(
            f"| {_cell(question.text)} | {_cell(', '.join(question.texts))} | {_cell(', '.join(question.columns))} |"
            for question in tree.questions
        ),
        "",
        "## How to use it",
        "",
        "```python",
        "import gz_jax",
        "",
        'network = gz_jax.load("THIS_FOLDER")  # or "hf-hub:owner/name"',
        'table = gz_jax.predict(network, "images/")  # a pandas DataFrame',
        "```",
        "",
        "```sh",
        "gz-jax --mode=predict --workdir=THIS_FOLDER --input=images/ --output=predictions",
        "```",
        "",
        f"`{WEIGHTS}` holds the weights, `{CONFIG}` (format version {VERSION}) all that is needed to use them. "
        f"Fingerprint of the network: `{fingerprint}`.",
        "",
        *(_onnx(config.data.size, len(tree.columns)) if onnx else []),
    ]
    return "\n".join(lines)


def _onnx(size: int, answers: int) -> list[str]:
    return [
        f"`{MODEL}` is the same network for ONNX Runtime, OpenVINO and others, preprocessing and outputs included. "
        f"Input: the central square (see above) as uint8 `{INPUT}` [batch, {size}, {size}, 3], RGB. Output: float32 "
        f"`{OUTPUT}` [batch, {answers}] in the order of the columns. Its metadata hold the columns, the tree and the "
        "fingerprint.",
        "",
        "```python",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("THIS_FOLDER/{MODEL}")',
        f'(fractions,) = session.run(None, {{"{INPUT}": images}})',
        "```",
        "",
    ]


def _augmented(augment: Mapping[str, Any]) -> str:
    ways = {
        "turned to any angle": augment["rotate"],
        "mirrored": augment["flip"],
        f"zoomed by up to {augment['zoom']:g}": augment["zoom"] > 1,
        f"shifted by up to {augment['shift']:g} pixels": augment["shift"],
    }
    used = ", ".join(way for way, there in ways.items() if there)
    return f"; images were {used}" if used else ""


def _scores(network: Network) -> list[str]:
    """A table of the validation scores with 95 % intervals; without these, the validation MSE from the log."""
    rows = [
        f"| {name} | {score['value']:.4g} [{score['low']:.4g}, {score['high']:.4g}] | {meaning} |"
        for name, meaning in _NAMES.items()
        if (score := network.scores.get(name))
    ]
    if not rows:
        epoch = epoch_of(network.info)
        when = "" if epoch is None else f" (epoch {epoch})"
        return [f"Validation MSE {network.info['val_loss']:.5g}{when}.", ""]
    about = (
        f"On {network.scores['galaxies']} validation galaxies, with 95 % intervals from a bootstrap over galaxies. "
        "The best epoch was chosen on them, so these are slightly too good."
    )
    return [about, "", "| score | value | meaning |", "|---|---|---|", *rows, ""]


def _cell(text: str) -> str:
    """Text that stays in its cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
