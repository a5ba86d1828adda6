"""Train, evaluate and use galaxy networks: `python launch.py --config=configs/demo.py`. See README.md."""

import os
import sys
from typing import NoReturn

from gz_jax.runtime import interrupts

if __name__ == "__main__":
    interrupts.install()  # before what takes seconds to load
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging
from ml_collections import config_flags

from gz_jax.modes import options  # noqa: F401  # defines the flags of single modes
from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError

MODES = ("train", "explore", "evaluate", "compare", "predict", "mergers", "similar", "export", "benchmark")
config_flag = config_flags.DEFINE_config_file("config", None, "A file of configs/, e.g. configs/resnet50.py.")
mode_flag = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
workdir_flag = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/<config's name>.")


def main(argv: list[str]) -> int:
    config = config_flag.value
    name = config_flags.get_config_filename(flags.FLAGS["config"]) if config else None
    workdir = workdir_flag.value or (name and os.path.join("runs", os.path.splitext(os.path.basename(name))[0]))
    from gz_jax import modes  # after the flags: JAX takes seconds to load

    return modes.run(mode_flag.value, config, workdir, argv[1:], flags.FLAGS)


def parse(argv: list[str]) -> list[str]:
    """Flags, with one line for a mistake in them."""
    try:
        arguments = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
        rest = flags.FLAGS([argv[0], *map(with_home, arguments)])
        if config_flag.present:
            config_flag.value["seed"]  # a file that cannot be loaded is said only when it is looked into
    except (KeyError, AttributeError, IndexError) as error:
        fail(f"the config has no field {str(error).strip(chr(34))}; configs/default.py lists them all.")
    except (flags.Error, TypeError, ValueError, OSError, SyntaxError) as error:
        fail(" ".join(str(error).split()))
    return rest


def with_home(argument: str) -> str:
    """An argument with `~` in its path, which no shell expands in `--workdir=~/runs`, as the home folder."""
    flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return flag + equals + files.with_home(value)


def fail(message: object) -> NoReturn:
    print("error:", str(message).encode(errors="backslashreplace").decode(), file=sys.stderr)
    sys.exit(2)


def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        sys.exit(main(argv))
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    app.run(guarded, flags_parser=parse)
