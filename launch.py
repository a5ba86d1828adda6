"""Train, evaluate and use galaxy networks: `python launch.py --config=configs/demo.py`. See README.md."""

import os
import sys
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags
from ml_collections import config_flags

from gz_jax.errors import UserError

config_flag = config_flags.DEFINE_config_file("config", None, "A file of configs/, e.g. configs/resnet50.py.")
workdir_flag = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/<config's name>.")
mode_flag = flags.DEFINE_enum("mode", "train", ["train"], "What to do.")


def main() -> int:
    if config_flag.value is None:
        raise UserError("which config? For example: python launch.py --config=configs/demo.py")
    from gz_jax import modes  # after the flags: JAX takes seconds to load

    name = os.path.splitext(os.path.basename(config_flags.get_config_filename(flags.FLAGS["config"])))[0]
    return modes.train(config_flag.value, workdir_flag.value or os.path.join("runs", name))


def parse(argv: list[str]) -> list[str]:
    """Flags, with one line for a mistake in them."""
    try:
        rest = flags.FLAGS(argv)
        if config_flag.present:
            config_flag.value["seed"]  # a file that cannot be loaded is said only when it is looked into
    except (KeyError, AttributeError) as error:
        fail(f"the config has no field {str(error).strip(chr(34))}; configs/default.py lists them all.")
    except (flags.Error, TypeError, ValueError, OSError, SyntaxError) as error:
        fail(" ".join(str(error).split()))
    if len(rest) > 1:
        fail(f"unknown argument {rest[1]!r}: every flag begins with --; see --help.")
    return rest


def fail(message: object) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def guarded(_: list[str]) -> None:
    try:
        sys.exit(main())
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    app.run(guarded, flags_parser=parse)
