"""Which columns of a table hold the labels: names as surveys publish them, and names that a person maps."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gz_jax import labels
from gz_jax.data.catalogue_columns import REST, choose, parse, rest_of
from gz_jax.data.catalogue_labels import KINDS
from gz_jax.data.tables import lacking
from gz_jax.labels import Question, Tree
from gz_jax.runtime.errors import UserError

GZ2, DECALS, DESI, RINGS = (
    labels.load(name) for name in ("galaxy_zoo_2", "galaxy_zoo_decals", "galaxy_zoo_desi", "rings")
)
# Galaxy Zoo 2 with the columns of Hart et al. 2016 (MNRAS 461, 3663).
HART = Tree(
    "Hart",
    (
        Question(
            "smooth-or-features",
            "smooth?",
            ("smooth", "features-or-disk", "star-or-artifact"),
            ("smooth", "features", "star"),
            (
                "t01_smooth_or_features_a01_smooth",
                "t01_smooth_or_features_a02_features_or_disk",
                "t01_smooth_or_features_a03_star_or_artifact",
            ),
        ),
    ),
)


def chosen(there, tree, kind, columns="", suffix=""):
    return choose(list(there), tree, kind, parse(columns, tree), suffix)


def with_all(tree, ending, names=None):
    return [name + ending for name in names or tree.columns]


@pytest.mark.parametrize("tree", [GZ2, DECALS, DESI, RINGS], ids=lambda t: t.name)
@pytest.mark.parametrize("names", ["columns", "keys"])
@pytest.mark.parametrize(
    ("kind", "ending"), [("counts", ""), ("counts", "_count"), ("conditional", ""), ("conditional", "_fraction")]
)
def test_published_names(tree, names, kind, ending):
    """Whatever else the table has: its other columns and their order make no difference."""
    wanted = with_all(tree, ending, getattr(tree, names))
    found = chosen(["id", "ra", *wanted[::-1], "smooth-or-featured"], tree, kind)
    assert found.answers == tuple(wanted)
    assert found.classes == ()
    assert found.totals == (None,) * len(tree.questions)
    assert lacking(wanted, found.names) == ""


def test_fractions_go_before_counts_of_the_same_table():
    """Galaxy Zoo DECaLS publishes both."""
    there = [*with_all(DECALS, "", DECALS.keys), *with_all(DECALS, "_fraction", DECALS.keys)]
    assert chosen(there, DECALS, "conditional").answers == tuple(with_all(DECALS, "_fraction", DECALS.keys))
    assert chosen(there, DECALS, "counts").answers == DECALS.keys


def test_totals_of_decals():
    there = [*with_all(DECALS, "_fraction", DECALS.keys), "smooth-or-featured_total-votes", "merging_total-votes"]
    found = chosen(there, DECALS, "conditional")
    merging = [q.name for q in DECALS.questions].index("merging")
    assert {q: name for q, name in enumerate(found.totals) if name} == {0: there[-2], merging: there[-1]}
    assert set(there) == set(found.names)
    assert chosen(there, DECALS, "counts").totals == (None,) * len(DECALS.questions)


def test_a_suffix_is_used_alone():
    plain, debiased = with_all(HART, ""), with_all(HART, "_debiased")
    there = [*plain, *debiased, *with_all(HART, "_fraction")]
    assert chosen(there, HART, "conditional", suffix="_debiased").answers == tuple(debiased)
    found = chosen(plain, HART, "conditional", suffix="_debiased")
    assert "a01_smooth_debiased' (near it: 't01_smooth_or_features_a01_smooth'" in lacking(plain, found.names)


def test_classes():
    assert chosen(["id", "class"], RINGS, "class").classes == ("class",)
    assert chosen(["class", "ring"], RINGS, "class").classes == ("ring",)
    assert chosen(["kind"], RINGS, "class", "ring=kind").classes == ("kind",)
    found = chosen(["class", "edge-on"], GZ2, "class")
    assert found.classes == tuple(q.name for q in GZ2.questions)
    assert "'smooth-or-features'" in lacking(["class", "edge-on"], found.names)


def test_mapping():
    text = "yes=a ring, ring_no = b=c,ring.total=n"
    assert parse(text, RINGS) == {"ring_yes": "a ring", "ring_no": "b=c", "ring.total": "n"}
    found = chosen(["a ring", "b=c", "n"], RINGS, "conditional", text)
    assert found == (("a ring", "b=c"), ("n",), ())
    assert parse("votes=n", GZ2) == {"smooth-or-features.total": "n"}
    assert parse(" , ,", GZ2) == {}
    # 'yes' is an answer of several questions; the column, the key and a name of its own are not.
    assert parse("Class2.1=x", GZ2) == parse("edge-on_yes=x", GZ2) == {"Class2.1": "x"}
    assert parse("star-or-artifact=s", GZ2) == {"Class1.3": "s"}


REFUSED = {
    "edge-on": "'edge-on' is not of the form answer=column",
    "=x": "'=x' is not of the form",
    "smooth=": "'smooth=' is not of the form",
    "yes=x": "'yes' is no answer of the decision tree Galaxy Zoo 2",
    "smoth=x": "do you mean smooth or other?",
    "smooth=x, Class1.1=y": "maps 'Class1.1' twice",
    "smooth=x, star-or-artifact=x": "Class1.1 and Class1.3 are both 'x'",
    "votes=n": "cannot be given with --config.data.labels=counts",
    "edge-on.total=n": "cannot be given with --config.data.labels=counts",
    "edge-on=x": "cannot be given with --config.data.labels=counts",
    "smooth=rest": "Class1.1 cannot be 'rest'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_mappings_that_cannot_be(text):
    with pytest.raises(UserError, match=re.escape(REFUSED[text])):
        list(rest_of(chosen(["x"], GZ2, "counts", text), GZ2, "counts"))


@pytest.mark.parametrize("text", ["edge-on=rest", "Class2.1=x"])
def test_mappings_that_classes_cannot_have(text):
    with pytest.raises(UserError, match=r"--config\.data\.columns"):
        chosen(["x"], GZ2, "class", text)


def test_rest():
    found = chosen(["p"], RINGS, "joint", f"yes=p, no={REST}")
    assert found.names == ["p"]
    assert list(rest_of(found, RINGS, "joint")) == [(1, [0])]
    found = chosen(GZ2.columns, GZ2, "conditional", "Class1.2=rest, Class6.1=rest")
    assert list(rest_of(found, GZ2, "conditional")) == [(1, [0, 2]), (13, [14])]
    with pytest.raises(UserError, match=r"Class2\.1 cannot be 'rest'"):  # joint fractions of it sum to Class1.2
        list(rest_of(chosen(GZ2.columns, GZ2, "joint", "Class2.1=rest"), GZ2, "joint"))
    with pytest.raises(UserError, match="only one answer"):
        list(rest_of(chosen([], GZ2, "conditional", "Class1.2=rest, Class1.1=rest"), GZ2, "conditional"))


def test_all_missing_columns_in_one_message():
    there = [c for c in GZ2.columns if c not in ("Class1.1", "Class6.2")]
    text = lacking(["objid", *there], ["id", "file", *chosen(there, GZ2, "joint").names])
    for name in ("id", "file", "Class1.1", "Class6.2"):
        assert f"'{name}'" in text
    assert "'id' (near it: 'objid'" in text
    assert "it has objid, Class1.2" in text
    assert lacking([], GZ2.columns).endswith("and 25 more; it has no columns")
    assert len(lacking([f"column {i}" for i in range(10_000)], GZ2.columns)) < 2_000


texts = st.text(max_size=30) | st.lists(
    st.sampled_from([*GZ2.columns[:5], "smooth", "edge-on", "=", ",", "rest", "votes", ".total", " ", "odd_yes"])
).map("".join) | st.text(string.ascii_letters + "=, .", max_size=30)  # fmt: skip


@given(texts, st.sampled_from(KINDS), st.sampled_from([GZ2, RINGS]))
def test_any_mapping_is_taken_or_refused(text, kind, tree):
    try:
        found = chosen([*tree.columns, "id"], tree, kind, text)
        list(rest_of(found, tree, kind))
    except UserError as error:
        if not str(error).startswith("--config.data.columns: "):
            raise
        return
    assert len(found.classes) == (len(tree.questions) if kind == "class" else 0)
    assert len(found.answers) == (0 if kind == "class" else len(tree.columns))
    assert REST not in (*found.totals, *found.classes)
    assert isinstance(lacking(["id"], found.names), str)
