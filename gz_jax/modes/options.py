"""The modes of the command and their flags, as data: parsed by `command`, explained by `help`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import flags

MODES = {
    "train": "Train a network, or continue a run that was stopped. A report is written at the end.",
    "explore": "Look at the data of a config before training: examples, label statistics, what the network will see.",
    "evaluate": "Predict a run's validation and test galaxies, and write its report and tables again.",
    "compare": "Show several runs side by side, with confidence intervals for their differences.",
    "predict": "Predict the vote fractions of any images with a trained network.",
    "mergers": "Estimate the fraction of galaxies with an answer, such as 'merger', from a table of predictions.",
    "similar": "Find the galaxies that are most like given ones, and the most unusual ones, in a table of predictions.",
    "export": "Write a trained network into a folder that other people can use.",
    "benchmark": "Measure the speed of training and prediction on this machine.",
}
WITH_CONFIG = "train explore benchmark"  # modes that need a config; in other modes it only names the workdir
ALL = " ".join(MODES)

COMMAND, READ, SEEN, FITS, COMPUTED, WRITTEN, PROCESSES = GROUPS = (
    "The command",
    "What is read",
    "What the network looks at",
    "How FITS images are shown to the network",
    "What is computed",
    "What is written",
    "Several processes",
)
NOTES = {
    SEEN: "Without these flags the network looks at the same square as in its training.",
    FITS: "Without these flags they are shown as in the network's training. An empty value, as in --sky=, stands for "
    "gz_jax's default.",
}


class Option(NamedTuple):
    """A flag: its name, type, default and group, and what it means in each mode that has it.

    Attributes:
      kind: str, bool, int, float or list (of texts, with commas between).
      value: the word for its value in the help, as PIXELS in --crop=PIXELS; '' for a bool.
      meanings: sentences about the flag; the key names the modes to which they apply, with spaces between.
      choices: all allowed values; empty if any value is allowed.
      low, high: the range of a number.
    """

    name: str
    kind: type
    default: Any
    value: str
    group: str
    meanings: Mapping[str, str]
    choices: tuple[Any, ...] = ()
    low: Any = None
    high: Any = None

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that have this flag, in the order of `MODES`."""
        return tuple(mode for mode in MODES if self.meaning(mode))

    def meaning(self, mode: str) -> str:
        """What the flag means in a mode; '' if the mode does not have it."""
        return next((text for modes, text in self.meanings.items() if mode in modes.split()), "")

    @property
    def usage(self) -> str:
        """The flag as it is typed, with a word for its value."""
        return f"--{self.name}={self.value}" if self.value else f"--{self.name}"


