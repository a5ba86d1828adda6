"""Synthetic galaxies: reproducible, true to their parameters, with labels as volunteers would give them."""

import csv
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from gz_jax import labels
from gz_jax.data import synthetic
from gz_jax.data.synthetic_votes import DISK, ELLIPTICAL
from gz_jax.runtime.errors import UserError

IDS = np.arange(100_001, 100_025)
GZ2 = labels.GALAXY_ZOO_2
DECALS = labels.load("galaxy_zoo_decals")


def _take(parameters, rows):
    return synthetic.Galaxies(*(column[rows] for column in parameters))


def _galaxy(**fields):
    """One clean, sharp, face-on disk without anything odd, as told otherwise."""
    plain = {
        "kind": DISK,
        "is_merger": False,
        "radius": 15.0,
        "axis_ratio": 0.9,
        "position_angle": 0.5,
        "bulge_fraction": 0.15,
        "bulge_radius": 4.0,
        "sersic": 1.5,
        "boxiness": 2.0,
        "surface_brightness": 0.2,
        "lateness": 0.5,
        "bar": 0.0,
        "arms": 0,
        "arm_strength": 0.0,
        "pitch": 0.3,
        "phase": 1.0,
        "ring": 0.0,
        "dust": 0.0,
        "arc": 0.0,
        "disturbed": 0.0,
        "clumps": 0.0,
        "companion_flux": 0.0,
        "tails": 0.0,
        "artifact": -1,
        "pixel": 1.0,
        "sources": 0.0,
    }
    drawn = synthetic.draw_parameters(np.array([7]), seed=0)
    return drawn._replace(**{name: np.array([value]) for name, value in {**plain, **fields}.items()})


def _light(parameters, **kwargs):
    return synthetic.render(parameters, noise=False, **kwargs)[0].astype(np.float64).sum(-1)


def _moments(image):
    """Centroid (x, y) in pixels from the centre, and axis ratio from the second moments."""
    axis = np.arange(len(image)) - (len(image) - 1) / 2
    x, y = np.meshgrid(axis, axis)
    weights = image / image.sum()
    centre = np.array([(weights * x).sum(), (weights * y).sum()])
    dx, dy = x - centre[0], y - centre[1]
    covariance = [[(weights * a * b).sum() for b in (dx, dy)] for a in (dx, dy)]
    small, large = np.linalg.eigvalsh(covariance)
    return centre, np.sqrt(small / large)


def test_a_galaxy_depends_on_seed_and_id_alone():
    def everything(ids, seed=5):
        parameters, truth = synthetic.truth(ids, seed=seed)
        return [*parameters, truth, synthetic.draw_votes(truth, ids, seed=seed), synthetic.render(parameters, size=32)]

    whole, order = everything(IDS), np.random.default_rng(0).permutation(len(IDS))[:9]
    for a, b in zip(whole, everything(IDS[order]), strict=True):
        np.testing.assert_array_equal(a[order], b)
    for a, b in zip(whole, everything(IDS[4:5]), strict=True):
        np.testing.assert_array_equal(a[4:5], b)
    assert (everything(IDS, seed=6)[-1] != whole[-1]).any((1, 2, 3)).all()


@pytest.mark.parametrize("tree", [GZ2, DECALS], ids=lambda tree: tree.name)
def test_truth_and_votes_obey_the_tree(tree):
    ids = np.arange(2000)
    _, truth = synthetic.truth(ids, tree=tree, seed=1, merger_fraction=0.2)
    votes = synthetic.draw_votes(truth, ids, seed=1, tree=tree)
    for fractions in (truth, votes):
        assert fractions.dtype == np.float32
        assert labels.tree_violation(fractions, tree).max() < 1e-6
        assert 0 <= fractions.min() <= fractions.max() <= 1
    people = np.rint(votes * 44)
    np.testing.assert_allclose(votes * 44, people, atol=1e-4)
    for question, parents in zip(tree.slices, tree.parents, strict=True):
        asked = people[:, list(parents)].sum(1) if parents else np.full(len(ids), 44)
        np.testing.assert_array_equal(people[:, question].sum(1), asked)


