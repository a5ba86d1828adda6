"""Every tree that comes with the package, against what its survey published."""

import pathlib
import re

import pytest

from gz_jax import labels
from gz_jax.runtime.errors import UserError

# question: answers < the answers that lead to it
DECALS = """
smooth-or-featured: smooth featured-or-disk artifact
disk-edge-on: yes no < smooth-or-featured_featured-or-disk
has-spiral-arms: yes no < disk-edge-on_no
bar: strong weak no < disk-edge-on_no
bulge-size: dominant large moderate small none < disk-edge-on_no
how-rounded: round in-between cigar-shaped < smooth-or-featured_smooth
edge-on-bulge: boxy none rounded < disk-edge-on_yes
spiral-winding: tight medium loose < has-spiral-arms_yes
spiral-arm-count: 1 2 3 4 more-than-4 cant-tell < has-spiral-arms_yes
merging: none minor-disturbance major-disturbance merger < smooth-or-featured_smooth smooth-or-featured_featured-or-disk
"""
DECALS_12 = """
bar: yes no < disk-edge-on_no
bulge-size: dominant obvious none < disk-edge-on_no
how-rounded: completely in-between cigar-shaped < smooth-or-featured_smooth
spiral-arm-count: 1 2 3 4 more-than-4 < has-spiral-arms_yes
merging: neither tidal-debris both merger < smooth-or-featured_smooth smooth-or-featured_featured-or-disk
"""
COSMIC_DAWN = """
smooth-or-featured: smooth featured-or-disk problem
problem: star artifact zoom < smooth-or-featured_problem
artifact: satellite scattered diffraction ray saturation other < problem_artifact
clumps: yes no < disk-edge-on_no
"""
EUCLID = """
artifact: satellite scattered diffraction ray saturation other ghost < problem_artifact
"""
JWST = """
smooth-or-featured: smooth featured-or-disk star-artifact-zoom
problem: star artifact bad-zoom < smooth-or-featured_star-artifact-zoom
clumps: yes no < smooth-or-featured_smooth smooth-or-featured_featured-or-disk
"""
HUBBLE = """
smooth-or-featured: smooth features artifact
how-rounded: completely in-between cigar-shaped < smooth-or-featured_smooth
clumpy-appearance: yes no < smooth-or-featured_features
galaxy-symmetrical: yes no < clumpy-appearance_yes
clumps-embedded-larger-object: yes no < clumpy-appearance_yes
disk-edge-on: yes no < clumpy-appearance_no
bulge-shape: rounded boxy none < disk-edge-on_yes
bar: yes no < disk-edge-on_no
has-spiral-arms: yes no < disk-edge-on_no
bulge-size: none just-noticeable obvious dominant < disk-edge-on_no
spiral-winding: tight medium loose < has-spiral-arms_yes
spiral-arm-count: 1 2 3 4 5-plus cant-tell < has-spiral-arms_yes
"""
CANDELS = """
edge-on-bulge: yes no < disk-edge-on_yes
bulge-size: none obvious dominant < disk-edge-on_no
merging: merger tidal-debris both neither < smooth-or-featured_smooth smooth-or-featured_features
"""
UKIDSS = """
smooth-or-featured: smooth featured-or-disk artifact
disk-edge-on: yes no < smooth-or-featured_featured-or-disk
has-spiral-arms: yes no < disk-edge-on_no
bar: yes no < disk-edge-on_no
bulge-size: dominant obvious just-noticeable no < disk-edge-on_no
something-odd: yes no
how-rounded: round in-between cigar < smooth-or-featured_smooth
bulge-shape: round boxy no-bulge < disk-edge-on_yes
spiral-winding: tight medium loose < has-spiral-arms_yes
spiral-arm-count: 1 2 3 4 more-than-4 cant-tell < has-spiral-arms_yes
"""


def table(*texts, without=()):
    """{question: (answers, what leads to it)}; a later text's question replaces an earlier one."""
    found = {}
    for line in "".join(texts).split("\n"):
        if line:
            name, rest = line.split(": ")
            answers, _, after = rest.partition(" < ")
            found[name] = (answers.split(), set(after.split()))
    return {name: q for name, q in found.items() if name not in without}


