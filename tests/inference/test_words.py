"""Predictions in words."""

import numpy as np
import pytest
from absl import flags
from PIL import Image
from test_predict import make_workdir, picture

import gz_jax
from gz_jax import labels
from gz_jax.analysis import showcase
from gz_jax.inference import words
from gz_jax.inference.tables import Predicted, to_table
from gz_jax.labels import GALAXY_ZOO_2, Question, Tree
from gz_jax.modes import (
    options,  # noqa: F401  # defines the flags
    science,
)
from gz_jax.runtime.errors import UserError

SMALL = Tree(
    "small",
    (
        Question("kind", "smooth or disk?", ("smooth", "disk"), ("smooth", "a disk"), ("S", "D")),
        Question("bar", "bar?", ("yes", "no"), ("barred", "no bar"), ("B", "N"), ("kind_disk",)),
        Question("odd", "odd?", ("merger", "no"), ("merger", "not odd"), ("M", "O")),
    ),
    merger="odd_merger",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("words") / "run")


def test_by_hand():
    """Half of those who see a disk, 0.4 of 0.8, see a bar; an answer of 9 % is left out, one of 10 % is not."""
    text = words.describe(np.float32([0.2, 0.8, 0.4, 0.4, 0.09, 0.91]), SMALL)
    assert text == (
        "a disk, barred; not odd\n"
        "  smooth or disk?  a disk 80 %, smooth 20 %\n"
        "  bar?             barred 50 %, no bar 50 %\n"
        "  odd?             not odd 91 %"
    )
    assert "merger 10 %" in words.describe(np.float32([0.9, 0.1, 0.1, 0, 0.1, 0.9]), SMALL)


def test_questions_that_most_would_not_come_to_are_left_out():
    text = words.describe(np.float32([0.6, 0.4, 0.4, 0, 0.2, 0.8]), SMALL)
    assert text.startswith("smooth; not odd\n")
    assert "bar" not in text


def test_less_than_half_is_only_possible():
    three = Question("kind", "kind?", ("a", "b", "c"), ("round", "long", "odd"), ("A", "B", "C"))
    assert words.headline(np.float32([0.3, 0.45, 0.25]), Tree("three", (three,))) == "possibly long"


def test_a_merger_is_named_where_its_question_is_not_reached():
    fractions = np.zeros(37, np.float32)
    names = {"Class1.1": 1, "Class7.1": 1, "Class6.1": 0.4, "Class6.2": 0.6, "Class8.6": 0.3, "Class8.1": 0.1}
    for name, value in names.items():
        fractions[GALAXY_ZOO_2.index(name)] = value
    text = words.describe(fractions, GALAXY_ZOO_2)
    assert text.splitlines()[0] == "smooth, completely round; not odd"
    assert text.splitlines()[-1].split() == ["merger?", "30", "%", "of", "all", "volunteers"]
    fractions[GALAXY_ZOO_2.index("Class8.6")] = 0.05
    assert "merger" not in words.describe(fractions, GALAXY_ZOO_2)


def test_beside_what_volunteers_said_by_hand():
    """The network: 0.8 see a disk, and 0.6 of these 0.8 a bar. Volunteers: 0.6, and 0.15 of these 0.6."""
    predicted = np.float32([0.2, 0.8, 0.6, 0.2, 0.3, 0.7])
    true = np.float32([0.4, 0.6, 0.15, 0.45, np.nan, np.nan])
    found = words.beside(predicted, true, SMALL)
    assert [(one.text, one.wrong) for one in found] == [
        ("a disk", False), ("barred", True), ("no bar", False), ("not odd", False),
    ]  # fmt: skip
    np.testing.assert_allclose([one.predicted for one in found], [0.8, 0.75, 0.25, 0.7], rtol=1e-6)
    np.testing.assert_allclose([one.true for one in found], [0.6, 0.25, 0.75, np.nan], rtol=1e-6)


