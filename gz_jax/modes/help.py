"""What `--help` prints: a page about the command, or about one mode; and the tables of this folder's README.md."""

import ast
import difflib
import pathlib
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from gz_jax import fields
from gz_jax.modes import named, options
from gz_jax.modes.options import MODES, Option
from gz_jax.runtime.errors import UserError

SHORT, FULL = ("help", "helpshort", "h", "?"), ("helpfull",)
# For each mode: arguments after the program's name, and what they do.
EXAMPLES = {
    "train": (
        ("--config=demo", "Train on synthetic galaxies: no data are needed, and it takes about two minutes."),
        (
            "--config=resnet50 --config.data.dir=FOLDER --workdir=runs/first",
            "Train the paper's best network on Kaggle's files. The same command continues a run that was stopped.",
        ),
        (
            "--config=catalogue --config.data.catalogue=galaxies.csv --config.data.labels=counts",
            "Train on a table of your own images and votes.",
        ),
    ),
    "explore": (
        ("--mode=explore --config=demo", "Look at the synthetic galaxies."),
        ("--mode=explore --config=resnet50 --config.data.dir=FOLDER", "Look at Kaggle's galaxies."),
    ),
    "evaluate": (
        ("--mode=evaluate --workdir=runs/demo", "Write the report of the run in runs/demo again."),
        ("--mode=evaluate --workdir=runs/demo --views=8", "The same, averaged over 8 views of each galaxy."),
    ),
    "compare": (
        ("--mode=compare runs/cnn runs/resnet50", "Compare two runs."),
        ("--mode=compare runs/cnn runs/resnet50 runs/record --output=three", "Compare three, into the folder three."),
    ),
    "predict": (
        ("--mode=predict --workdir=runs/demo --input=galaxy.jpg", "Say in words what the network sees in one image."),
        (
            "--mode=predict --workdir=runs/demo --input=images --output=predictions --formats=csv",
            "Predict all images in a folder. The table is written as Parquet and as CSV.",
        ),
        (
            "--mode=predict --workdir=runs/demo --input=table.csv --field=40 --pixel_scale=0.262 --output=predictions",
            "Predict the images in a table, looking at the central 40 arcsec of each.",
        ),
    ),
    "mergers": (
        ("--mode=mergers --workdir=runs/demo --input=predictions", "The fraction of mergers among the predictions."),
        (
            "--mode=mergers --workdir=runs/demo --input=predictions --answer=Class3.1",
            "The same for another answer: here the fraction of galaxies with a bar.",
        ),
    ),
    "similar": (
        (
            "--mode=similar --input=predictions --like=ID1,ID2 --output=similar",
            "Galaxies like two of the predicted ones. The predictions were made with --embeddings.",
        ),
        (
            "--mode=similar --input=predictions --like=galaxy.jpg --workdir=runs/demo --output=similar",
            "Galaxies like the one in an image file.",
        ),
    ),
    "export": (
        ("--mode=export --workdir=runs/demo --output=network", "Write the network into the folder network."),
        ("--mode=export --workdir=runs/demo --output=network --formats=onnx", "The same, with a file for ONNX."),
    ),
    "benchmark": (
        ("--mode=benchmark --config=cnn", "Time the paper's CNN."),
        ("--mode=benchmark --config=resnet50 --peers=torch --repeats=5", "Time a ResNet50, and PyTorch's beside it."),
    ),
}
FIRST = (("train", 0), ("predict", 0), ("predict", 1), ("mergers", 0))  # examples of the general page


def asked(script: str, arguments: Sequence[str]) -> str | None:
    """The help that arguments of the command ask for; None if they ask for none.

    Args:
      script: the program's path as it was typed, sys.argv[0].

    Raises:
      UserError: help on a mode or a config that does not exist.
    """
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    words = {argument.removeprefix("-").removeprefix("-") for argument in arguments if argument.startswith("-")}
    typed = program(script)
    if words & set(FULL):
        return "\n\n\n".join([general(typed), *(of_mode(typed, mode) for mode in MODES)])
    if not words & set(SHORT):
        return None
    mode, config = _value(arguments, "mode"), _value(arguments, "config")
    if mode is not None and mode not in MODES:
        (near,) = difflib.get_close_matches(mode, MODES, 1, 0)
        raise UserError(f"--mode={mode} must be one of {', '.join(MODES)}. The nearest is --mode={near}.")
    if mode is None and config is None:
        return general(typed)
    return of_mode(typed, mode or "train", config)


def program(script: str) -> str:
    """What a user types to start the command, from sys.argv[0]: 'python launch.py', 'python -m gz_jax' or 'gz-jax'."""
    name = pathlib.Path(script).name
    if name == "launch.py":
        return f"python {shlex.quote(script)}"
    return "python -m gz_jax" if name == "__main__.py" else "gz-jax"  # also for what is called from Python


