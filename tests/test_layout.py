"""The house rules that imports can show."""

import ast
import pathlib

from gz_jax import fields
from gz_jax.data import sight

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "gz_jax"


def imports(path, everywhere):
    """Modules that a file imports: at its top level, or `everywhere`, functions included."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files():
    return sorted((p, p.relative_to(PACKAGE).as_posix()) for p in PACKAGE.rglob("*.py"))


def users(package, everywhere=True):
    return {name for path, name in files() if any(i.split(".")[0] == package for i in imports(path, everywhere))}


def test_each_heavy_library_has_its_place():
    assert users("orbax") == {"training/checkpoint.py"}
    assert {name.split("/")[0] for name in users("tensorflow") | users("tensorflow_datasets")} == {"data"}
    assert not users("tensorflow", everywhere=False)
    figures = {"analysis/page.py"}  # it passes Figures on, and draws none
    assert all(name.startswith("analysis/plots") for name in users("matplotlib") - figures)
    assert not any("pyplot" in path.read_text() for path, _ in files() if path.name.startswith(("page", "merger")))
    assert users("torch", everywhere=False) == {"benchmark/torch_peer.py"}


def test_imports_point_one_way():
    """runtime, trees <- labels <- data, models <- training <- resolve <- inference <- analysis <- modes."""
    order = ("labels", "data", "models", "training", "resolve", "inference", "analysis", "benchmark", "modes")
    above = {f"{room}/": order[place + 1 :] for place, room in enumerate(order)}
    above |= {f"{room}/": order for room in ("runtime", "trees")}
    above |= {"labels.py": order[1:], "fields.py": order, "resolve.py": order[5:], "models/": ("data", *order[3:])}
    above |= {
        "analysis/": ("training", "resolve", "benchmark", "modes"),
        "benchmark/": ("modes", "resolve", "analysis"),
    }
    wrong = [
        f"{name} imports {module}"
        for path, name in files()
        for room, forbidden in above.items()
        if name.startswith(room)
        for module in imports(path, True)
        if any(module == f"gz_jax.{f}" or module.startswith(f"gz_jax.{f}.") for f in forbidden)
    ]
    assert not wrong


def test_configs_import_the_fields_alone():
    found = {i for p in (PACKAGE.parent / "configs").glob("*.py") for i in imports(p, True)}
    assert found == {"gz_jax.fields", "gz_jax.fields.default"}
    assert users("ml_collections") <= {
        "api.py",
        "fields.py",
        "resolve.py",
        "training/workdir.py",
        "inference/trained.py",
    } | {name for _, name in files() if name.startswith("modes/")}


def test_every_config_field_is_read_somewhere():
    """A field that only the checks of values know would be accepted and change nothing."""
    trees = [ast.parse(path.read_text()) for path, name in files() if name != "fields.py"]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {field.split(".")[-1] for field in fields.FIELDS} <= read | set(sight.FITS)  # handed on as a group
