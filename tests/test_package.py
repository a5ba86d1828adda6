"""gz_jax as a package: what `import gz_jax` offers, configs by name, and a wheel that is used elsewhere."""

import csv
import inspect
import pathlib
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile

import numpy as np
import pytest
from astropy.io import fits
from test_launch import ROOT, environment, launch, log_rows, refusal
from test_predict import make_workdir, picture

import gz_jax
from configs import default, resnet50
from gz_jax import fields
from gz_jax.data import sight
from gz_jax.inference import predict as prediction
from gz_jax.inference import tables
from gz_jax.modes import named

HEAVY = {"jax", "flax", "optax", "numpy", "pandas", "scipy", "tensorflow", "matplotlib", "ml_collections", "absl"}
TINY = {"data.num_galaxies": 60, "data.size": 30, "batch_size": 16, "num_epochs": 1}
SHIPPED = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))


def test_import_loads_nothing_large():
    code = "import sys, gz_jax, gz_jax.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(result.stdout.split())


def test_prediction_loads_nothing_that_only_training_and_reports_need():
    code = "import sys, gz_jax.modes.science; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    needless = {"gz_jax.modes.reports", "gz_jax.training.loop", "matplotlib", "scipy.stats", "sklearn", "tensorflow"}
    assert not needless & set(result.stdout.split())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_name_is_the_config_that_comes_with_gz_jax(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path(name).write_text("a file of this name changes nothing")
    assert named.find(name) == str(ROOT / "configs" / f"{name}.py")
    assert named.find(f"{name}:more") == str(ROOT / "configs" / f"{name}.py:more")
    fields.check(named.load(name, {"data.catalogue": "a.csv", "data.labels": "counts"} if name == "catalogue" else {}))


def test_other_words_are_files_or_get_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("mine.py").write_text("from gz_jax.fields import default as get_config\n")
    assert named.find("mine.py") == "mine.py"
    assert fields.flatten(named.load("mine.py", {})) == fields.flatten(default.get_config())
    for wrong, nearest in (
        ("resnt50", "resnet50"),
        ("configs/demo.py", "demo"),
        ("Demo", "demo"),
        ("record.py", "record"),
    ):
        with pytest.raises(gz_jax.UserError, match=rf"^--config={wrong} is neither .* is --config={nearest}\.$"):
            named.find(wrong)
    with pytest.raises(gz_jax.UserError, match="is empty"):
        named.find("")
    pathlib.Path("empty.py").write_text("")
    with pytest.raises(gz_jax.UserError, match="get_config"):  # not that of the file before
        named.load("empty.py", {})


def test_fields_of_a_config_are_changed_in_a_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = resnet50.get_config()
    changes = {"data.dir": pathlib.Path("~/kaggle"), "learning_rate": 1, "model.hidden": (7,)}
    assert named.load(config, changes).data.dir == f"{tmp_path}/kaggle"
    assert fields.flatten(config) == fields.flatten(resnet50.get_config())
    changed, same = (fields.flatten(named.load("resnet50", values)) for values in (changes, {}))
    assert {name: value for name, value in changed.items() if value != same[name]} == {
        "data.dir": f"{tmp_path}/kaggle",
        "learning_rate": 1.0,
        "model.hidden": [7],
    }
    for wrong, text in (({"data.dirr": "x"}, "no field"), ({"seed": "many"}, "seed"), ({"data": 3}, "data")):
        with pytest.raises(gz_jax.UserError, match=text) as error:
            named.load("resnet50", wrong)
        assert "\n" not in str(error.value)


def test_train_refuses_in_one_line_and_writes_nothing(tmp_path):
    for config, changes in (("dem", {}), ("demo", {"layers": 3}), ("demo", {"model.name": "vgg"})):
        with pytest.raises(gz_jax.UserError):
            gz_jax.train(config, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_predict_takes_folders_and_loaded_networks(tmp_path):
    folders = [make_workdir(tmp_path / f"run{seed}", seed) for seed in range(2)]
    (tmp_path / "images").mkdir()
    for i in range(5):
        picture(i).save(tmp_path / "images" / f"{i}.png")
    pixels = np.stack([np.asarray(picture(i)) for i in range(5)])
    networks = [gz_jax.load(folder, views=8) for folder in folders]
    one, other, both = (gz_jax.predict(which, pixels, views=8, batch_size=4) for which in (*folders, folders))
    assert gz_jax.predict(networks[0], pixels, batch_size=4).equals(one)
    assert gz_jax.predict(networks, pixels, batch_size=4).equals(both)
    np.testing.assert_allclose(both["Class1.1"], (one["Class1.1"] + other["Class1.1"]) / 2, rtol=1e-6)
    with pytest.raises(gz_jax.UserError, match="was loaded with views=8, not 1"):
        gz_jax.predict(networks[0], pixels, views=1)
    output = gz_jax.predict(networks, tmp_path / "images", tmp_path / "out", batch_size=4, progress=False)
    assert output == tmp_path / "out"
    found = tables.read(output).to_pandas()
    for name in both.columns:
        if name != "id":
            np.testing.assert_array_equal(found[name], both[name])
    with pytest.raises(gz_jax.UserError, match="output is for images of a folder"):
        gz_jax.predict(networks, pixels, tmp_path / "out")


def test_predict_has_the_options_of_the_functions_that_it_calls():
    own = inspect.signature(gz_jax.predict).parameters
    of = inspect.signature(prediction.predict_catalogue).parameters
    options = {name for name, one in of.items() if one.kind == one.KEYWORD_ONLY} | set(sight.SETTINGS)
    keywords = {name for name, one in own.items() if one.kind == one.KEYWORD_ONLY}
    assert keywords == options - {"process_index", "process_count"} | {"views"}
    assert all(own[name].default == of[name].default for name in keywords & of.keys())
    assert all(name in inspect.getdoc(gz_jax.predict) for name in keywords)


WRONG = {
    "views": 3, "crop": 0, "share": -1, "field": 5, "pixel_scale": 0.4, "interval": 2, "file_columns": ["a"],
    "folder": "nowhere", "id_column": "none", "file_column": "none", "planes": (1,), "scales": (1,),
    "extension": "none", "extensions": (1,), "sky": "x", "noise": "x", "q": -1, "softening": -1, "shard_size": 0,
    "keep": ("none",), "formats": ("xlsx",),
}  # fmt: skip


@pytest.fixture(scope="module")
def network_and_tables(tmp_path_factory):
    """A network, and a table of one picture and one of a FITS image."""
    folder = tmp_path_factory.mktemp("options")
    picture(0).save(folder / "0.png")
    fits.PrimaryHDU(np.random.default_rng(0).random((3, 64, 64), np.float32)).writeto(folder / "0.fits")
    for suffix in ("png", "fits"):
        (folder / f"{suffix}.csv").write_text(f"id,file\n0,0.{suffix}\n")
    network = gz_jax.load(make_workdir(folder / "run"))
    for suffix in ("png", "fits"):
        assert gz_jax.predict(network, folder / f"{suffix}.csv")["flag"].tolist() == [0]
    return network, folder


@pytest.mark.parametrize("option", WRONG)
def test_every_option_of_predict_reaches_what_reads_it(option, network_and_tables, tmp_path):
    """A value that cannot be is refused, or makes the one image unusable, in a DataFrame and in a folder."""
    network, folder = network_and_tables
    table, given = folder / ("fits.csv" if option == "extension" else "png.csv"), {option: WRONG[option]}
    for output in (None, tmp_path / "out"):
        try:
            found = gz_jax.predict(network, table, output, progress=False, **given)
        except gz_jax.UserError:
            continue
        found = found if output is None else tables.read(output).to_pandas()
        assert found["flag"].tolist() == [2]


@pytest.mark.parametrize("config", ["demo", "configs/demo.py"])
def test_launch_takes_names_and_files(config, tmp_path):
    assert "is neither a file nor" in refusal(launch("--config=dem", f"--workdir={tmp_path}/run"))
    message = refusal(launch("--config", config, "--config.batch_size=0", f"--workdir={tmp_path}/run"))
    assert message.startswith("error: --config.batch_size=0 must be")


def elsewhere(command, folder, **how):
    """A command in a folder, with nothing in its environment that leads to the checkout."""
    clean = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), cwd=folder, env=clean, capture_output=True, text=True, **how)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    """A copy of the checkout, to build in: what one build leaves behind would reach the next."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("gz_jax", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("launch.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(source)]
    elsewhere(command, folder, check=True)
    return next(folder.glob("*.whl"))


def environment_with(folder, *what) -> pathlib.Path:
    """`bin` of a new environment with a package, which finds the others where they are installed here."""
    venv.create(folder, with_pip=True)
    elsewhere([folder / "bin" / "pip", "install", "--quiet", "--no-deps", *what], folder, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth file names has its own .pth files ignored, so no checkout installed here is seen.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    return environment_with(tmp_path_factory.mktemp("environment"), wheel)


@pytest.mark.slow
def test_the_wheel_has_code_configs_trees_templates_and_notebooks_alone(wheel):
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {path.relative_to(ROOT) for room in ("gz_jax", "configs") for path in (ROOT / room).rglob("*.*")}
    wanted = {path for path in wanted if path.suffix in (".py", ".toml", ".jinja", ".ipynb")}
    assert found == {str(path if path.parts[0] == "gz_jax" else "gz_jax" / path) for path in wanted}
    assert {f"gz_jax/configs/{name}.py" for name in SHIPPED} <= found


@pytest.mark.slow
def test_the_wheel_trains_and_predicts_in_another_folder(installed, tmp_path):
    code = "import gz_jax, gz_jax.configs.demo; print(gz_jax.__file__, gz_jax.configs.demo.__file__)"
    result = elsewhere([installed / "python", "-c", code], tmp_path, check=True)
    assert all(path.startswith(str(installed.parent)) for path in result.stdout.split())
    small = [f"--config.{name}={value}" for name, value in TINY.items()]
    result = elsewhere([installed / "gz-jax", "--config=demo", *small], tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "demo" / "report" / "report.html").exists()
    (tmp_path / "images").mkdir()
    for i in range(3):
        picture(i).save(tmp_path / "images" / f"{i}.png")
    flags = ["--mode=predict", "--workdir=runs/demo", "--input=images", "--output=out"]
    result = elsewhere([installed / "gz-jax", *flags], tmp_path)
    assert result.returncode == 0, result.stderr
    code = f"""