def test_nobody_answers_what_nobody_was_asked():
    truth = np.zeros((1, len(DECALS.columns)), np.float32)
    truth[0, [DECALS.index("smooth-or-featured_artifact")]] = 1
    np.testing.assert_array_equal(synthetic.draw_votes(truth, IDS[:1], seed=0, tree=DECALS), truth)


# Three galaxies of seed 0, many of which merge: a disk, an elliptical, an irregular; fractions in 1e-5, and votes.
KNOWN_TRUTH = (
    "29685 68450 1865 6116 62333 6233 56100 32103 30230 23793 32499 6022 19 10433 89567 26 9790 19869 219 584 "
    "1314 3296 4379 584 58 269 523 5324 1322 11307 19474 1337 12432 1337 134 134 16731",
    "83621 13280 3098 159 13121 1312 11809 1575 11547 0 0 57 13064 10433 89567 81361 2256 4 290 774 1742 968 "
    "5807 774 77 145 14 0 1123 411 41 45 180 45 22 22 1260",
    "29839 68293 1869 820 67473 6747 60726 8097 59376 9111 38259 20021 82 61064 38936 22161 7659 18 559 1490 "
    "3353 42845 11177 1490 149 28 3 789 5380 2455 262 231 925 231 116 116 6477",
)
KNOWN_VOTES = (
    "15 29 0 1 28 3 25 14 14 7 18 3 0 8 36 0 5 10 1 0 3 2 1 1 0 0 0 1 1 2 11 1 4 0 0 0 9",
    "33 8 3 0 8 0 8 1 7 0 0 0 8 3 41 32 1 0 0 0 1 0 2 0 0 0 0 0 1 0 0 0 0 0 0 0 1",
    "20 24 0 0 24 2 22 4 20 4 12 8 0 27 17 17 3 0 0 2 1 19 5 0 0 0 0 0 2 2 0 1 0 0 0 0 3",
)


def test_galaxy_zoo_2_stays_as_it_is():
    ids = np.array([100_001, 100_002, 100_006])
    _, truth = synthetic.truth(ids, seed=0, merger_fraction=0.3)
    np.testing.assert_allclose(truth * 1e5, [[*map(int, row.split())] for row in KNOWN_TRUTH], atol=0.6)
    votes = synthetic.draw_votes(truth, ids, seed=0) * 44
    np.testing.assert_allclose(votes, [[*map(int, row.split())] for row in KNOWN_VOTES], atol=1e-4)
    dataset = synthetic.make_dataset(60, seed=1, size=24)
    assert dataset.fingerprint == "090e4d19940bb119"


def _of(tree, answer, **fields):
    """The conditional fraction of an answer for `_galaxy`."""
    fractions = labels.conditional(synthetic.true_fractions(_galaxy(**fields), tree), tree)
    return float(fractions[0, tree.index(answer)])


def test_both_trees_are_of_the_same_galaxies():
    (a, two), (b, five) = (synthetic.truth(IDS, tree=tree, seed=3) for tree in (GZ2, DECALS))
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)
    for column, key in (
        ("Class1.1", "smooth-or-featured_smooth"),
        ("Class2.1", "disk-edge-on_yes"),
        ("Class4.1", "has-spiral-arms_yes"),
        ("Class7.3", "how-rounded_cigar-shaped"),
        ("Class9.1", "edge-on-bulge_rounded"),
        ("Class9.2", "edge-on-bulge_boxy"),
        ("Class10.1", "spiral-winding_tight"),
        ("Class11.6", "spiral-arm-count_cant-tell"),
    ):
        np.testing.assert_array_equal(two[:, GZ2.index(column)], five[:, DECALS.index(key)])


