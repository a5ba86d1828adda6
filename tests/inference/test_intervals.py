"""Intervals of one galaxy's fractions: right where the truth is known, the same in tables, folders and in Python."""

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats
from test_predict import QUIET, encode, make_workdir, picture
from test_shared import exported

import gz_jax
from gz_jax import labels, posterior
from gz_jax.inference import conformal, intervals, tables, trained
from gz_jax.inference.predict import predict_arrays, predict_catalogue, write_validation
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.runtime.errors import UserError

COLUMNS = GALAXY_ZOO_2.columns
ONE = labels.from_dict(
    {"name": "one", "questions": [{"name": "shape", "text": "shape?", "answers": ["a", "b"], "columns": ["a", "b"]}]},
    "here",
)


def votes_and_guesses(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Votes of 44 volunteers down the tree, and a network that knows their fractions roughly."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, 37)).astype(np.float32)
    true = np.asarray(labels.rescale(logits, "softmax"))
    guess = np.asarray(labels.rescale(logits + rng.normal(0, 0.5, logits.shape).astype(np.float32), "softmax"))
    return np.clip(true + rng.normal(0, np.sqrt(true * (1 - true) / 44 + 1e-9)), 0, 1).astype(np.float32), guess


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_conformal_intervals_hold_as_many_other_galaxies_as_they_say(level):
    votes, guess = votes_and_guesses(6000, 0)
    found = conformal.calibrate(votes[:2000], guess[:2000], GALAXY_ZOO_2)
    conditional = np.asarray(labels.conditional(guess[2000:]))
    low, high, _, _ = np.moveaxis(conformal.of_calibration(guess[2000:], conditional, found, level), 1, 0)
    share = ((low <= votes[2000:]) & (votes[2000:] <= high)).mean(0)
    spread = 4 * np.sqrt(level * (1 - level) * (1 / 2000 + 1 / 4000))  # of calibration and of test
    assert (np.abs(share - level) < spread + 0.003).all(), share


def test_the_width_is_an_error_of_the_calibration_galaxies_by_hand():
    predicted, votes = np.full((9, 2), 0.5), np.column_stack([0.5 + np.arange(9) / 100, 0.5 - np.arange(9) / 100])
    found = conformal.calibrate(votes, predicted, ONE)
    scale = np.sqrt(0.26)  # 0.5 * 0.5 + 0.01
    np.testing.assert_allclose(found.joint[[49, 79, 89]] * scale, [[0.04] * 2, [0.07] * 2, [0.08] * 2], rtol=1e-5)
    assert np.isinf(found.joint[90]).all()  # of nine, none is large enough for 91 %
    ends = conformal.of_calibration(predicted[:1], predicted[:1], found, 0.9)[0]
    np.testing.assert_allclose(ends[:, 0], [0.42, 0.58, 0.42, 0.58], atol=1e-6)
    np.testing.assert_array_equal(conformal.of_calibration(predicted[:1], predicted[:1], found, 0.91)[0, :2, 0], [0, 1])
    assert conformal.unpacked(conformal.packed(found), ONE) is not None
    for part, other in zip(found, conformal.unpacked(conformal.packed(found), ONE), strict=True):
        np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize(
    "values",
    [
        None,
        3,
        [],
        [[1]],
        [[["x"] * 2] * 99] * 2,
        [[[-1.0] * 2] * 99] * 2,
        [[[1.0]] * 99] * 2,
        [[[1.1]] * 99],  # a level above 1
        [[[1.0] * 2] * 99],  # of a tree with two questions
    ],
)
def test_a_calibration_that_is_none_is_left_out(values):
    assert conformal.unpacked(values, ONE) is None


def test_one_dirichlet_networks_intervals_are_its_beta_distributions():
    a = np.random.default_rng(0).uniform(0.5, 20, (1, 4, 37))
    ends = intervals.of_concentrations([a], GALAXY_ZOO_2, 0.9)
    for own in GALAXY_ZOO_2.slices:
        rest = a[0][:, own].sum(1, keepdims=True) - a[0][:, own]
        for k, at in ((2, 0.05), (3, 0.95)):
            np.testing.assert_allclose(ends[:, k, own], stats.beta.ppf(at, a[0][:, own], rest), rtol=1e-4, atol=1e-6)
    first = GALAXY_ZOO_2.slices[0]  # asked of everybody
    np.testing.assert_array_equal(ends[:, 0, first], ends[:, 2, first])
    twice = intervals.of_concentrations([a, a], GALAXY_ZOO_2, 0.9)
    np.testing.assert_allclose(twice, ends, rtol=1e-5)
    apart = intervals.of_concentrations([a, 20 * a[:, :, ::-1]], GALAXY_ZOO_2, 0.9)
    assert (apart[:, 3] - apart[:, 2]).mean() > (ends[:, 3] - ends[:, 2]).mean()  # they disagree
    both = [posterior.draws(one, GALAXY_ZOO_2, 20_000).astype(np.float32) for one in (a[0], 20 * a[0, :, ::-1])]
    deviation = np.concatenate([labels.joint(one, GALAXY_ZOO_2) for one in both]).std(0)
    np.testing.assert_allclose(apart[:, 4], deviation, rtol=0.05)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(encode(picture(i), "JPEG"))
    (folder / "bad.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A network with its table of validation galaxies."""
    path = make_workdir(tmp_path_factory.mktemp("runs") / "one")
    votes, guess = votes_and_guesses(300, 1)
    (path / "report").mkdir()
    network = trained.load(path)
    write_validation(
        path / "report" / "validation.parquet", np.arange(300), votes, guess, GALAXY_ZOO_2, [network.identity], "none"
    )
    (path / "report" / "metrics.json").write_text("{}")
    return path


def table_of(output):
    return parquet.read_table(tables.shards(output)[0]).to_pandas()


def test_columns_hold_the_prediction_and_widen_with_the_level(judged, images, tmp_path, capsys):
    network = trained.load(judged)
    made = {
        level: table_of(predict_catalogue(str(images), tmp_path / str(level), [network], interval=level, batch_size=4))
        for level in (0.5, 0.9)
    }
    said = capsys.readouterr().out
    assert "intervals of 90 %, as wide as the errors on the validation galaxies; they hold for as many votes as" in said
    plain = table_of(predict_catalogue(str(images), tmp_path / "plain", [network], batch_size=4, **QUIET))
    assert not any(name.startswith(tables.ENDS) for name in plain)
    for level, table in made.items():
        assert tables.manifest(tmp_path / str(level))["settings"]["interval_kind"] == "conformal"
        for name in COLUMNS:
            np.testing.assert_array_equal(table[name], plain[name])
            for prefix in ("", "cond_"):
                good = table["flag"] < 2
                middle = table[prefix + name][good]
                low, high = (table[f"{prefix}{end}{name}"][good] for end in ("low_", "high_"))
                assert ((low >= 0) & (low <= middle + 1e-6) & (middle <= high + 1e-6) & (high <= 1)).all()
                assert table[f"{prefix}low_{name}"][~good].isna().all()
    wide, narrow = ((made[x]["high_Class1.1"] - made[x]["low_Class1.1"]).mean() for x in (0.9, 0.5))
    assert wide > 1.5 * narrow > 0


def test_a_shared_network_has_the_same_intervals(judged, images, tmp_path):
    folder = exported(judged, tmp_path / "shared")
    ours, theirs = (gz_jax.predict(where, images, interval=0.9) for where in (judged, folder))
    assert [name for name in ours if name.startswith("low_")] == [f"low_{name}" for name in COLUMNS]
    np.testing.assert_array_equal(ours.select_dtypes("number"), theirs.select_dtypes("number"))
    with pytest.raises(UserError, match="has the calibration of its intervals only for one view: use --views=1"):
        gz_jax.predict(folder, images, views=8, interval=0.9)


def test_dirichlet_outputs_are_their_own_intervals(images, tmp_path):
    path = make_dirichlet(tmp_path / "net")
    network = trained.load(path, views=8)
    pictures = np.stack([np.asarray(picture(i)) for i in range(4)])
    found = predict_arrays(pictures, network, interval=0.8)[1]
    plain = predict_arrays(pictures, network)[1]
    np.testing.assert_allclose(found.fractions, plain.fractions, atol=1e-6)
    assert found.interval.shape == (4, 5, 37)
    middling = (found.conditional > 0.2) & (found.conditional < 0.8)  # the mean of a skewed distribution may be outside
    assert middling.any()
    for k, sign in ((2, 1), (3, -1)):
        assert (sign * (found.conditional - found.interval[:, k])[middling] > 0).all()
    output = predict_catalogue(str(images), tmp_path / "out", [trained.load(path)], interval=0.8, batch_size=4, **QUIET)
    assert tables.manifest(output)["settings"]["interval_kind"] == "dirichlet"
    np.testing.assert_array_equal(
        table_of(output)["cond_high_Class1.1"][:3],
        predict_arrays([images / f"{i}.jpg" for i in range(3)], path, interval=0.8, batch_size=4)[1].interval[:, 3, 0],
    )


def test_dirichlet_intervals_are_calibrated_by_the_table_of_validation_galaxies(images, tmp_path, capsys):
    """Where 90 % of the votes lay in intervals of 50 %, these are what --interval=0.9 gives; elsewhere as they are."""
    path, bare = make_dirichlet(tmp_path / "net"), make_dirichlet(tmp_path / "bare")
    central = np.repeat(np.arange(1, 100)[:, None] / 100, 11, 1)
    central[89, :4] = 0.5
    network, votes = trained.load(path), votes_and_guesses(50, 1)[0]
    (path / "report").mkdir()
    (path / "report" / "metrics.json").write_text("{}")
    about = [network.identity], "none", conformal.Levels(central)
    write_validation(path / "report" / "validation.parquet", np.arange(50), votes, votes, GALAXY_ZOO_2, *about)

    def ends(where, level, **options):
        files = [images / f"{i}.jpg" for i in range(3)]
        return predict_arrays(files, where, interval=level, batch_size=4, **options)[1].interval

    found, half, whole = ends(path, 0.9), ends(bare, 0.5), ends(bare, 0.9)
    narrowed = np.array(GALAXY_ZOO_2.question_of) < 4
    np.testing.assert_array_equal(found, np.where(narrowed, half, whole))
    assert (half[:, 3] - half[:, 2]).mean() < (whole[:, 3] - whole[:, 2]).mean()
    np.testing.assert_array_equal(ends(path, 0.8), ends(bare, 0.8))
    np.testing.assert_array_equal(ends(path, 0.9, views=8), ends(bare, 0.9, views=8))  # there is no table of 8 views
    folder = exported(path, tmp_path / "shared")
    np.testing.assert_array_equal(ends(folder, 0.9), found)
    for where, text in (
        (path, "calibrated on the votes of validation galaxies"),
        (bare, "not calibrated: there is no"),
    ):
        predict_catalogue(str(images), tmp_path / f"of_{where.name}", [trained.load(where)], interval=0.9, batch_size=4)
        assert text in capsys.readouterr().out
        assert tables.manifest(tmp_path / f"of_{where.name}")["settings"]["interval_calibrated"] == (where == path)
    (path / "report" / "validation.parquet").rename(tmp_path / "table.parquet")
    with pytest.raises(UserError, match="was begun differently"):  # calibrated and other intervals are never mixed
        predict_catalogue(str(images), tmp_path / "of_net", [trained.load(path)], interval=0.9, batch_size=4, **QUIET)
    (tmp_path / "table.parquet").rename(path / "report" / "validation.parquet")
    other = make_dirichlet(tmp_path / "other", 1)
    assert intervals.levels_of([network, trained.load(other)]) is None  # the other has no table
    np.testing.assert_array_equal(intervals.levels_of([network, network]).central, central)


def make_dirichlet(path, seed=0):
    """A network of Dirichlet outputs that was never trained."""
    return make_workdir(path, seed, activation="dirichlet")


@pytest.mark.parametrize("level", [0, 1, -0.5, 0.905, 90])
def test_a_level_that_is_none_is_refused(judged, images, level):
    with pytest.raises(UserError, match=r"must be a level from 0\.01 to 0\.99"):
        gz_jax.predict(judged, images, interval=level)


def test_what_cannot_be_known_is_refused(judged, images, tmp_path):
    bare, other = make_workdir(tmp_path / "bare", 3), make_dirichlet(tmp_path / "other")
    with pytest.raises(UserError, match=r"there is no validation\.parquet of this network .* --mode=evaluate"):
        gz_jax.predict(bare, images, interval=0.9)
    with pytest.raises(UserError, match=r"no validation_8_views\.parquet .* --views=8 writes it"):
        gz_jax.predict(judged, images, views=8, interval=0.9)
    with pytest.raises(UserError, match="networks with Dirichlet outputs and others cannot be averaged"):
        gz_jax.predict([judged, other], images, interval=0.9)
