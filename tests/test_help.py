"""`--help` and the page of flags say what the parser takes; mistakes in flags and configs get one line."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags
from test_launch import ROOT, environment

import gz_jax
from gz_jax import fields
from gz_jax.data import sight
from gz_jax.modes import command, named, options
from gz_jax.modes import help as helps

CONFIGS = ("catalogue", "cnn", "decals", "default", "demo", "record", "record_small", "resnet50", "resnet50_plain")


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """A function: what the parser makes of arguments, in this process. (exit status or None, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def parse(line, script="launch.py"):
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
        arguments = shlex.split(line) if isinstance(line, str) else line
        monkeypatch.setattr(sys, "argv", [script, *arguments])  # ml_collections reads the fields from there
        try:
            command.parse(sys.argv)
            status = None
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    yield parse
    flags.FLAGS.unparse_flags()


@pytest.fixture
def refused(typed):
    """A function: the one line of arguments that are refused, without 'error: '."""

    def line(arguments):
        status, out, error = typed(arguments)
        assert (status, out) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error.removeprefix("error: ").rstrip("\n")

    return line


def described(text):
    """The flags that a page of help lists."""
    return set(re.findall(r"^  --(\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("mode", options.MODES)
def test_help_lists_the_flags_of_the_mode_and_no_others(mode, typed):
    status, text, error = typed(f"--mode={mode} --help")
    assert (status, error) == (0, "")
    assert described(text) == {o.name for o in options.OPTIONS if mode in o.modes} - {"mode"}
    assert text.startswith(f"python launch.py --mode={mode} ")
    for option in options.OPTIONS:
        if mode in option.modes and option.name != "mode":
            assert helps.sentences(option, mode) in " ".join(text.split())
    assert max(map(len, text.splitlines())) < 130


def test_general_help_names_the_modes_and_how_to_get_their_help(typed):
    status, text, error = typed("--help")
    assert (status, error) == (0, "")
    for mode, line in options.MODES.items():
        assert re.search(rf"^  {mode} ", text, re.MULTILINE)
        assert line in " ".join(text.split())
    assert "python launch.py --mode=predict --help" in text
    for other in ("-h", "-help", "-?", "--helpshort", "--workdir=x --help", "--views=nothing --help"):
        assert typed(other) == (0, text, "")


def test_all_help_is_every_page(typed):
    status, text, _ = typed("--helpfull")
    assert status == 0
    assert all(typed(f"--help --mode {mode}")[1].strip() in text for mode in options.MODES)
    assert typed("--help")[1].strip() in text


@pytest.mark.parametrize(
    ("script", "program"),
    [("launch.py", "python launch.py"), ("/usr/bin/gz-jax", "gz-jax"), ("/x/gz_jax/__main__.py", "python -m gz_jax")],
)
def test_help_shows_what_the_user_typed(script, program, typed):
    _, text, _ = typed("--help", script)
    assert text.startswith(f"{program} ")
    assert f"\n  {program} --config=demo\n" in text


@pytest.mark.parametrize("mode", options.MODES)
def test_examples_are_parsed(mode, typed):
    for line, _ in helps.EXAMPLES[mode]:
        assert typed(line) == (None, "", "")
        assert flags.FLAGS.mode == mode


def test_help_on_a_config_lists_its_fields(typed, refused):
    status, text, _ = typed("--config=demo --help")
    assert status == 0
    rows = {name: mark for mark, name in re.findall(r"^([* ]) ([\w.]+) = ", text, re.MULTILINE)}
    assert list(rows) == list(fields.FIELDS)
    default = fields.flatten(fields.default())
    demo = fields.flatten(named.read("demo"))
    assert {name for name, mark in rows.items() if mark == "*"} == {n for n in demo if demo[n] != default[n]}
    assert all(name in typed("--help --mode=train")[1] for name in CONFIGS)
    assert refused("--config=demoo --help").endswith("The nearest is --config=demo.")
    assert refused("--mode=predct --help").endswith("The nearest is --mode=predict.")


def test_the_page_of_flags_has_every_flag_of_every_mode():
    page = (ROOT / "gz_jax" / "modes" / "README.md").read_text()
    assert page.endswith(helps.tables())
    for mode in options.MODES:
        rows = set(re.findall(r"^\| `--(\w+)", page.split(f"\n## {mode}\n")[1].split("\n## ")[0], re.MULTILINE))
        assert rows == {o.name for o in options.OPTIONS if mode in o.modes} - {"mode"}


def test_every_flag_is_read_somewhere():
    """A flag that no code reads would be accepted and change nothing."""
    code = "".join(path.read_text() for path in (ROOT / "gz_jax" / "modes").glob("*.py"))
    handed_on = {"mode", "config", "workdir", "stretch_q", *sight.SETTINGS}
    assert {o.name for o in options.OPTIONS} - handed_on <= set(re.findall(r"\bflags\.(\w+)", code))


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.name)
def test_a_flag_of_other_modes_is_refused_and_the_message_names_them(option, refused):
    value = {bool: "", int: "=1", float: "=1"}.get(option.kind, "=demo")
    value = f"={option.default}" if option.choices else value
    for mode in [mode for mode in options.MODES if mode not in option.modes]:
        line = refused(f"--mode={mode} --{option.name}{value}")
        assert line.startswith(f"--{option.name} is a flag of --mode=")
        there, _, rest = line.partition(", not of ")
        assert set(re.findall(r"\w+", there.partition("--mode=")[2])) - {"and"} == set(option.modes)
        assert rest.startswith(f"{mode};")


def test_without_a_mode_the_message_says_which_it_is(refused):
    assert refused("--views=1").startswith(  # its default, too
        "--views is a flag of --mode=evaluate and predict, not of train, which is the mode if none is given; "
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--mode=predct", f"--mode=predct must be one of {', '.join(options.MODES)}. The nearest is --mode=predict."),
        ("--mode=predict --outptu=x", "there is no flag --outptu; the nearest is --output."),
        ("--mode=predict --views=abc", "--views=abc must be a whole number."),
        ("--mode=predict --crop=wide", "--crop=wide must be a number."),
        ("--mode=predict --embeddings=perhaps", "--embeddings=perhaps must be true or false."),
        ("--mode=predict --views=4", "--views=4: --views must be 1, 8 or 16."),
        ("--distributed=on", "--distributed=on must be one of off, auto. The nearest is --distributed=off."),
        (
            "--learning_rate=3",
            "learning_rate is a field of the config: write --config.learning_rate=3, after --config=NAME.",
        ),
        ("--config.batch_size=3", "--config.batch_size needs --config=NAME before it."),
        ("--config.batch_size=3 --config=demo", "--config=NAME must come before --config.batch_size."),
        (
            "--config=demo --config.learning_rat=1",
            "the config has no field learning_rat; the nearest is learning_rate. gz_jax/fields.py lists them all.",
        ),
        (
            "--config=demo --config.rotate=true",
            "the config has no field rotate; the nearest is augment.rotate. gz_jax/fields.py lists them all.",
        ),
        (
            "--config=demo --noconfig.tensorbord",
            "the config has no field tensorbord; the nearest is tensorboard. gz_jax/fields.py lists them all.",
        ),
        (
            "--config=demo --config.seed=1 --config.data.dir.x=1",
            "the config has no field data.dir.x; the nearest is data.dir. gz_jax/fields.py lists them all.",
        ),
        ("--config=demo --config.batch_size=abc", "--config.batch_size=abc must be a whole number from 1 to 1e+09."),
        (
            "--config=demo --config.batch_size 'a: b'",
            "--config.batch_size=a: b must be a whole number from 1 to 1e+09.",
        ),
        ("--config=demo --config.seed=1.5", "--config.seed=1.5 must be a whole number from 0 to 4.29497e+09."),
        ("--config=demo --config.augment.flip=maybe", "--config.augment.flip=maybe must be one of False, True."),
        (
            "--config=demo --config.data=3",
            "--config.data=3: data is a group of fields; set one of them, such as data.source.",
        ),
    ],
)
def test_a_mistake_in_a_flag_is_one_line(arguments, message, refused):
    assert refused(arguments) == message


FILES = {
    "empty.py": ("", "has no function get_config() that returns a config."),
    "value.py": ("get_config = 3\n", "has no function get_config() that returns a config."),
    "syntax.py": ("\ndef get_config(:\n", "line 2 of syntax.py is not Python: invalid syntax."),
    "binary.py": ("\0\1\2", "source code"),
    "raises.py": (
        "def get_config():\n    x = 1\n    return x / 0\n",
        "line 3 of raises.py: ZeroDivisionError: division by zero.",
    ),
    "package.py": ("import no_such_package\n", "line 1 of package.py: ModuleNotFoundError: No module named"),
    "open.py": ("open('no_such_file')\n", "line 1 of open.py: FileNotFoundError: "),
    "forgotten.py": (
        "def get_config():\n    pass\n",
        "get_config() of forgotten.py returned None, which is no config.",
    ),
    "several.py": (
        "from gz_jax import fields\ndef get_config():\n    c = fields.default()\n    c.lock()\n    c.batchsize = 3\n",
        "line 5 of several.py: AttributeError: ",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_config_that_cannot_be_used_is_one_line(name, refused):
    text, message = FILES[name]
    pathlib.Path(name).write_text(text)
    line = refused(f"--config={name}")
    assert line.startswith(f"--config={name}: ")
    assert message in line
    with pytest.raises(gz_jax.UserError, match=re.escape(line)):
        named.load(name, {})


def test_a_config_that_is_not_there_is_one_line_with_the_nearest_and_all_names(refused):
    pathlib.Path("mine").mkdir()
    pathlib.Path("mine", "deep.py").write_text("")
    these = f"a config that comes with gz_jax ({', '.join(CONFIGS)})"
    for name, nearest in (("cnnn", "cnn"), ("configs/cnnn.py", "cnn"), ("mine/deeep.py", "mine/deep.py")):
        line = refused(f"--config={name}")
        assert line == f"--config={name} is neither a file nor {these}. The nearest is --config={nearest}."
    assert refused("--config=mine") == f"--config=mine is a folder: name a file in it, or {these}."
    assert refused("--config=") == f"--config= is empty: give it the name of {these}, or the path of a file."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1}, "the config has no field learning_rat; the nearest is learning_rate. "),
        ({"seed": 1, "batch_size": "abc"}, "batch_size='abc' must be a whole number from 1 to 1e+09."),
        ({"augment.rotate": "yes"}, "augment.rotate='yes' must be one of False, True."),
        ({"data": 3}, "data=3: data is a group of fields; set one of them, such as data.source."),
        ({"data.dir.x": "a"}, "the config has no field data.dir.x; the nearest is data.dir. "),
    ],
)
def test_a_mistake_in_the_changes_of_train_is_one_line(changes, message, tmp_path):
    with pytest.raises(gz_jax.UserError, match="^" + re.escape(message)) as error:
        gz_jax.train("demo", tmp_path / "run", **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_command_prints_help_on_stdout_and_ends_well():
    launch = [sys.executable, str(ROOT / "launch.py"), "--mode=similar", "--help"]
    result = subprocess.run(launch, env=environment(), capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"python {ROOT}/launch.py --mode=similar [flags]\n")


PAGES = [ROOT / "README.md", *(p for room in ("configs", "gz_jax", "tests") for p in (ROOT / room).rglob("README.md"))]
COMMAND = re.compile(r"(?:^|.*[ /])(?:launch\.py|gz-jax) ([^#>|&\"]*)")


def commands(page):
    """Arguments of the commands in a page's blocks of code, without variables; a part of a value is 1."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text().replace("\\\n", " "), re.DOTALL):
        for line in re.split(r"\n| && ", block):
            if match := COMMAND.match(line):
                yield re.sub(r"\$\w+", "1", re.sub(r"(?<!\S)\$\w+", "", match[1]))


def test_the_commands_of_the_pages_are_parsed(typed):
    found = {line: typed(line.replace("configs/", f"{ROOT}/configs/")) for page in PAGES for line in commands(page)}
    assert len(found) > 20
    assert {line: said for line, (status, _, said) in found.items() if status not in (None, 0)} == {}