def test_bars_and_bulges_by_hand():
    # pixel 1 and brightness 0.2: sharp = 1 / (1 + exp(-2.6 / 0.7)) / (1 + exp(-(3 + ln 0.2) / 0.4)) = 0.946930
    # axis ratio 0.9: face_on = 1 / (1 + exp(-0.56 / 0.05)) = 0.999986. A bar of 1 is seen as 0.962838.
    assert _of(DECALS, "bar_strong", bar=1.0) == pytest.approx(1 / (1 + np.exp(-(0.962838 - 0.62) / 0.09)), abs=1e-5)
    assert _of(DECALS, "bar_no", bar=0.0) == pytest.approx(1 / (1 + np.exp(-0.28 / 0.09)), abs=1e-5)
    assert _of(DECALS, "bar_weak", bar=0.45) > 0.7
    sizes = ("none", "small", "moderate", "large", "dominant")
    for share, size in zip((0.0, 0.12, 0.28, 0.5, 0.8), sizes, strict=True):
        assert max(sizes, key=lambda s: _of(DECALS, f"bulge-size_{s}", bulge_fraction=share)) == size
    # 0.28 lies 0.09 above the border of small and 0.08 below that of large; widths are 0.05
    moderate = 1 / (1 + np.exp(-0.09 / 0.05)) - 1 / (1 + np.exp(0.08 / 0.05))
    assert _of(DECALS, "bulge-size_moderate", bulge_fraction=0.28) == pytest.approx(moderate, abs=1e-5)


def test_merging_by_hand():
    shares = np.array([1, 0.06, 0.015, 0.012]) / 1.087
    for answer, share in zip(DECALS.questions[-1].answers, shares, strict=True):
        assert _of(DECALS, f"merging_{answer}") == pytest.approx(share, abs=1e-6)
    total = 0.25 + 0.56 + 0.515 + 0.012
    assert _of(DECALS, "merging_minor-disturbance", disturbed=1.0) == pytest.approx(0.56 / total, abs=1e-6)
    pair = {"is_merger": True, "companion_flux": 0.9, "companion_separation": 30.0, "disturbed": 0.5}
    assert _of(DECALS, "merging_merger", **pair) > 0.4
    major = [_of(DECALS, "merging_major-disturbance", **pair, tails=tails) for tails in (0.0, 0.5, 1.0)]
    assert major == sorted(major)


def test_means_of_the_second_tree_are_plausible():
    parameters, truth = synthetic.truth(np.arange(4000), tree=DECALS, seed=6)
    means = dict(zip(DECALS.keys, truth.mean(0), strict=True))
    assert 0.02 < means["merging_merger"] < 0.05
    assert 0.02 < means["merging_major-disturbance"] < means["merging_minor-disturbance"] < 0.12
    assert 0.1 < (means["bar_strong"] + means["bar_weak"]) / means["disk-edge-on_no"] < 0.45
    assert means["bar_strong"] < means["bar_weak"]
    for size in DECALS.questions[4].answers:
        assert 0.05 < means[f"bulge-size_{size}"] / means["disk-edge-on_no"] < 0.45
    merger = truth[:, DECALS.index("merging_merger")]
    assert merger[parameters.is_merger].mean() > 10 * merger[~parameters.is_merger].mean()


def _tree(*questions):
    """A tree of some questions; answers that lead to one and are not in the tree are left out."""
    keys = {key for q in questions for key in q.keys}
    kept = [q._replace(after=tuple(k for k in q.after if k in keys)) for q in questions]
    return labels.Tree("some", tuple(kept))


def _question(tree, name):
    return next(q for q in tree.questions if q.name == name)


def test_a_tree_of_some_questions_has_their_conditional_fractions():
    whole = synthetic.true_fractions(synthetic.draw_parameters(IDS, seed=0), DECALS)
    chances = np.asarray(labels.conditional(whole, DECALS))
    merging, bar, smooth = (_question(DECALS, name) for name in ("merging", "bar", "smooth-or-featured"))
    for tree in (_tree(smooth), _tree(bar, smooth), _tree(merging, smooth, _question(GZ2, "odd"))):
        found, votes = _truth_and_votes(tree, IDS)
        for q, where in zip(tree.questions, tree.slices, strict=True):
            if q in DECALS.questions or q.name == "bar":
                same = [DECALS.keys.index(key) for key in q.keys]
                np.testing.assert_allclose(labels.conditional(found, tree)[:, where], chances[:, same], atol=2e-6)
        assert labels.tree_violation(found, tree).max() < 1e-6
        assert labels.tree_violation(votes, tree).max() < 1e-6
    one_parent = labels.Tree("one", (smooth, merging._replace(after=("smooth-or-featured_smooth",))))
    found, _ = _truth_and_votes(one_parent, IDS)
    np.testing.assert_allclose(found[:, 3:], chances[:, :1] * chances[:, DECALS.slices[-1]], atol=1e-6)


