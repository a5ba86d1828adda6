"""Decision trees read from TOML files, and as records for JSON."""

import collections
import os
import pathlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from gz_jax.runtime.errors import UserError
from gz_jax.trees.tree import Question, Tree, listed, nearest

_SHIPPED = pathlib.Path(__file__).parent
_LARGEST = 1 << 20  # bytes of a tree's file
_QUOTED = re.compile(r"""\"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?|#[^\n]*""")


def names() -> tuple[str, ...]:
    """Names of the trees that `load` knows."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def load(name_or_path: str | os.PathLike[str]) -> Tree:
    """A survey's tree by its name (see `names`), or the tree of a TOML file (see `gz_jax/trees/README.md`).

    Raises:
      UserError: there is no such name or file, or it is not TOML, or not a valid tree (see `Tree`).
    """
    name = os.fspath(name_or_path)
    return from_dict(_read(name), name)


def _error(where: str, fault: str) -> UserError:
    return UserError(f"the decision tree{where and f' {where!r}'}: {fault}")


def _read(name: str, derived: tuple[str, ...] = ()) -> dict[str, Any]:
    """The record of a tree's file, merged with that of the tree that it is `like`.

    derived: the files that are `like` this one, directly or through others.
    """
    try:
        path = os.path.realpath(_SHIPPED / f"{name}.toml" if name in names() else os.path.expanduser(name))
        if not os.path.isfile(path):
            near = (
                nearest(os.path.basename(name)[:100], names())
                or f"; the trees are {', '.join(names())}, or a TOML file of your own"
            )
            raise _error(name, f"there is no such tree and no such file{near}")
        if path in derived or len(derived) > 8:
            raise _error(derived[0], f"'like' leads in a circle, or through too many files, to {name!r}")
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        text = data.decode()
        if '"""' in text or "'''" in text or "." in _QUOTED.sub("", text):  # Python's parser hangs on a.a.a. ... a
            raise ValueError("it has three quotes in a row, or a dot outside of quotes")
        record = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: it is not UTF-8, or not TOML
        raise _error(name, f"it cannot be read as TOML: {' '.join(str(error).split())}") from error
    if "like" not in record:
        return record
    base, without, own = record.pop("like"), record.pop("without", []), _questions(record, name)
    if not isinstance(base, str):
        raise _error(name, "'like' must be the name or the file of another tree, in quotes")
    if base not in names():
        base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    found = _read(base, (*derived, path))
    before = {q["name"]: q for q in _questions(found, base)}
    if not isinstance(without, list) or not all(isinstance(q, str) and q in before for q in without):
        raise _error(name, f"'without' must list questions of {base!r}, which are {', '.join(before)}")
    merged = {key: q for key, q in before.items() if key not in without} | {q["name"]: q for q in own}
    return found | {"name": ""} | record | {"questions": list(merged.values())}


def _questions(record: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    questions = record.get("questions", [])
    whole = isinstance(questions, list) and all(isinstance(q, dict) for q in questions)
    if not whole or not all(isinstance(q.get("name"), str) for q in questions):
        raise _error(where, "'questions' must be a list of tables, each with a name in quotes")
    if twice := [name for name, n in collections.Counter(q["name"] for q in questions).items() if n > 1]:
        raise _error(where, f"the question {twice[0][:100]!r} is there twice")
    return questions


def from_dict(record: Any, where: str = "") -> Tree:
    """The tree of a record: a TOML file's content, or what `as_dict` gave.

    Args:
      record: name, questions (each with name, text, answers and, where they differ from these, texts, columns, after);
        citation, merger, suffix (of the questions' names in columns).
      where: the file, for messages.

    Raises:
      UserError: it is not a valid tree.
    """

    def field(part: Mapping[str, Any], name: str, default: Any, of: str) -> Any:
        value = part.get(name, default)
        many = isinstance(default, tuple)
        if not isinstance(value, list | tuple if many else str) or not all(isinstance(one, str) for one in value):
            kind = "a list of texts, each" if many else "a text"
            raise _error(where, f"'{name}' of {of} must be {kind} in quotes")
        return tuple(value) if many else value

    def known(part: Mapping[str, Any], allowed: Sequence[str], of: str) -> None:
        if extra := [name for name in part if name not in allowed]:
            may = f"it may have {', '.join(allowed)}{' and (a file) like, without' * (of == 'the tree')}"
            raise _error(where, f"{of} has the unknown field {str(extra[0])[:100]!r}; {may}")

    if not isinstance(record, Mapping):
        raise _error(where, "it is no table of names and values")
    known(record, ("name", "citation", "merger", "suffix", "questions"), "the tree")
    suffix, parts, questions = field(record, "suffix", "", "the tree"), _questions(record, where), []
    for part in parts:
        of = f"question {part['name'][:100]!r}"
        known(part, ("name", "text", "answers", "texts", "columns", "after"), of)
        answers, words = field(part, "answers", (), of), part["name"].replace("-", " ").replace("_", " ")
        text = field(part, "text", f"{words}?", of)
        texts = field(part, "texts", tuple(f"{words}: {answer}" for answer in answers), of)
        columns = field(part, "columns", tuple(f"{part['name']}{suffix}_{answer}" for answer in answers), of)
        questions.append(Question(part["name"], text, answers, texts, columns, field(part, "after", (), of)))
    merger = None if record.get("merger") is None else field(record, "merger", "", "the tree") or None
    name = field(record, "name", "", "the tree") or pathlib.Path(where).stem
    try:
        return Tree(name, tuple(questions), field(record, "citation", "", "the tree"), merger)
    except UserError as error:
        raise _error(where, str(error)) from error


def as_dict(tree: Tree) -> dict[str, Any]:
    """The whole tree as a record for JSON, from which `from_dict` makes the tree again."""
    questions = [
        {name: value if isinstance(value, str) else list(value) for name, value in q._asdict().items()}
        for q in tree.questions
    ]
    return {"name": tree.name, "citation": tree.citation, "merger": tree.merger, "questions": questions}


def differences(old: Tree, new: Tree) -> list[str]:
    """Differences between the questions and answers of two trees, at most five; texts for people are not compared."""
    before, now = ({q.name: q for q in tree.questions} for tree in (old, new))
    found = [f"the question {name!r} was not there" for name in now if name not in before]
    found += [f"the question {name!r} is not there any more" for name in before if name not in now]
    for name in (name for name in before if name in now):
        for what in ("answers", "columns", "after"):
            was, is_now = getattr(before[name], what), getattr(now[name], what)
            if was != is_now and (what != "after" or set(was) != set(is_now)):
                found.append(f"{what} of {name!r} were {listed(was) or 'none'} and are now {listed(is_now) or 'none'}")
    if not found and old.columns != new.columns:
        found = ["the questions are in another order"]
    return found[:4] + ([f"and {len(found) - 4} more differences"] if len(found) > 4 else [])
