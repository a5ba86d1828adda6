"""Configs by name: those that come with gz_jax, and files of a user's own."""

import contextlib
import copy
import difflib
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from gz_jax import fields
from gz_jax.modes import options
from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError, first_line

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# A wheel has the configs inside the package, a checkout beside it.
_FOUND = next(path for path in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if path.is_dir()).glob("[!_]*.py")
SHIPPED = {path.stem: str(path) for path in sorted(_FOUND)}
_THESE = f"a config that comes with gz_jax ({', '.join(SHIPPED)})"
_MODULE = "gz_jax_config_file"
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def find(config: str) -> str:
    """The file of a config: the one that comes with gz_jax if this is its name, else the file of this path.

    Raises:
      UserError: there is neither such a name nor such a file; the message names the nearest.
    """
    name, colon, argument = config.partition(":")  # what follows the colon goes to `get_config`
    if not name:
        raise UserError(f"--config= is empty: give it the name of {_THESE}, or the path of a file.")
    if name not in SHIPPED and os.path.isdir(name):
        raise UserError(f"--config={name} is a folder: name a file in it, or {_THESE}.")
    if name not in SHIPPED and not os.path.exists(name):
        what = f"neither a file nor {_THESE}"
        raise UserError(f"--config={name} is {what}. The nearest is --config={_nearest(name)}.")
    return SHIPPED.get(name, name) + colon + argument


def _nearest(name: str) -> str:
    """The file in the same folder with the nearest name, if one is near and `name` is a path; else a shipped config."""
    path = pathlib.Path(name)
    beside = {other.stem: str(other) for other in path.parent.glob("*.py")} if path.name != path.stem else {}
    near = difflib.get_close_matches(path.stem, beside, 1)
    return beside[near[0]] if near else difflib.get_close_matches(path.stem, SHIPPED, 1, 0)[0]


def read(config: str) -> ConfigDict:
    """The config with this name or in this file, as its `get_config` returns it.

    Raises:
      UserError: there is no such file, or it cannot be read or run, or gives no config. The message names the line.
    """
    path, *argument = find(config).split(":", 1)
    loader = importlib.machinery.SourceFileLoader(_MODULE, path)
    spec = importlib.util.spec_from_loader(_MODULE, loader)
    assert spec is not None
    module = sys.modules[_MODULE] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"--config={config}: {path} has no function get_config() that returns a config.")
        found = module.get_config(*argument)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"--config={config}: line {error.lineno} of {path} is not Python: {error.msg}.") from error
    except Exception as error:  # whatever the code in the file raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where = f"line {lines[-1]} of {path}" if lines else path
        raise UserError(f"--config={config}: {where}: {type(error).__name__}: {first_line(error)}.") from error
    if not isinstance(found, ConfigDict):
        raise UserError(f"--config={config}: get_config() of {path} returned {found!r:.40}, which is no config.")
    return found.lock()


class Parser(flags.ArgumentParser):
    """The parser of `--config`, see `read`."""

    def parse(self, argument: str) -> ConfigDict:
        return read(argument)

    def flag_type(self) -> str:
        return "config"


def load(config: str | os.PathLike[str] | ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A config by its name or file, or a copy of a ConfigDict, with other values of the fields with these dotted names.

    Raises:
      UserError: no such config or field, or a value of another type.
    """
    found = copy.deepcopy(config) if isinstance(config, ConfigDict) else read(os.fspath(config))
    for name, value in changes.items():
        text = files.with_home(os.fspath(value)) if isinstance(value, str | os.PathLike) else value
        try:
            found.update_from_flattened_dict({name: text})
        except (KeyError, AttributeError, IndexError) as error:
            raise UserError(no_field(name)) from error
        except (TypeError, ValueError) as error:
            raise UserError(_wrong_value(name, f"{name}={value!r}", error)) from error
    return found


def no_field(name: str) -> str:
    """Message: the config has no field of this name, and which field is nearest."""
    last = name.rpartition(".")[2]
    same = [field for field in fields.FIELDS if field.rpartition(".")[2] == last]
    near = same or difflib.get_close_matches(name, fields.FIELDS, 1, 0)
    return f"the config has no field {name}; the nearest is {near[0]}. gz_jax/fields.py lists them all."


def _wrong_value(name: str, text: str, error: Exception) -> str:
    """Message: the value of a field has a wrong type (`text` has field and value), and what the value may be."""
    if name in fields.FIELDS:
        return f"{text} must be {fields.FIELDS[name].wanted}."
    inner = [field for field in fields.FIELDS if field.startswith(f"{name}.")]
    if inner:
        return f"{text}: {name} is a group of fields; set one of them, such as {inner[0]}."
    return f"{text}: {' '.join(str(error).split())}"


def overrides(arguments: Sequence[str]) -> dict[str, str]:
    """The fields that arguments of the command set, and their values as they are typed."""
    found = {}
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if match := re.fullmatch(r"--?(?:no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL):
            found[match[1]] = after if match[2] is None else match[2]
    return found


@contextlib.contextmanager
def one_line(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Raises UserError, in one line, for what absl and ml_collections raise for mistakes in these arguments."""
    try:
        yield
    except (KeyError, AttributeError, IndexError) as error:
        given = overrides(arguments)
        known = [*fields.FIELDS, *{name.partition(".")[0] for name in fields.FIELDS if "." in name}]
        wrong = [name for name in given if name not in known] or list(given)
        said = [
            name for name in wrong if name.rpartition(".")[2] in str(error)
        ]  # not the fields of a user's own config
        if not wrong:
            raise
        raise UserError(no_field((said or wrong)[0])) from error
    except (flags.Error, TypeError, ValueError, OSError, SyntaxError) as error:
        raise UserError(_of_flags(error, overrides(arguments))) from error


def _of_flags(error: Exception, given: Mapping[str, str]) -> str:
    """The text of an error of absl or ml_collections, reworded if gz_jax can say it more clearly."""
    text = " ".join(str(error).split()).removeprefix("flag ")
    if given and " in argv before a value for --config was specified" in text:
        return f"--config=NAME must come before --config.{next(iter(given))}."
    if isinstance(error, flags.UnrecognizedFlagError):
        return _no_flag(error.flagname, error.flagvalue.partition("=")[2])
    for name, value in given.items():
        if text.startswith((f"--config.{name}=", f"Type {ConfigDict} of field config.{name} is not supported")):
            return _wrong_value(name, f"--config.{name}={value}", error)
        if text.startswith(f"Override {name} can not be applied"):
            return no_field(name)
    if match := re.fullmatch(r"(--(\w+)=(.*)): value should be one of <(.*)>", text):
        choices = match[4].split("|")
        (near,) = difflib.get_close_matches(match[3], choices, 1, 0)
        return f"{match[1]} must be one of {', '.join(choices)}. The nearest is --{match[2]}={near}."
    match = re.fullmatch(r"(--(\w+)=.*): .*(invalid literal|could not convert|Non-boolean).*", text)
    if match and match[2] in options.BY_NAME:
        return f"{match[1]} must be {_KINDS[options.BY_NAME[match[2]].kind]}."
    return text


def _no_flag(name: str, value: str) -> str:
    """Message: there is no flag of this name, and which one may be meant."""
    if name.startswith(("config.", "noconfig.")):
        return f"--{name} needs --config=NAME before it."
    if name in fields.FIELDS:
        return f"{name} is a field of the config: write --config.{name}={value or 'VALUE'}, after --config=NAME."
    near = difflib.get_close_matches(name, options.BY_NAME, 1)
    return f"there is no flag --{name}" + (f"; the nearest is --{near[0]}." if near else ": --help lists them.")