def _truth_and_votes(tree, ids):
    _, found = synthetic.truth(ids, tree=tree, seed=0)
    return found, synthetic.draw_votes(found, ids, seed=0, tree=tree)


def test_data_sets_of_several_trees():
    smooth = _question(DECALS, "smooth-or-featured")
    trees = [GZ2, DECALS, _tree(smooth), _tree(smooth._replace(columns=("a", "b", "c")))]
    datasets = [synthetic.make_dataset(20, tree=tree, seed=1, size=16) for tree in trees]
    assert len({d.fingerprint for d in datasets}) == 4
    images = [d.splits["train"].read(np.arange(3))["image"] for d in datasets]
    for tree, dataset, image in zip(trees, datasets, images, strict=True):
        assert dataset.tree == tree
        assert dataset.splits["test"].read(np.arange(1))["vote_fractions"].shape == (1, len(tree.columns))
        np.testing.assert_array_equal(image, images[0])
    renamed = labels.from_dict({**labels.as_dict(GZ2), "name": "mine", "citation": "me"})
    assert synthetic.make_dataset(20, tree=renamed, seed=1, size=16).fingerprint == datasets[0].fingerprint


def test_a_tree_that_cannot_be_answered():
    bar = _question(DECALS, "bar")._replace(after=())
    other = labels.Tree(
        "my survey", (bar._replace(answers=bar.answers[::-1]), bar._replace(name="clumps", columns=tuple("xyz")))
    )
    with pytest.raises(
        UserError,
        match=r"no votes for these questions of my survey: bar, clumps\. They have votes for questions of Galaxy Zoo 2",
    ):
        synthetic.make_dataset(20, tree=other, seed=1, size=16)


def test_votes_are_binomial_about_the_truth():
    _, truth = synthetic.truth(np.array([100_003]), seed=2)
    draws = synthetic.draw_votes(np.repeat(truth, 6000, 0), np.arange(6000), seed=3).astype(np.float64)
    p = truth[0].astype(np.float64)
    error = np.sqrt(p * (1 - p) / 44 / 6000)
    # An answer down the tree is still given by each of the 44 with its joint probability.
    assert (np.abs(draws.mean(0) - p) < 4.5 * error + 1e-6).all()
    np.testing.assert_allclose(draws.var(0)[:3], (p * (1 - p) / 44)[:3], rtol=0.1)


@pytest.mark.parametrize("fraction", [0.0, 0.005, 0.04, 0.2, 1.0])
def test_merger_fraction(fraction):
    n = 4000
    drawn = synthetic.draw_parameters(np.arange(n), seed=4, merger_fraction=fraction)
    assert abs(drawn.is_merger.mean() - fraction) <= 4 * np.sqrt(fraction * (1 - fraction) / n)
    base = synthetic.draw_parameters(np.arange(n), seed=4, merger_fraction=0.0)
    others = ~drawn.is_merger
    for a, b in zip(_take(drawn, others), _take(base, others), strict=True):
        np.testing.assert_array_equal(a, b)


def test_mergers_are_called_mergers():
    parameters, truth = synthetic.truth(np.arange(3000), seed=5, merger_fraction=0.3)
    merger = truth[:, GZ2.index("Class8.6")]
    assert merger[parameters.is_merger].mean() > 10 * merger[~parameters.is_merger].mean()


def test_label_means_are_near_the_real_ones(galaxy_zoo_sample):
    with zipfile.ZipFile(galaxy_zoo_sample / "training_solutions_rev1.zip") as file:
        text = file.read("training_solutions_rev1.csv").decode()
    real = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)[:, 1:]
    ids = np.arange(4000)
    votes = synthetic.draw_votes(synthetic.truth(ids, seed=6)[1], ids, seed=6)
    assert np.abs(votes.mean(0) - real.mean(0)).max() < 0.04
    assert 0.16 < np.sqrt(votes.var(0).mean()) < 0.18  # guessing the means