MERGER = "merging_merger"
PUBLISHED = {
    "galaxy_zoo_decals": ("-dr5", table(DECALS), MERGER),
    "galaxy_zoo_decals_8": ("-dr8", table(DECALS), MERGER),
    "galaxy_zoo_desi": ("", table(DECALS), MERGER),
    "galaxy_zoo_decals_12": ("-dr12", table(DECALS, DECALS_12), MERGER),
    "galaxy_zoo_cosmic_dawn": ("-cd", table(DECALS, COSMIC_DAWN), MERGER),
    "galaxy_zoo_euclid": ("-euclid", table(DECALS, COSMIC_DAWN, EUCLID), MERGER),
    "galaxy_zoo_jwst_ceers": ("-jwst", table(DECALS, JWST), MERGER),
    "galaxy_zoo_jwst_cosmos": ("-jwst", table(DECALS, JWST, without=["how-rounded"]), MERGER),
    "galaxy_zoo_hubble": ("-hubble", table(HUBBLE), None),
    "galaxy_zoo_candels": (
        "-candels",
        table(
            HUBBLE, CANDELS, without=["bulge-shape", "galaxy-symmetrical", "clumps-embedded-larger-object"]
        ),
        MERGER,
    ),
    "galaxy_zoo_ukidss": ("-ukidss", table(UKIDSS), None),
    "rings": ("", table("ring: yes no"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_surveys_tree_is_as_published(name):
    suffix, questions, merger = PUBLISHED[name]
    tree = labels.load(name)
    assert {q.name: (list(q.answers), set(q.after)) for q in tree.questions} == questions
    columns = {f"{question}{suffix}_{answer}" for question, (answers, _) in questions.items() for answer in answers}
    assert set(tree.columns) == columns
    assert tree.columns[tree.index(tree.keys[-1])] == tree.columns[-1]
    assert tree.merger == merger


def test_galaxy_zoo_2_has_kaggles_columns_and_parents():
    tree = labels.GALAXY_ZOO_2
    counts = (3, 2, 2, 2, 4, 2, 3, 7, 3, 3, 6)
    assert tree.columns == tuple(f"Class{q}.{i + 1}" for q, count in enumerate(counts, 1) for i in range(count))
    parents = {i: [tree.columns[p] for p in parents] for i, parents in enumerate(tree.parents, 1)}
    assert parents == {
        1: [], 2: ["Class1.2"], 3: ["Class2.2"], 4: ["Class2.2"], 5: ["Class2.2"], 6: [], 7: ["Class1.1"],
        8: ["Class6.1"], 9: ["Class2.1"], 10: ["Class4.1"], 11: ["Class4.1"],
    }  # fmt: skip
    assert tree.columns[tree.index(tree.merger)] == "Class8.6"
    assert tree.texts[23] == "merger"


def test_galaxy_zoo_1_has_the_columns_of_its_table_2():
    tree = labels.load("galaxy_zoo_1")
    assert tree.columns == ("P_EL", "P_CW", "P_ACW", "P_EDGE", "P_DK", "P_MG")
    assert tree.columns[tree.index(tree.merger)] == "P_MG"
    assert tree.parents == ((),)


@pytest.mark.parametrize("name", labels.names())
def test_texts_stand_by_themselves(name):
    tree = labels.load(name)
    assert len(set(tree.texts)) == len(tree.texts)
    assert not {"yes", "no", "none", "both", "neither"} & set(tree.texts)
    assert re.search(r"\d{4}", tree.citation)


def test_the_readme_lists_them_all():
    text = (pathlib.Path(labels.__file__).parent / "trees" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)`.*\| (\d+) \| (\d+) \| (\S+) \|$", text, re.MULTILINE)
    trees = {name: labels.load(name) for name in labels.names()}
    assert {name: tuple(row) for name, *row in rows} == {
        name: (str(len(tree.questions)), str(len(tree.columns)), f"`{tree.merger}`" if tree.merger else "none")
        for name, tree in trees.items()
    }


def test_the_readmes_example_is_a_tree(tmp_path):
    text = (pathlib.Path(labels.__file__).parent / "trees" / "README.md").read_text()
    (tmp_path / "mine.toml").write_text(re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1])
    tree = labels.load(tmp_path / "mine.toml")
    assert tree.columns == (
        "kind-mine_smooth", "kind-mine_disk", "kind-mine_star", "P_BAR", "P_NOBAR", "disturbed-mine_no",
        "disturbed-mine_merger",
    )  # fmt: skip
    assert tree.parents == ((), (1,), (0, 1))


def test_the_readme_has_the_default_trees_answers_in_words():
    text = (pathlib.Path(labels.__file__).parent / "trees" / "README.md").read_text()
    rows = re.findall(r"^\| `(Class[\d.]+)` \| (.*) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    tree = labels.GALAXY_ZOO_2
    asked = [" or ".join(tree.texts[p] for p in parents) or "everyone" for parents in tree.parents]
    expected = zip(tree.columns, tree.texts, tree.question_of, strict=True)
    assert rows == [(column, text, tree.questions[q].text, asked[q]) for column, text, q in expected]


def test_an_answer_is_found_by_column_key_and_text():
    tree = labels.GALAXY_ZOO_2
    assert tree.index("Class3.1") == tree.index("bar_yes") == tree.index("bar")
    assert tree.index("2 arms") == tree.index("Class11.2")
    with pytest.raises(UserError, match=r"no answer 'barr'.*bar"):
        tree.index("barr")
