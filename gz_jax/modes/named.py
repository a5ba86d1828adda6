"""Configs by name: those that come with gz_jax, and files of a user's own."""

import contextlib
import copy
import difflib
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "configs"  # where a wheel has them; in a checkout they are beside the package
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """The configs that come with gz_jax."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def find(config: str) -> str:
    """The file of a config: the one that comes with gz_jax if this is its name, else the file of this path.

    Args:
      config: as in `--config=`, with what goes to `get_config` after a colon, if anything.

    Raises:
      UserError: neither is there; says which name is nearest.
    """
    name, *argument = config.split(":", 1)
    if name in names():
        return ":".join([str(FOLDER / f"{name}.py"), *argument])
    if os.path.exists(name):
        return config
    near = difflib.get_close_matches(pathlib.Path(name).stem, names(), 1, 0)
    raise UserError(
        f"--config={name} is neither a file nor a config that comes with gz_jax ({', '.join(names())}). "
        f"The nearest is --config={near[0]}."
    )


class Parser(ConfigFileFlagParser):
    """The parser of `--config`, for names too (see `find`)."""

    def parse(self, path: str) -> ConfigDict:
        found = find(path)
        sys.modules.pop(
            f"{self.name}_config", None
        )  # an earlier file, whose `get_config` a file without one would have
        return super().parse(found)


def load(config: str | os.PathLike[str] | ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A config with other values in some fields, as the command line would make it.

    Args:
      config: a name or file (see `find`), or a config, which is copied.
      changes: values by the fields' dotted names; of paths `~` is expanded.

    Raises:
      UserError: no such config or field, or a value of another type.
    """
    values = {
        name: files.with_home(os.fspath(value)) if isinstance(value, str | os.PathLike) else value
        for name, value in changes.items()
    }
    with one_line():
        found = copy.deepcopy(config) if isinstance(config, ConfigDict) else Parser("config").parse(os.fspath(config))
        found.update_from_flattened_dict(values)
    return found


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Raises UserError, of one line, for what absl and ml_collections raise for mistakes in flags and fields."""
    try:
        yield
    except (KeyError, AttributeError, IndexError) as error:
        raise UserError(
            f"the config has no field {str(error).strip(chr(34))}; gz_jax/fields.py lists them all."
        ) from error
    except (flags.Error, TypeError, ValueError, OSError, SyntaxError) as error:
        raise UserError(" ".join(str(error).split())) from error
