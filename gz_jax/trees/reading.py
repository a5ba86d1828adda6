"""Decision trees read from TOML files, and as records for JSON."""

import os
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from gz_jax.runtime.errors import UserError
from gz_jax.trees.tree import Question, Tree, nearest

_SHIPPED = pathlib.Path(__file__).parent
_LARGEST = 1 << 20  # bytes of a tree's file


def names() -> tuple[str, ...]:
    """Names of the trees that `load` knows."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def load(name_or_path: str | os.PathLike[str]) -> Tree:
    """A survey's tree by its name (see `names`), or the tree of a TOML file (see `gz_jax/trees/README.md`).

    Raises:
      UserError: no such name or file; it is no TOML; it is no tree (see `Tree`).
    """
    return from_dict(_read(os.fspath(name_or_path)), os.fspath(name_or_path))


def _read(name: str, depth: int = 0) -> dict[str, Any]:
    """The record of a tree's file, with what it says it is `like` filled in."""
    path = _SHIPPED / f"{name}.toml" if name in names() else pathlib.Path(name).expanduser()
    if name not in names() and path.suffix != ".toml" and not path.is_file():
        near = nearest(name, names()) or f"; the trees are {', '.join(names())}"
        raise UserError(f"no decision tree {name!r}{near}. A file of your own ends in .toml.")
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        record = tomllib.loads(data.decode())
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8 and no TOML are ValueErrors
        raise UserError(f"the decision tree {name} cannot be read as TOML: {error}") from error
    base = record.pop("like", None)
    if base is None:
        return record
    if not isinstance(base, str) or depth > 5:
        raise UserError(f"the decision tree {name}: 'like' must name another tree, not {base!r}.")
    found, own = _read(base, depth + 1), {q["name"]: q for q in _questions(name, record)}
    before = {q["name"]: q for q in _questions(base, found)}
    without = record.pop("without", [])
    if not isinstance(without, list) or (unknown := [q for q in without if q not in before]):
        raise UserError(
            f"the decision tree {name}: 'without' must list questions of {base}, not {unknown or without!r}."
        )
    merged = {key: q for key, q in (before | own).items() if key not in without}
    return found | record | {"questions": list(merged.values())}


def _questions(name: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    questions = record.get("questions", [])
    whole = isinstance(questions, list) and all(isinstance(q, dict) for q in questions)
    if not whole or not all(isinstance(q.get("name"), str) for q in questions):
        raise UserError(f"the decision tree {name}: 'questions' must be a list of tables, each with a name.")
    return questions


def from_dict(record: Any, where: str = "") -> Tree:
    """The tree of a record: a TOML file's content, or what `as_dict` gave.

    Args:
      record: name, questions (each with name, text, answers and, where they differ from these, texts, columns, after);
        citation, merger, suffix (of the questions' names in columns).
      where: the file, for messages.

    Raises:
      UserError: it is no tree.
    """

    def field(part: Mapping[str, Any], name: str, default: Any, of: str) -> Any:
        value = part.get(name, default)
        many = isinstance(default, tuple)
        fits = isinstance(value, list | tuple if many else str)
        if not fits or (many and not all(isinstance(one, str) for one in value)):
            kind = "a list of texts" if many else "a text"
            raise UserError(f"the decision tree {where}: '{name}' of {of} must be {kind}, not {value!r}.")
        return tuple(value) if many else value

    def known(part: Mapping[str, Any], allowed: Sequence[str], of: str) -> None:
        if extra := [name for name in part if name not in allowed]:
            raise UserError(
                f"the decision tree {where}: {of} has the unknown field {extra[0]!r}; it may have {', '.join(allowed)}."
            )

    if not isinstance(record, Mapping):
        raise UserError(f"the decision tree {where} is no table of names and values.")
    known(record, ("name", "citation", "merger", "suffix", "questions"), "the tree")
    suffix, questions = field(record, "suffix", "", "the tree"), []
    for part in _questions(where, record):
        of = f"question {part['name']!r}"
        known(part, ("name", "text", "answers", "texts", "columns", "after"), of)
        answers = field(part, "answers", (), of)
        texts = field(part, "texts", tuple(answer.replace("-", " ").replace("_", " ") for answer in answers), of)
        columns = field(part, "columns", tuple(f"{part['name']}{suffix}_{answer}" for answer in answers), of)
        text = field(part, "text", part["name"].replace("-", " ").replace("_", " ") + "?", of)
        questions.append(Question(part["name"], text, answers, texts, columns, field(part, "after", (), of)))
    merger = None if record.get("merger") is None else field(record, "merger", "", "the tree")
    name = field(record, "name", "", "the tree") or pathlib.Path(where).stem
    return Tree(name, tuple(questions), field(record, "citation", "", "the tree"), merger)


def as_dict(tree: Tree) -> dict[str, Any]:
    """The whole tree, JSON-ready: `from_dict` gives it back."""
    questions = [
        {name: value if isinstance(value, str) else list(value) for name, value in q._asdict().items()}
        for q in tree.questions
    ]
    return {"name": tree.name, "citation": tree.citation, "merger": tree.merger, "questions": questions}


def differences(old: Tree, new: Tree) -> list[str]:
    """What differs between the questions and answers of two trees, in words; texts for people do not count."""
    before, now = ({q.name: q for q in tree.questions} for tree in (old, new))
    found = [f"the question {name!r} was not there" for name in now if name not in before]
    found += [f"the question {name!r} is not there any more" for name in before if name not in now]
    for name in before.keys() & now.keys():
        for what in ("answers", "columns", "after"):
            was, is_now = getattr(before[name], what), getattr(now[name], what)
            if was != is_now and (what != "after" or set(was) != set(is_now)):
                found.append(
                    f"{what} of {name!r} were {', '.join(was) or 'none'} and are now {', '.join(is_now) or 'none'}"
                )
    return sorted(found) or ([] if old.columns == new.columns else ["the questions are in another order"])