@pytest.mark.parametrize("kind", [DISK, ELLIPTICAL])
def test_light_is_centred(kind):
    galaxy = _galaxy(kind=kind, bulge_fraction=float(kind == ELLIPTICAL), axis_ratio=0.6)
    for size, field in ((68, 204), (424, 424), (51, 204)):
        centre, _ = _moments(_light(galaxy, size=size, field=field))
        assert np.abs(centre).max() < 0.02


@pytest.mark.parametrize("axis_ratio", [0.3, 0.5, 0.7, 1.0])
def test_measured_axis_ratio(axis_ratio):
    for kind in (DISK, ELLIPTICAL):
        galaxy = _galaxy(kind=kind, bulge_fraction=float(kind == ELLIPTICAL), axis_ratio=axis_ratio, bulge_radius=14.0)
        _, measured = _moments(_light(galaxy, size=204))
        assert abs(measured - axis_ratio) < 0.05


def test_position_angle_turns_the_galaxy():
    a = _light(_galaxy(axis_ratio=0.4, position_angle=0.3, bar=0.8))
    b = _light(_galaxy(axis_ratio=0.4, position_angle=0.3 + np.pi / 2, bar=0.8))
    np.testing.assert_allclose(np.rot90(a), b, atol=4)  # counter-clockwise, y up


def test_arms_have_their_symmetry():
    def asymmetry(quarter_turns, **arms):
        image = _light(_galaxy(arm_strength=0.9, axis_ratio=1.0, bulge_fraction=0.05, **arms), size=102)
        return np.abs(image - np.rot90(image, quarter_turns)).max()

    assert asymmetry(2, arms=2) <= 3 < 60 < asymmetry(1, arms=2)  # three bands, each rounded
    assert asymmetry(1, arms=4) <= 3
    assert asymmetry(2, arms=3) > 60
    assert (
        np.abs(_light(_galaxy(arms=2, arm_strength=0.9)) - _light(_galaxy(arms=2, arm_strength=0.9, pitch=-0.3))).max()
        > 60
    )


def test_cutout_is_the_box_average_of_the_large_image():
    parameters = synthetic.draw_parameters(IDS, seed=3)
    large = synthetic.render(parameters, size=424, field=424, noise=False)[:, 110:314, 110:314]
    averaged = large.reshape(len(IDS), 68, 3, 68, 3, 3).mean((2, 4))
    difference = np.abs(averaged - synthetic.render(parameters, size=68, field=204, noise=False))
    # They part where the stretch bends within a pixel: the cores of sharp stars and thin disks.
    assert difference.mean() < 0.25
    assert np.percentile(difference, 99) < 1.5
    assert difference.max() < 40


def test_sky_noise_agrees_between_sizes():
    parameters = _take(synthetic.draw_parameters(IDS, seed=3)._replace(sources=np.zeros(len(IDS))), slice(8))
    large = synthetic.render(parameters, size=424, field=424)[:, 110:314, 110:314]
    averaged = large.reshape(8, 68, 3, 68, 3, 3).mean((2, 4))[:, :12, :12]
    small = synthetic.render(parameters, size=68)[:, :12, :12]
    np.testing.assert_allclose(small.mean(), averaged.mean(), rtol=0.2)
    np.testing.assert_allclose(small.std(), averaged.std(), rtol=0.25)


