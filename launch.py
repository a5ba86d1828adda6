"""Train, evaluate and use galaxy networks: `python launch.py --config=configs/demo.py`. See README.md."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags
from ml_collections import config_flags

from gz_jax.errors import UserError

config_flag = config_flags.DEFINE_config_file("config", None, "A file of configs/, e.g. configs/resnet50.py.")
workdir_flag = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/<config's name>.")
mode_flag = flags.DEFINE_enum("mode", "train", ["train"], "What to do.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}: every flag begins with --; see --help.")
    if config_flag.value is None:
        raise UserError("which config? For example: python launch.py --config=configs/demo.py")
    from gz_jax import modes  # after the flags: JAX takes seconds to load

    name = os.path.splitext(os.path.basename(config_flags.get_config_filename(flags.FLAGS["config"])))[0]
    return modes.train(config_flag.value, workdir_flag.value or os.path.join("runs", name))


def parse(argv: list[str]) -> list[str]:
    """Flags, with one line for a mistake in them."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, TypeError, ValueError, KeyError, OSError) as error:
        fail(f"in the flags: {error}")


def fail(message: object) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def guarded(argv: list[str]) -> None:
    try:
        sys.exit(main(argv))
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    app.run(guarded, flags_parser=parse)