def general(typed: str) -> str:
    """The page about the command and its modes. `typed`: what a user types to start the command."""
    rows = [(mode, text + (" This is the default." if mode == "train" else "")) for mode, text in MODES.items()]
    examples = [EXAMPLES[mode][place] for mode, place in FIRST]
    return "\n\n".join([
        f"{typed} [--mode=MODE] [flags]",
        _wrapped(
            "Trains neural networks that predict the answers of Galaxy Zoo's volunteers from images of galaxies. Uses "
            "trained networks for predictions of your own images, reports, and the fraction of mergers."
        ),
        _block("Modes", _columns(rows)),
        _examples(typed, examples),
        _block("More", _columns([
            (f"{typed} --mode=predict --help", "The flags of a mode, with examples. The same for every other mode."),
            (f"{typed} --config=demo --help", "The fields of a config, with their values."),
            (f"{typed} --helpfull", "The help of all modes."),
            (f"{typed} --flagfile=FILE", "Read flags from a file, one in each line."),
        ])),
    ])  # fmt: skip


def of_mode(typed: str, mode: str, config: str | None = None) -> str:
    """The page about a mode: its examples, its flags and, where it needs a config, the configs or one config's fields.

    Raises:
      UserError: there is no such config.
    """
    runs = " RUN RUN ..." if mode == "compare" else ""
    text = "Each RUN is the workdir of a run that was evaluated, as training does at its end." if runs else ""
    parts = [f"{typed} --mode={mode}{runs} [flags]", _wrapped(f"{MODES[mode]} {text}")]
    parts.append(_examples(typed, EXAMPLES[mode]))
    for group, found in options.of(mode).items():
        note = _wrapped(options.NOTES[group], "  ") + "\n" if group in options.NOTES else ""
        parts.append(_block(group, note + _columns([(o.usage, sentences(o, mode)) for o in found])))
    if mode in options.WITH_CONFIG.split():
        parts.append(_fields_of(config) if config else _configs(typed))
    return "\n\n".join(parts)


def sentences(option: Option, mode: str) -> str:
    """What a flag means in a mode, with its default where it has one."""
    return option.meaning(mode) + (f" Default: {option.default}." if _has_default(option) else "")


def tables() -> str:
    """The modes and the flags of each as Markdown, for the README.md of this folder."""
    parts = []
    for mode, text in MODES.items():
        rows = [f"## {mode}", "", text, "", "| flag | default | meaning |", "|---|---|---|"]
        for found in options.of(mode).values():
            for option in found:
                default = f"`{option.default}`" if _has_default(option) else ""
                usage = option.usage.replace("|", "\\|")
                rows.append(f"| `{usage}` | {default} | {option.meaning(mode)} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _has_default(option: Option) -> bool:
    return option.default not in (None, [], False)


def _value(arguments: Sequence[str], name: str) -> str | None:
    """The last value of a flag; None if it is not given."""
    found = None
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            found = value if equals else after
    return found


def _width() -> int:
    return min(max(shutil.get_terminal_size((100, 24)).columns, 60), 100)


def _wrapped(text: str, indent: str = "") -> str:
    how: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text.strip(), _width(), initial_indent=indent, subsequent_indent=indent, **how)


def _block(title: str, text: str) -> str:
    return f"{title}:\n{text}"


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    """Rows of a term and its text. The texts are beside the terms if all terms are short, otherwise below them."""
    widest = max(len(term) for term, _ in rows)
    if widest > 24:
        return "\n".join(f"  {term}\n{_wrapped(text, ' ' * 6)}" for term, text in rows)
    indent = " " * (widest + 4)
    return "\n".join(f"  {term:{widest}}  {_wrapped(text, indent).lstrip()}" for term, text in rows)


def _examples(typed: str, examples: Sequence[tuple[str, str]]) -> str:
    return _block("Examples", "\n".join(f"  {typed} {line}\n{_wrapped(text, ' ' * 6)}" for line, text in examples))


def _configs(typed: str) -> str:
    """The configs that come with gz_jax, and how their fields are set."""
    found = {name: ast.get_docstring(ast.parse(pathlib.Path(path).read_text())) for name, path in named.SHIPPED.items()}
    text = (
        "Every field of a config can be set after --config=NAME, such as --config.batch_size=32 or "
        f"--config.data.dir=FOLDER. `{typed} --config=default --help` lists all fields, and {fields.__file__} says "
        "what each means."
    )
    rows = [(name, (doc or "").partition("\n")[0]) for name, doc in found.items()]
    return _block("Configs", f"{_columns(rows)}\n\n{_wrapped(text, '  ')}")


def _fields_of(config: str) -> str:
    """Every field of a config with its value, and what it may be. Raises UserError: there is no such config."""
    found, usual = fields.flatten(named.read(config)), fields.flatten(fields.default())
    names = [*fields.FIELDS, *sorted(found.keys() - fields.FIELDS.keys())]
    rows = []
    for name in (name for name in names if name in found):
        wanted = fields.FIELDS[name].wanted if name in fields.FIELDS else "not a field of gz_jax"
        changed = "*" if found[name] != usual.get(name) else " "
        rows.append(f"{changed} {f'{name} = {found[name]!r}':<34}  {wanted}")
    text = (
        f"Set any of them after --config={config}, as in --config.{names[0]}=1. Those with * differ from the default. "
        f"{fields.__file__} says what each means."
    )
    return _block(f"Fields of the config {config}", f"{_wrapped(text, '  ')}\n\n" + "\n".join(rows))
