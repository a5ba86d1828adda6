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
# A wheel has the configs inside the package, a checkout beside it.
_FOUND = next(path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir()).glob("[!_]*.py")
SHIPPED = {path.stem: str(path) for path in sorted(_FOUND)}


def find(config: str) -> str:
    """The file of a config: the one that comes with gz_jax if this is its name, else the file of this path.

    Raises:
      UserError: neither is there; says which name is nearest.
    """
    name, colon, argument = config.partition(":")  # what follows the colon goes to `get_config`
    if name not in SHIPPED and not os.path.exists(name):
        (near,) = difflib.get_close_matches(pathlib.Path(name).stem, SHIPPED, 1, 0)
        what = f"neither a file nor a config that comes with gz_jax ({', '.join(SHIPPED)})"
        raise UserError(f"--config={name} is {what}. The nearest is --config={near}.")
    return SHIPPED.get(name, name) + colon + argument


class Parser(ConfigFileFlagParser):
    """The parser of `--config`, for names too (see `find`)."""

    def parse(self, path: str) -> ConfigDict:
        found = find(path)
        sys.modules.pop(
            f"{self.name}_config", None
        )  # an earlier file, whose `get_config` a file without one would have
        return super().parse(found)


def load(config: str | os.PathLike[str] | ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A config, by name or file or a copy of one, with other values of the fields with these dotted names.

    Raises:
      UserError: no such config or field, or a value of another type.
    """
    texts = {name: files.with_home(os.fspath(v)) for name, v in changes.items() if isinstance(v, str | os.PathLike)}
    with one_line():
        found = copy.deepcopy(config) if isinstance(config, ConfigDict) else Parser("config").parse(os.fspath(config))
        found.update_from_flattened_dict({**changes, **texts})
    return found


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Raises UserError for what absl and ml_collections raise for mistakes in flags and fields."""
    try:
        yield
    except (KeyError, AttributeError, IndexError) as error:
        field = str(error).strip('"')
        raise UserError(f"the config has no field {field}; gz_jax/fields.py lists them all.") from error
    except (flags.Error, TypeError, ValueError, OSError, SyntaxError) as error:
        raise UserError(" ".join(str(error).split())) from error
