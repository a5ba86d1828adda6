"""The command `gz-jax`: its flags, and one line for a mistake in them."""

import os
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from gz_jax.modes import (
    named,
    options,  # noqa: F401  # defines the flags of single modes
)
from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError

MODES = ("train", "explore", "evaluate", "compare", "predict", "mergers", "similar", "export", "benchmark")
config_flag = config_flags.DEFINE_config_file("config", None, f"One of {', '.join(named.SHIPPED)}, or a file.")
flags.FLAGS["config"].parser = named.Parser("config")
mode_flag = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
workdir_flag = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/<config's name>.")


def run() -> NoReturn:
    """Carry out the command line, and exit: 0, 2 for a user's mistake, or a mode's own status."""
    sys.modules["__main__"].__doc__ = "Train, evaluate and use galaxy networks: `gz-jax --config=demo`. See README.md."
    for flag in flags.FLAGS.get_flags_for_module(__name__):  # --help shows the script's
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(_guarded, flags_parser=parse)


def parse(argv: list[str]) -> list[str]:
    """Flags, with one line for a mistake in them."""
    try:
        with named.one_line():
            arguments = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
            rest = flags.FLAGS([argv[0], *map(with_home, arguments)])
            if config_flag.present:
                config_flag.value["seed"]  # a file that cannot be loaded is said only when it is looked into
    except UserError as error:
        fail(error)
    return rest


def with_home(argument: str) -> str:
    """An argument with `~` in its path, which no shell expands in `--workdir=~/runs`, as the home folder."""
    flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return flag + equals + files.with_home(value)


def fail(message: object) -> NoReturn:
    print("error:", str(message).encode(errors="backslashreplace").decode(), file=sys.stderr)
    sys.exit(2)


def _guarded(argv: list[str]) -> NoReturn:
    logging.set_verbosity(logging.WARNING)
    try:
        sys.exit(_main(argv))
    except UserError as error:
        fail(error)


def _main(argv: list[str]) -> int:
    config = config_flag.value
    name = config_flags.get_config_filename(flags.FLAGS["config"]) if config else None
    workdir = workdir_flag.value or (name and os.path.join("runs", os.path.splitext(os.path.basename(name))[0]))
    from gz_jax import modes

    return modes.run(mode_flag.value, config, workdir, argv[1:], flags.FLAGS)