_RUN = "Folder of the trained network: a run, or what --mode=export wrote. "
_NAMED = "Only names the workdir: --config=demo stands for --workdir=runs/demo."
OPTIONS = (
    Option("mode", str, "train", "MODE", COMMAND, {ALL: "What to do."}, tuple(MODES)),
    Option("config", str, None, "NAME", COMMAND, {
        WITH_CONFIG: "A config that comes with gz_jax, by its name, or the path of a Python file of your own. Needed.",
        "evaluate": f"{_NAMED} If --data_dir is not given, its data.dir says where Kaggle's files are now.",
        "predict mergers similar export": _NAMED,
    }),
    Option("workdir", str, None, "FOLDER", COMMAND, {
        "train": "Folder of the run. Without it: runs/ and the config's name, such as runs/demo.",
        "explore": "Folder of the page, which is FOLDER/explore/report.html. Without it: runs/ and the config's name.",
        "evaluate": "Folder of the run. Needed.",
        "predict": f"{_RUN}Also hf-hub:owner/name@revision. Several with commas between are averaged. Needed.",
        "mergers": "Folder of the run that predicted; several with commas between, if several were averaged. Needed.",
        "similar": f"{_RUN}Only needed if --like names image files.",
        "export": f"{_RUN}Also hf-hub:owner/name@revision. Needed.",
        "benchmark": "The results go into FOLDER/benchmark. Without it: runs/ and the config's name.",
    }),
    Option("input", str, None, "PATH", READ, {
        "predict": "The images: one file, a folder, a pattern such as 'images/*.jpg' (in quotes), a zip, or a table "
        "(CSV, Parquet or FITS) of ids and image files. JPEG, PNG, TIFF and FITS can be read. Needed.",
        "mergers": "Folder that --mode=predict wrote. Several with commas between are averaged. Needed.",
        "similar": "Folder that --mode=predict wrote with --embeddings. Needed.",
    }),
    Option("id_column", str, None, "COLUMN", READ, {
        "predict": "Column of the table with the galaxies' ids. Without it: as in the network's training, usually id.",
    }),
    Option("file_column", str, None, "COLUMN", READ, {
        "predict": "Column of the table with the image files. Without it: as in the network's training, usually file.",
    }),
    Option("file_columns", list, None, "RED,GREEN,BLUE", READ, {
        "predict": "Three columns of the table, if each galaxy has one file for each band.",
    }),
    Option("images", str, None, "FOLDER", READ, {
        "predict": "Folder or zip with the table's image files, if they are not beside the table.",
        "evaluate": "Folder or zip with the catalogue's image files, if they have moved. For runs on a catalogue.",
        "similar": "Folder or zip with the images that were predicted, if they have moved. They are shown on the page.",
    }),
    Option("data_dir", str, None, "FOLDER", READ, {
        "evaluate": "Where Kaggle's files, or the catalogue's table, are now, if they have moved.",
    }),
    Option("other_data", bool, False, "", READ, {
        "evaluate": "Allow other galaxies than the run's in --data_dir. Their report gets a folder of its own.",
    }),
    Option("validation", str, None, "TABLE", READ, {
        "mergers": "Tables of labelled galaxies, with commas between, which show how well the network finds this "
        "answer. Without it: the validation galaxies of --workdir.",
    }),
    Option("labels", str, None, "CSV", READ, {
        "mergers": "Kaggle's training_solutions_rev1.csv. Adds the fraction among the training labels, and gives the "
        "votes if the tables of --validation have no votes.",
    }),
    Option("crop", float, None, "PIXELS", SEEN, {
        "predict": "Side of the central square that is looked at, in pixels of the image.",
    }),
    Option("share", float, None, "PART", SEEN, {
        "predict": "Side of the central square, as a part of the image's shorter side: --share=1 is all of it.",
    }),
    Option("field", float, None, "ARCSEC", SEEN, {
        "predict": "Side of the central square in arcsec. Also give the size of a pixel with --pixel_scale.",
    }),
    Option("pixel_scale", str, None, "ARCSEC", SEEN, {
        "predict": "Size of a pixel in arcsec: a number, or the column of the table that has it for each image.",
        "similar": "Size of a pixel in arcsec, if it is not as in the predictions: a number, or a column of the table.",
    }),
    Option("planes", str, None, "R,G,B", FITS, {
        "predict": "Planes of a cube that are shown as red, green and blue, from 0: --planes=2,1,0 for g, r, i.",
    }),
    Option("scales", str, None, "R,G,B", FITS, {
        "predict": "Factors of the three planes that are shown: --scales=0.85,1,1.4 for fluxes in i, r, g.",
    }),
    Option("extension", str, None, "NAME", FITS, {"predict": "FITS extension with the image, by name or number."}),
    Option("extensions", str, None, "R,G,B", FITS, {
        "predict": "Three FITS extensions, by name or number, if each band has its own.",
    }),
    Option("sky", str, None, "LEVEL", FITS, {
        "predict": "Level of the sky: one number, or three (red,green,blue). Give it for cutouts that show little sky.",
    }),
    Option("noise", str, None, "SIGMA", FITS, {
        "predict": "Noise of the sky (its standard deviation), in the unit of --sky: one number or three.",
    }),
    Option("stretch_q", float, None, "Q", FITS, {
        "predict": "Q of the asinh stretch (Lupton et al. 2004): how strongly bright parts are compressed.",
    }, low=1e-3, high=100.0),
    Option("softening", float, None, "SIGMAS", FITS, {
        "predict": "Where the stretch changes from linear to logarithmic, in units of the noise.",
    }, low=1e-9, high=1e9),
    Option("views", int, 1, "1|8|16", COMPUTED, {
        "evaluate predict": "Test-time views: predictions are averaged over this many turned and mirrored copies of an "
        "image.",
    }, (1, 8, 16)),
    Option("interval", float, None, "LEVEL", COMPUTED, {
        "predict": "Also give an interval for each answer's fraction, of this level: --interval=0.9 for 90 %.",
    }),
    Option("embeddings", bool, False, "", COMPUTED, {
        "predict": "Also give the network's features of each image, which --mode=similar needs.",
    }),
    Option("answer", str, None, "ANSWER", COMPUTED, {
        "mergers": "The answer whose fraction is estimated: its column, QUESTION_ANSWER or its text. Without it: a "
        "merger.",
    }),
    Option("threshold", float, 0.3, "FRACTION", COMPUTED, {
        "mergers": "A galaxy is counted if its vote fraction for the answer is above this.",
    }),
    Option("observability", list, [], "TIME,ERROR", COMPUTED, {
        "mergers": "Time for which a merger can be recognised, and the error of this time, in Gyr. Adds a merger rate.",
    }),
    Option("like", list, [], "ID,ID", COMPUTED, {
        "similar": "The galaxies whose neighbours are wanted: ids of the predictions, or image files (with --workdir). "
        "Without it: only unusual galaxies are looked for.",
    }),
    Option("count", int, 20, "N", COMPUTED, {
        "similar": "How many neighbours of each galaxy, and how many unusual galaxies, are listed.",
    }, low=1),
    Option("peers", list, [], "NAME,NAME", COMPUTED, {
        "benchmark": "Other programs to time, in the same rounds: torch, torch.compile, torch.max-autotune, "
        "torch.bfloat16, torch.compile.bfloat16, keras, onnxruntime, openvino, openvino.bfloat16.",
    }),
    Option("batch_sizes", list, [], "N,N", COMPUTED, {
        "benchmark": "Other batch sizes at which the forward pass is timed, such as 32,128.",
    }),
    Option("repeats", int, 7, "N", COMPUTED, {"benchmark": "How often everything is timed."}),
    Option("output", str, None, "FOLDER", WRITTEN, {
        "predict": "Folder for the table of predictions. Not needed for 10 images or fewer: without it, the "
        "predictions are printed in words.",
        "mergers": "Folder for the report. Without it: WORKDIR/mergers, or WORKDIR/mergers_ANSWER for another answer.",
        "similar": "Folder for the page and the tables of similar and of unusual galaxies. Needed.",
        "export": "Folder for the network: empty, or one that holds an exported network. Needed.",
        "compare": "Folder for the report. Without it: runs/comparison.",
        "benchmark": "Folder for the results. Without it: WORKDIR/benchmark.",
    }),
    Option("formats", list, [], "FORMAT", WRITTEN, {
        "predict": "Other formats of the table beside Parquet: csv, fits, or csv,fits.",
        "export": "onnx: also write the network for other programs than gz_jax.",
    }),
    Option("keep", list, [], "COLUMN,COLUMN", WRITTEN, {
        "predict": "Columns to copy from the table of images into the table of predictions: --keep=ra,dec.",
    }),
    Option("shard_size", int, 10_000, "N", WRITTEN, {
        "predict": "Rows of each Parquet file. A prediction that was stopped continues after the last complete file.",
    }),
    Option("hub", str, None, "OWNER/NAME", WRITTEN, {
        "export": "Also send the network to this repository of the Hugging Face hub.",
    }),
    Option("distributed", str, "off", "off|auto", PROCESSES, {
        "train predict": "auto finds the other processes of a SLURM, Open MPI, Kubernetes or TPU job by itself.",
    }, ("off", "auto")),
    Option("coordinator", str, None, "HOST:PORT", PROCESSES, {
        "train predict": "Address of process 0, if the processes are not in such a job. Each needs --coordinator, "
        "--num_processes and --process_id.",
    }),
    Option("num_processes", int, None, "N", PROCESSES, {"train predict": "How many processes there are."}),
    Option("process_id", int, None, "N", PROCESSES, {"train predict": "Number of this process, from 0."}),
)  # fmt: skip
BY_NAME = {option.name: option for option in OPTIONS}


def of(mode: str) -> dict[str, list[Option]]:
    """The flags of a mode in reading order, by group, without --mode."""
    found = {group: [o for o in OPTIONS[1:] if o.group == group and o.meaning(mode)] for group in GROUPS}
    return {group: options for group, options in found.items() if options}


def define(option: Option) -> None:
    """Define the flag for absl."""
    name, default, text = option.name, option.default, f"Of --mode={', '.join(option.modes)}."
    if option.kind in (int, float):
        number: Any = flags.DEFINE_integer if option.kind is int else flags.DEFINE_float
        number(name, default, text, option.low, option.high)
    elif option.choices:
        flags.DEFINE_enum(name, default, option.choices, text)
    else:
        kinds: dict[type, Any] = {str: flags.DEFINE_string, bool: flags.DEFINE_bool, list: flags.DEFINE_list}
        kinds[option.kind](name, default, text)


for _option in OPTIONS:
    if _option.name != "config":  # which is ml_collections' own, see `command`
        define(_option)
flags.register_validator("views", lambda count: count in BY_NAME["views"].choices, "--views must be 1, 8 or 16.")
