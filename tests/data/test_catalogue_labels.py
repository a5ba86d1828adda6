"""What label columns say, as joint fractions and votes: against hand-computed values and plain counting."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import no_warnings
from trees.random_trees import trees

from gz_jax import labels
from gz_jax.data import catalogue_labels
from gz_jax.data.catalogue_labels import of_class, of_conditional, of_counts, of_joint
from gz_jax.labels import Question, Tree

GZ2, DECALS, RINGS = (labels.load(name) for name in ("galaxy_zoo_2", "galaxy_zoo_decals", "rings"))
NOMINAL = 40.0
unlimited = settings(deadline=None)


def numbers(tree, *rows):
    """float64 [n, answers] from {question: numbers of its answers}, NaN elsewhere."""
    found = np.full((len(rows), len(tree.columns)), np.nan)
    for i, row in enumerate(rows):
        for question, answers in zip(tree.questions, tree.slices, strict=True):
            if question.name in row:
                found[i, answers] = row[question.name]
    return found


def unknown(tree, n):
    """Totals of n galaxies whose numbers of votes are not known."""
    return np.full((n, len(tree.questions)), np.nan)


def totals(tree, **known):
    return np.array([[known.get(q.name.replace("-", "_"), np.nan) for q in tree.questions]], float)


def same(found, fractions, votes):
    assert found.faults == []
    assert found.fractions.dtype == found.votes.dtype == np.float32
    np.testing.assert_allclose(found.fractions, fractions, rtol=1e-6)
    np.testing.assert_allclose(found.votes, votes, rtol=1e-6)


GZ2_COUNTS = {
    "smooth-or-features": (10, 30, 0), "edge-on": (6, 24), "odd": (4, 36), "rounded": (5, 3, 2), "bar": (0, 0),
}  # fmt: skip
GZ2_JOINT = {
    "smooth-or-features": (0.25, 0.75, 0), "edge-on": (0.15, 0.6), "odd": (0.1, 0.9), "rounded": (0.125, 0.075, 0.05),
}  # fmt: skip
# 40 volunteers, of whom 35 said smooth or featured and were asked about mergers.
DECALS_COUNTS = {"smooth-or-featured": (20, 15, 5), "merging": (21, 7, 0, 7), "disk-edge-on": (3, 12)}
DECALS_JOINT = {
    "smooth-or-featured": (0.5, 0.375, 0.125), "merging": (0.525, 0.175, 0, 0.175), "disk-edge-on": (0.075, 0.3),
}  # fmt: skip
BY_HAND = [
    pytest.param(GZ2, GZ2_COUNTS, GZ2_JOINT, id="Galaxy Zoo 2"),
    pytest.param(DECALS, DECALS_COUNTS, DECALS_JOINT, id="DECaLS"),
    pytest.param(RINGS, {"ring": (9, 27)}, {"ring": (0.25, 0.75)}, id="rings"),
]


@pytest.mark.parametrize(("tree", "counts", "joint"), BY_HAND)
class TestByHand:
    def test_counts(self, tree, counts, joint):
        counts, joint = numbers(tree, counts), numbers(tree, joint)
        same(of_counts(counts, tree, NOMINAL), joint, np.nan_to_num(counts) / NOMINAL)

    def test_twice_the_votes_weigh_twice(self, tree, counts, joint):
        counts, joint = numbers(tree, counts), numbers(tree, joint)
        same(of_counts(2 * counts, tree, NOMINAL), joint, np.nan_to_num(2 * counts) / NOMINAL)
        same(of_counts(counts, tree, NOMINAL / 2), joint, np.nan_to_num(2 * counts) / NOMINAL)

    def test_conditional(self, tree, counts, joint):
        counts, joint = numbers(tree, counts), numbers(tree, joint)
        fractions, number = counts.copy(), unknown(tree, 1)
        for q, answers in enumerate(tree.slices):
            number[:, q] = total = np.nansum(counts[:, answers])
            fractions[:, answers] /= total or 1
        same(of_conditional(fractions, number, tree, NOMINAL), joint, np.nan_to_num(counts) / NOMINAL)
        same(of_conditional(fractions, unknown(tree, 1), tree, NOMINAL), joint, np.nan_to_num(joint))

    def test_joint(self, tree, counts, joint):
        counts, joint = numbers(tree, counts), numbers(tree, joint)
        same(of_joint(joint, unknown(tree, 1), tree, NOMINAL), joint, np.nan_to_num(joint))
        number = np.array([[np.nansum(counts[:, answers]) for answers in tree.slices]])
        same(of_joint(joint, number, tree, NOMINAL), joint, np.nan_to_num(counts) / NOMINAL)


def test_volunteers_of_a_galaxy_stand_for_the_totals_that_are_not_known():
    """80 looked; 60 of them were asked the second question, which says no number."""
    fractions = numbers(GZ2, {"smooth-or-features": (0.25, 0.75, 0), "edge-on": (0.2, 0.8)})
    known = totals(GZ2, smooth_or_features=80)
    found = of_conditional(fractions, known, GZ2, NOMINAL)
    votes = numbers(GZ2, {"smooth-or-features": (0.5, 1.5, 0), "edge-on": (0.3, 1.2)})
    joint = numbers(GZ2, {"smooth-or-features": (0.25, 0.75, 0), "edge-on": (0.15, 0.6)})
    same(found, joint, np.nan_to_num(votes))
    same(of_joint(joint, known, GZ2, NOMINAL), joint, np.nan_to_num(votes))


def test_a_first_question_that_nobody_was_asked_does_not_silence_another_one():
    """Galaxy Zoo 2 asks two questions of all."""
    found = of_conditional(numbers(GZ2, {"odd": (0.25, 0.75)}), totals(GZ2, smooth_or_features=0), GZ2, NOMINAL)
    same(found, numbers(GZ2, {"odd": (0.25, 0.75)}), np.nan_to_num(numbers(GZ2, {"odd": (0.25, 0.75)})))


def test_class():
    names = np.full((4, len(GZ2.questions)), None, object)
    names[0, :2] = "features-or-disk", "No"
    names[1, 0] = " Class1.1 "
    names[2, 0] = "smooth-or-features_star-or-artifact"
    names[3] = ""
    joint = numbers(
        GZ2,
        {"smooth-or-features": (0, 1, 0), "edge-on": (0, 1)},
        {"smooth-or-features": (1, 0, 0)},
        {"smooth-or-features": (0, 0, 1)},
        {},
    )
    same(of_class(names, GZ2, NOMINAL), joint, np.nan_to_num(joint))


def test_class_of_two_parents():
    names = np.full((2, len(DECALS.questions)), None, object)
    merging = [q.name for q in DECALS.questions].index("merging")
    names[:, 0], names[:, merging] = ["smooth", "artifact"], "merger"
    found = of_class(names, DECALS, NOMINAL)
    joint = numbers(DECALS, {"smooth-or-featured": (1, 0, 0), "merging": (0, 0, 0, 1)}, {})
    np.testing.assert_array_equal(found.fractions, joint)
    ((row, kind, detail),) = found.faults
    assert (row, kind) == (1, "answers a question that its other answers do not lead to")
    assert "merging" in detail


def test_an_unknown_parent_makes_its_question_unknown_and_keeps_its_votes():
    found = of_counts(numbers(GZ2, {"edge-on": (6, 24)}), GZ2, NOMINAL)
    assert np.isnan(found.fractions).all()
    np.testing.assert_allclose(found.votes, np.nan_to_num(numbers(GZ2, {"edge-on": (0.15, 0.6)})), rtol=1e-6)


def test_two_parents_of_which_nobody_came_to_one():
    """The last question follows an answer of the first or of the second, which may have been asked of nobody."""
    first = Question("a", "a?", ("x", "y", "z"), ("x", "y", "z"), ("a_x", "a_y", "a_z"))
    second = Question("b", "b?", ("v", "w"), ("v", "w"), ("b_v", "b_w"), ("a_y",))
    last = Question("c", "c?", ("s", "t"), ("s", "t"), ("c_s", "c_t"), ("a_x", "b_v"))
    tree = Tree("joined", (first, second, last))
    nobody = {"a": (10, 0, 30), "b": (0, 0), "c": (4, 6)}
    some = {"a": (10, 20, 10), "b": (5, 15), "c": (3, 12)}
    hidden = {"a": (10, 20, 10), "c": (3, 12)}
    found = of_counts(numbers(tree, nobody, some, hidden), tree, NOMINAL)
    joint = numbers(
        tree,
        {"a": (0.25, 0, 0.75), "c": (0.1, 0.15)},
        {"a": (0.25, 0.5, 0.25), "b": (0.125, 0.375), "c": (0.075, 0.3)},
        {"a": (0.25, 0.5, 0.25)},
    )
    same(found, joint, np.nan_to_num(numbers(tree, nobody, some, hidden)) / NOMINAL)


@st.composite
def votes_down_a_tree(draw):
    """A tree and the votes of some galaxies on it (int [n, answers]), each of whose volunteers went down the tree."""
    tree, rng = draw(trees()), np.random.default_rng(draw(st.integers(0, 2**32)))
    people = np.array(draw(st.lists(st.integers(1, 100), min_size=1, max_size=4)))
    counts = np.zeros((len(people), len(tree.columns)), int)
    for q in tree.order:
        answers, parents = tree.slices[q], list(tree.parents[q])
        asked = counts[:, parents].sum(1) if parents else people
        shares = rng.dirichlet(np.full(answers.stop - answers.start, 0.5))
        counts[:, answers] = rng.multinomial(asked, shares)
    return tree, people, counts


def asked_of(counts, tree):
    """int [n, questions]: votes at each question; bool [n, answers]: whether anybody was asked it."""
    number = np.stack([counts[:, answers].sum(1) for answers in tree.slices], 1)
    return number, (number > 0)[:, list(tree.question_of)]


@settings(deadline=None, max_examples=20)
@given(votes_down_a_tree(), st.sampled_from([1.0, 40.0, 0.3]))
def test_counts_down_a_tree(drawn, nominal):
    tree, people, counts = drawn
    number, asked = asked_of(counts, tree)
    found = of_counts(counts.astype(float), tree, nominal)
    expected = np.where(asked, counts / people[:, None], np.nan)  # each volunteer answers once at most
    same(found, expected, counts / nominal)
    conditional = labels.conditional(jnp.array(counts, jnp.float32), tree)
    np.testing.assert_allclose(np.where(asked, labels.joint(conditional, tree), np.nan), found.fractions, atol=1e-6)
    for q, answers in enumerate(tree.slices):
        np.testing.assert_allclose(found.votes[:, answers].sum(1), number[:, q] / nominal, rtol=1e-5)


@unlimited
@given(votes_down_a_tree())
def test_all_kinds_of_labels_of_the_same_galaxies_agree(drawn):
    tree, people, counts = drawn
    number, asked = asked_of(counts, tree)
    expected = of_counts(counts.astype(float), tree, NOMINAL)
    fractions = np.where(asked, counts / np.where(asked, number[:, list(tree.question_of)], 1), np.nan)
    zeros = np.nan_to_num(fractions)  # published tables have 0 where nobody was asked
    joint = counts / people[:, None]
    for found in (
        of_conditional(fractions, number.astype(float), tree, NOMINAL),
        of_conditional(zeros, number.astype(float), tree, NOMINAL),
        of_joint(joint, number.astype(float), tree, NOMINAL),
        of_joint(np.where(asked, joint, np.nan), number.astype(float), tree, NOMINAL),
    ):
        assert found.faults == []
        np.testing.assert_allclose(found.fractions[asked], expected.fractions[asked], rtol=1e-5)
        np.testing.assert_allclose(found.votes, expected.votes, rtol=1e-5)
    alone = of_conditional(zeros, unknown(tree, len(people)), tree, NOMINAL)
    same(alone, expected.fractions, np.nan_to_num(expected.fractions))
    alone = of_joint(joint, unknown(tree, len(people)), tree, NOMINAL)
    same(alone, joint, joint)


@unlimited
@given(votes_down_a_tree(), st.sampled_from([2, 3, 4]))
def test_rounded_fractions_are_taken(drawn, digits):
    tree, people, counts = drawn
    number, asked = asked_of(counts, tree)
    exact = of_counts(counts.astype(float), tree, NOMINAL)
    fractions = np.where(asked, counts / np.where(asked, number[:, list(tree.question_of)], 1), np.nan)
    rounded = np.round(fractions, digits)
    found = of_conditional(rounded, unknown(tree, len(people)), tree, NOMINAL)
    assert found.faults == []
    for q, answers in enumerate(tree.slices):
        some = np.isfinite(found.fractions[:, answers]).all(1)
        reached = found.fractions[:, list(tree.parents[q])].sum(1) if tree.parents[q] else np.ones(len(people))
        known = some & np.isfinite(reached)
        np.testing.assert_allclose(found.fractions[known, answers].sum(1), reached[known], rtol=1e-5)
    joint = of_joint(np.round(counts / people[:, None], digits), unknown(tree, len(people)), tree, NOMINAL)
    assert joint.faults == []
    np.testing.assert_allclose(joint.fractions[asked], exact.fractions[asked], atol=0.51 * 10.0**-digits)


def test_thirds_of_two_digits():
    found = of_conditional(numbers(GZ2, {"smooth-or-features": (0.33,) * 3}), unknown(GZ2, 1), GZ2, NOMINAL)
    third = numbers(GZ2, {"smooth-or-features": (1 / 3,) * 3})
    same(found, third, np.nan_to_num(third))


FINE = {"smooth-or-features": (0.25, 0.75, 0)}
FAULTS = {  # (function, a row's numbers, its totals) and the fault's kind and a part of its detail
    "count is infinite": (of_counts, {"edge-on": (np.inf, 1)}, None, "Class2.1"),
    "count is negative or above 1e9": (of_counts, {"odd": (3, -1)}, None, "Class6.2 = -1"),
    "labels of a part of a question's answers": (of_counts, {"odd": (3, np.nan)}, None, "Class6.2"),
    "fraction is infinite": (of_joint, {**FINE, "edge-on": (-np.inf, 0)}, None, "Class2.1"),
    "fraction outside 0..1": (of_conditional, {**FINE, "edge-on": (-0.1, 1.1)}, None, "Class2.1 = -0.1 and 1 more"),
    "number of votes is negative or above 1e9": (of_conditional, FINE, {"smooth_or_features": -1}, "-1"),
    "fractions do not add up to 1": (of_conditional, {"odd": (0.5, 0.45)}, None, "odd: 0.95"),
    "vote fractions break the decision tree Galaxy Zoo 2": (of_joint, {**FINE, "edge-on": (0.5, 0.5)}, None, "edge-on"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_by_row(kind):
    """A faulty row between two good ones: they stay as they are alone, and it has no labels."""
    convert, row, some, detail = FAULTS[kind]
    good = {"smooth-or-features": (10, 30, 0)} if convert is of_counts else FINE
    values = numbers(GZ2, good, row, good)
    number = unknown(GZ2, 3)
    if some:
        number[1] = totals(GZ2, **some)
    rest = (GZ2, NOMINAL) if convert is of_counts else (number, GZ2, NOMINAL)
    found = convert(values, *rest)
    ((place, name, text),) = found.faults
    assert (place, name) == (1, kind)
    assert detail in text
    joint = np.stack([*numbers(GZ2, FINE, {}, FINE)])
    votes = np.nan_to_num(joint)
    same(found._replace(faults=[]), joint, votes)


@pytest.mark.parametrize("name", ["spirall", "0", "smooth,", "é", "nan", "edge-on_yes"])
def test_an_unknown_answer(name):
    names = np.full((3, len(GZ2.questions)), None, object)
    names[:, 0] = "smooth", name, "smooth"
    found = of_class(names, GZ2, NOMINAL)
    assert [(f.row, f.kind) for f in found.faults] == [(1, "unknown answer of smooth-or-features")]
    np.testing.assert_array_equal(np.isfinite(found.fractions).any(1), [True, False, True])


@pytest.mark.parametrize("value", [1e300, 1e9 + 1e-3, -5e-324, np.inf, -np.inf])
@no_warnings
def test_numbers_that_no_count_can_be(value):
    found = of_counts(numbers(GZ2, {"odd": (value, value)}), GZ2, NOMINAL)
    assert [f.row for f in found.faults] == [0]


@no_warnings
def test_tiny_and_large_counts():
    found = of_counts(numbers(RINGS, {"ring": (5e-324, 5e-324)}, {"ring": (1e9, 1e9)}), RINGS, NOMINAL)
    assert found.faults == []
    np.testing.assert_array_equal(found.fractions, 0.5)
    assert np.isfinite(found.votes).all()


@no_warnings
@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_numbers_give_labels_or_faults(data):
    """Whatever the columns hold: fractions in 0..1 or NaN, finite votes that are not negative, faulty rows without."""
    tree = data.draw(st.sampled_from([GZ2, DECALS, RINGS]))
    value = st.sampled_from([0.0, 1.0, 0.5, 0.25, 0.33, 0.67, -0.0, 1e-6, 40.0, np.nan, np.inf, -1.0, 1e308, 5e-324])
    rows = data.draw(st.integers(1, 3))

    def drawn(width):
        return np.array(data.draw(st.lists(value, min_size=rows * width, max_size=rows * width))).reshape(rows, width)

    values, number = drawn(len(tree.columns)), drawn(len(tree.questions))
    some = data.draw(st.integers(0, len(tree.questions)))  # questions after these are missing
    for answers in tree.slices[some:]:
        values[:, answers] = np.nan
    for found in (
        of_counts(values, tree, NOMINAL),
        of_conditional(values, number, tree, NOMINAL),
        of_joint(values, number, tree, NOMINAL),
    ):
        assert np.isfinite(found.votes).all()
        assert (found.votes >= 0).all()
        known = np.isfinite(found.fractions)
        assert ((found.fractions[known] >= 0) & (found.fractions[known] <= 1 + 1e-6)).all()
        assert not np.isinf(found.fractions).any()
        bad = sorted({fault.row for fault in found.faults})
        assert not known[bad].any()
        assert not found.votes[bad].any()


def test_kinds():
    assert set(catalogue_labels.KINDS) == {"counts", "conditional", "joint", "class"}