def test_make_dataset():
    dataset = synthetic.make_dataset(40, seed=1, size=16)
    sizes = {name: split.size for name, split in dataset.splits.items()}
    assert sizes["train"] + sizes["validation"] == 40
    assert sizes["test"] == 4
    records = {name: split.read(np.arange(split.size)) for name, split in dataset.splits.items()}
    ids = np.concatenate([r["galaxy_id"] for r in records.values()])
    assert len(np.unique(ids)) == 44
    assert np.isnan(records["test"]["vote_fractions"]).all()
    back = dataset.splits["train"].read(np.array([5, 2]))
    assert back["image"].shape == (2, 16, 16, 3)
    assert back["image"].dtype == np.uint8
    parameters, truth = synthetic.truth(back["galaxy_id"], seed=1)
    np.testing.assert_array_equal(back["image"], synthetic.render(parameters, size=16))
    np.testing.assert_array_equal(back["vote_fractions"], synthetic.draw_votes(truth, back["galaxy_id"], seed=1))
    assert dataset.fingerprint == synthetic.make_dataset(40, seed=1, size=16).fingerprint
    others = [synthetic.make_dataset(40, **a).fingerprint for a in ({"seed": 2, "size": 16}, {"seed": 1, "size": 18})]
    assert len({dataset.fingerprint, *others}) == 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num_galaxies": 0}, "at least 1"),
        ({"merger_fraction": 1.5}, "merger fraction"),
        ({"validation_fraction": 0.0}, "empty"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments(arguments, word):
    with pytest.raises(UserError, match=word):
        synthetic.make_dataset(**{"num_galaxies": 10, "seed": 0, "size": 16, **arguments})


def _read(layout, folder):
    """{name: bytes} of all files, whatever the layout."""
    if layout == "folders":
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}
    zips = [zipfile.ZipFile(path) for path in folder.glob("*.zip")]
    if layout == "one zip":
        zips = [zipfile.ZipFile(io.BytesIO(zips[0].read(name))) for name in zips[0].namelist()]
    assert len(zips) == 3
    return {name: z.read(name) for z in zips for name in z.namelist()}


@pytest.mark.parametrize("layout", ["zips", "folders", "one zip"])
def test_kaggle_files(layout, tmp_path):
    synthetic.write_kaggle_files(tmp_path, 5, seed=9, num_test=2, size=64, layout=layout)
    expected = {"one zip": {"galaxy-zoo-the-galaxy-challenge.zip"}}.get(
        layout,
        {n + (".zip" if layout == "zips" else "") for n in ("images_training_rev1", "images_test_rev1")}
        | {"training_solutions_rev1" + (".zip" if layout == "zips" else ".csv")},
    )
    assert {p.name for p in tmp_path.iterdir()} == expected | {"synthetic_truth.csv"}
    files = _read(layout, tmp_path)
    rows = list(csv.reader(io.StringIO(files["training_solutions_rev1.csv"].decode())))
    assert rows[0] == ["GalaxyID", *GZ2.columns]
    ids = np.array([int(row[0]) for row in rows[1:]])
    parameters, truth = synthetic.truth(ids, seed=9)
    votes = np.array([row[1:] for row in rows[1:]], np.float32)
    np.testing.assert_array_equal(votes, synthetic.draw_votes(truth, ids, seed=9))
    assert sum(name.startswith("images_test_rev1/") for name in files) == 2
    for i, drawn in zip(ids, synthetic.render(parameters, size=64, field=424), strict=True):
        image = Image.open(io.BytesIO(files[f"images_training_rev1/{i}.jpg"]))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
        assert image.quantization[0][:4] == [8, 6, 5, 8]  # as in Kaggle's files
        assert np.abs(np.asarray(image).astype(float) - drawn).mean() < 4
    table = list(csv.DictReader((tmp_path / "synthetic_truth.csv").read_text().splitlines()))
    assert [int(row["GalaxyID"]) for row in table] == [*ids, *range(ids[-1] + 1, ids[-1] + 3)]
    assert [int(row["is_merger"]) for row in table[:5]] == parameters.is_merger.astype(int).tolist()
    np.testing.assert_allclose([float(row["Class1.1"]) for row in table[:5]], truth[:, 0], rtol=1e-6)


def test_command_refuses_to_overwrite(tmp_path, capsys):
    arguments = [str(tmp_path / "new"), "--num_galaxies=2", "--size=32", "--seed=1"]
    assert synthetic.main(arguments) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "new").iterdir()}
    assert len(before) == 4
    assert synthetic.main(arguments) == 2
    assert "already holds" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in (tmp_path / "new").iterdir()} == before
