"""The command `gz-jax`: parses its flags, and prints an error of one line for a mistake in them."""

import os
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from gz_jax.modes import help as helps
from gz_jax.modes import named, options
from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError

config_flag = config_flags.DEFINE_config_file("config", None, f"One of {', '.join(named.SHIPPED)}, or a file.")
flags.FLAGS["config"].parser = named.Parser()


def run() -> NoReturn:
    """Carry out the command line, and exit: 0, 2 for a user's mistake, or a mode's own status."""
    app.run(_guarded, flags_parser=parse)


def parse(argv: list[str]) -> list[str]:
    """Parse the flags. A mistake ends the process with an error of one line; a flag for help prints it and exits."""
    try:
        with named.one_line():
            arguments = [with_home(a) for a in flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
        text = helps.asked(argv[0], arguments)
        if text is not None:
            print(text)
            sys.exit(0)
        with named.one_line(arguments):
            rest = flags.FLAGS([argv[0], *arguments])
        check_mode()
    except UserError as error:
        fail(error)
    return rest


def check_mode() -> None:
    """Raises UserError: a flag was given that the mode does not have, even if its value is the default."""
    given = flags.FLAGS["mode"]
    for option in options.OPTIONS:
        if flags.FLAGS[option.name].present and given.value not in option.modes:
            *most, last = option.modes
            modes = f"{', '.join(most)} and {last}" if most else last
            default = "" if given.present else ", which is the mode if none is given"
            raise UserError(
                f"--{option.name} is a flag of --mode={modes}, not of {given.value}{default}; "
                f"--mode={given.value} --help lists the flags of that mode."
            )


def with_home(argument: str) -> str:
    """The argument with `~` replaced by the home folder, which shells do not do in `--workdir=~/runs`."""
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
    workdir = flags.FLAGS.workdir or (name and os.path.join("runs", os.path.splitext(os.path.basename(name))[0]))
    from gz_jax import modes

    return modes.run(flags.FLAGS.mode, config, workdir, argv[1:], flags.FLAGS)