def test_beside_votes_of_a_question_that_most_did_not_come_to():
    """Three of ten see a disk and two of these no bar: nobody's answer is added, but the shares are there."""
    predicted = np.float32([0.2, 0.8, 0.6, 0.2, 0, 1])
    one, other, bar, _ = words.beside(predicted, np.float32([0.7, 0.3, 0.1, 0.2, 0, 1]), SMALL)
    assert (one.text, other.text, bar.text, bar.wrong) == ("a disk", "smooth", "barred", False)
    assert bar.true == pytest.approx(1 / 3)
    nobody = words.beside(predicted, np.float32([1, 0, 0, 0, 0, 1]), SMALL)[2]
    assert nobody.text == "barred"
    assert np.isnan(nobody.true)


@pytest.mark.parametrize("name", labels.names())
def test_every_tree_gives_words_that_follow_it(name):
    tree, rng = labels.load(name), np.random.default_rng(0)
    for _ in range(20):
        draw = rng.gamma(0.5, size=len(tree.columns)).astype(np.float32)
        shares = np.asarray(labels.conditional(draw, tree))
        fractions = np.asarray(labels.joint(shares, tree))
        found = words.path(fractions, tree)
        chosen = {tree.slices[q].start + int(part.argmax()) for q, part in found}
        asked = {q for q, _ in found}
        for question, parents in enumerate(tree.parents):
            assert (question in asked) == (not parents or bool(set(parents) & chosen))
        lines = words.describe(fractions, tree).splitlines()
        assert len(lines) >= 1 + len(found)
        for place in chosen:
            assert tree.texts[place] in lines[0]


def test_images_that_cannot_be_used_say_why_and_remarks_stay():
    fractions = np.float32([[0.2, 0.8, 0.4, 0.4, 0, 1]] * 2)
    predicted = Predicted(fractions, fractions, None, np.uint8([2, 1]), np.array(["damaged", "padded"], object))
    bad, remark = words.of_table(to_table(np.array(["x", "y"]), predicted, SMALL), SMALL)
    assert bad == "x: cannot be used (damaged)"
    assert remark.startswith("y: a disk, barred; not odd\n")
    assert remark.endswith("(used with a remark: padded)")


def test_the_command_without_and_with_a_table(workdir, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(2):
        picture(i).save(images / f"g{i}.png")
    (images / "g2.png").write_bytes(b"no picture")
    assert predict(workdir, images) == 0
    said = capsys.readouterr().out
    expected = gz_jax.describe(workdir, images)
    assert expected in said
    assert "g2: cannot be used" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images"]  # nothing is written
    assert predict(workdir, images, output=tmp_path / "table") == 0
    assert expected in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--keep .* add --output"):
        predict(workdir, images, keep="ra")
    for i in range(9):
        picture(i).save(images / f"more{i}.png")
    with pytest.raises(UserError, match=r"12 images, and at most 10 .* --output"):
        predict(workdir, images)


def predict(workdir, images, **given):
    """`--mode=predict`, in this process."""
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["launch.py", f"--input={images}", *(f"--{name}={value}" for name, value in given.items())])
    return science.predict(str(workdir), flags.FLAGS)


def test_in_python_and_not_for_many_images(workdir):
    images = np.random.default_rng(0).integers(0, 256, (2, 60, 60, 3), np.uint8)
    text = gz_jax.describe(workdir, images)
    table = gz_jax.predict(workdir, images)
    for row in range(2):
        fractions = table.loc[row, list(GALAXY_ZOO_2.columns)].to_numpy(np.float32)
        assert f"{row}: {words.describe(fractions, GALAXY_ZOO_2)}" in text
    with pytest.raises(UserError, match=r"11 images, and at most 10 .* --output"):
        gz_jax.describe(workdir, np.zeros((11, 60, 60, 3), np.uint8))


def test_the_picture_of_galaxies_and_what_it_refuses(workdir, tmp_path, capsys):
    showcase.main([str(workdir), str(tmp_path / "galaxies.webp"), "--count=3"])
    with Image.open(tmp_path / "galaxies.webp") as image:
        assert image.format == "WEBP"
    with pytest.raises(SystemExit, match=r"^error: .*nowhere"):
        showcase.main([str(tmp_path / "nowhere"), str(tmp_path / "other.png")])
    with pytest.raises(SystemExit):
        showcase.main([str(workdir), str(tmp_path / "other.jpg")])
    assert "must end in .webp or .png" in capsys.readouterr().err
    assert not (tmp_path / "other.png").exists()