import gz_jax
run = gz_jax.train("demo", "runs/again", **{TINY})
assert run.report.exists()
print(run.metrics["best_epoch"]["val_loss"])
gz_jax.predict(run.workdir, "images").to_csv("again.csv", index=False)
"""
    result = elsewhere([installed / "python", "-c", code], tmp_path)
    assert result.returncode == 0, result.stderr
    (row,) = log_rows(tmp_path / "runs" / "again")
    assert [row] == log_rows(tmp_path / "runs" / "demo")
    assert float(result.stdout.split()[-1]) == float(row["val_loss"])
    table = tables.read(tmp_path / "out").to_pandas()
    with open(tmp_path / "again.csv") as file:
        again = list(csv.DictReader(file))
    np.testing.assert_allclose(table["Class1.1"], [float(row["Class1.1"]) for row in again], rtol=1e-6)
    assert [row["flag"] for row in again] == list(map(str, table["flag"]))


@pytest.mark.slow
def test_the_wheels_command_helps_and_refuses(installed, tmp_path):
    for command in ([installed / "gz-jax"], [installed / "python", "-m", "gz_jax"]):
        result = elsewhere([*command, "--help"], tmp_path)
        assert result.returncode == 0
        assert "Modes:\n  train " in result.stdout
        message = refusal(elsewhere([*command, "--config=configs/record.py"], tmp_path))
        assert message.endswith("The nearest is --config=record.")
    assert "which config? For example: --mode=train --config=demo" in refusal(
        elsewhere([installed / "gz-jax"], tmp_path)
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_an_editable_install_has_configs_by_name_too(source, tmp_path):
    scripts = environment_with(tmp_path / "environment", "--editable", source)
    own = "from gz_jax.configs import resnet50\n\n\ndef get_config():\n    return resnet50.get_config()\n"
    (tmp_path / "own.py").write_text(own)
    for config in ("resnet50", "own.py"):
        wrong = [f"--config={config}", "--config.model.name=cnn"]
        assert "--config.model.hidden is for" in refusal(elsewhere([scripts / "gz-jax", *wrong], tmp_path))
    result = elsewhere([scripts / "python", "-c", "import gz_jax; print(gz_jax.__file__)"], tmp_path, check=True)
    assert result.stdout.startswith(str(source))


@pytest.mark.slow
def test_an_interrupted_train_says_so_and_continues(tmp_path):
    code = f"""
import gz_jax, sys
try:
    print(gz_jax.train("demo", "run", **{TINY | {"num_epochs": 2000}}))
except KeyboardInterrupt:
    sys.exit(7)
"""
    started = {"cwd": tmp_path, "env": environment() | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.DEVNULL}
    for _ in range(2):
        before = epochs(tmp_path / "run")
        with subprocess.Popen([sys.executable, "-c", code], **started) as process:
            while process.poll() is None and epochs(tmp_path / "run") <= before:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(300) == 7
        assert epochs(tmp_path / "run") > before
    assert not (tmp_path / "run" / "metrics.json").exists()


def epochs(workdir) -> int:
    path = workdir / "log.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0
