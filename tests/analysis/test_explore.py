"""The streamed summary against NumPy over all labels at once."""

import numpy as np
import pytest
from galaxies import fractions, holes
from scipy import stats

from gz_jax.analysis import evaluate, explore
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return fractions(701, seed=3)


def summary_of(labels: np.ndarray, sizes: list[int], ids: np.ndarray | None = None) -> explore.LabelSummary:
    ids = np.arange(len(labels)) + 100_000 if ids is None else ids
    edges = np.cumsum(sizes)[:-1]
    return explore.summarise(zip(np.split(ids, edges), np.split(labels, edges), strict=True), GALAXY_ZOO_2)


@pytest.mark.parametrize("sizes", [[701], [1, 700], [100, 0, 300, 301]])
def test_one_pass_in_any_blocks_equals_numpy(labels, sizes):
    summary = summary_of(labels, sizes)
    exact = labels.astype(np.float64)
    assert summary.count == summary.seen == 701
    np.testing.assert_allclose(summary.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(explore.std(summary), exact.std(0), rtol=1e-12)
    np.testing.assert_allclose(explore.correlation(summary), np.corrcoef(exact.T), atol=1e-12)  # equation 1
    np.testing.assert_array_equal(summary.low, exact.min(0))
    np.testing.assert_array_equal(summary.high, exact.max(0))
    np.testing.assert_array_equal(summary.prototype, exact.argmax(0))
    q = (0.05, 0.5, 0.95)
    expected = np.quantile(exact, q, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(explore.quantiles(summary, q), expected, atol=0.5 / explore.STEPS + 1e-9)


def test_equation_1_as_printed(labels):
    x = labels.astype(np.float64)
    i, j = x[:, 0], x[:, 15]
    printed = (np.mean(i * j) - np.mean(i) * np.mean(j)) / np.sqrt(
        (np.mean(i**2) - np.mean(i) ** 2) * (np.mean(j**2) - np.mean(j) ** 2)
    )
    assert explore.correlation(summary_of(labels, [300, 401]))[0, 15] == pytest.approx(printed, abs=1e-12)


def test_a_label_that_never_varies_has_no_correlation(labels):
    constant = labels.copy()
    constant[:, 5] = 0.25
    correlation = explore.correlation(summary_of(constant, [701]))
    assert np.isnan(correlation[5]).all()
    assert np.isfinite(np.delete(np.delete(correlation, 5, 0), 5, 1)).all()


def test_prototypes_among_equals_take_the_lowest_id_whatever_the_order(labels):
    tied = labels.copy()
    tied[[10, 400, 600], 0] = 1.0
    ids = np.arange(len(tied))
    ids[[10, 400, 600]] = [9_000, 5_000, 7_000]
    for sizes in ([701], [50, 651], [500, 201]):
        summary = summary_of(tied, sizes, ids)
        assert (summary.prototype[0], summary.prototype_id[0]) == (400, 5_000)


def test_histograms_and_ks_distance(labels):
    a, b = summary_of(labels[:400], [400]), summary_of(labels[400:], [301])
    grid = np.rint(labels.astype(np.float64) * explore.STEPS) / explore.STEPS
    for j in (0, 14, 23):
        counted = np.histogram(grid[:400, j] + 1e-9, np.linspace(0, 1, 21))[0] / 400
        counted[-1] += (grid[:400, j] == 1).sum() / 400
        np.testing.assert_allclose(explore.histograms(a)[j], counted, atol=1e-12)
        expected = stats.ks_2samp(grid[:400, j], grid[400:, j]).statistic
        assert explore.ks_distance(a, b)[j] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(explore.histograms(a).sum(1), 1)


def test_guess_rmse_is_that_of_the_training_means(labels):
    a, b = summary_of(labels[:400], [400]), summary_of(labels[400:], [301])
    expected = np.sqrt(np.mean((labels[400:] - labels[:400].mean(0, dtype=np.float64)) ** 2))
    assert explore.guess_rmse(a, b) == pytest.approx(expected, rel=1e-7)


def test_galaxies_without_labels_are_counted_and_left_out(labels):
    holes = labels.copy()
    holes[[0, 5, 700]] = np.nan
    summary = summary_of(holes, [3, 698])
    known = np.isfinite(holes).all(1)
    assert (summary.seen, summary.count) == (701, 698)
    np.testing.assert_allclose(summary.mean, holes[known].mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_array_equal(summary.prototype, np.where(known[:, None], labels, -1).argmax(0))
    with pytest.raises(UserError, match="none of the 4 galaxies"):
        summary_of(np.full((4, 37), np.nan), [4])


@pytest.mark.parametrize("sizes", [[701], [1, 700], [100, 0, 300, 301]])
def test_partly_known_labels_are_summed_up_over_the_known(labels, sizes):
    partly = holes(labels)
    partly[5] = np.nan
    summary, exact = summary_of(partly, sizes), partly[:, :31].astype(np.float64)
    known, no_labels = np.isfinite(exact), slice(31, 37)
    assert (summary.seen, summary.count) == (701, 700)
    np.testing.assert_array_equal(summary.known, [*known.sum(0), *[0] * 6])
    np.testing.assert_allclose(summary.mean[:31], np.nanmean(exact, 0), rtol=1e-12)
    np.testing.assert_allclose(explore.std(summary)[:31], np.nanstd(exact, 0), rtol=1e-12)
    np.testing.assert_array_equal(summary.low[:31], np.nanmin(exact, 0))
    np.testing.assert_array_equal(summary.high[:31], np.nanmax(exact, 0))
    np.testing.assert_array_equal(summary.prototype[:31], np.nanargmax(exact, 0))
    correlation = explore.correlation(summary)
    for i in range(31):
        for j in range(31):
            both = known[:, i] & known[:, j]
            pearson = stats.pearsonr(exact[both, i], exact[both, j]).statistic
            assert correlation[i, j] == pytest.approx(pearson, abs=1e-12)
    grid = np.rint(exact * explore.STEPS) / explore.STEPS
    quantiles, shares = explore.quantiles(summary, (0.05, 0.5, 0.95)), explore.histograms(summary)
    for j in range(31):
        column = grid[known[:, j], j]
        np.testing.assert_allclose(quantiles[:, j], np.quantile(column, (0.05, 0.5, 0.95), method="inverted_cdf"))
        counted = np.histogram(np.minimum(column + 1e-9, 1), np.linspace(0, 1, 21))[0]
        np.testing.assert_allclose(shares[j], counted / len(column), atol=1e-12)
    for nothing in (summary.mean, explore.std(summary), quantiles.T, shares, correlation, correlation.T):
        assert np.isnan(nothing[no_labels]).all()


def test_two_sides_of_partly_known_labels(labels):
    a, b = holes(labels[:400]), holes(labels[400:], seed=1)
    first, second = summary_of(a, [150, 250]), summary_of(b, [301])
    distance = explore.ks_distance(first, second)
    for j in range(31):
        x, y = (np.rint(side[np.isfinite(side[:, j]), j].astype(np.float64) * explore.STEPS) for side in (a, b))
        assert distance[j] == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-12)
    assert np.isnan(distance[31:]).all()
    means = np.nan_to_num(first.mean)[None].repeat(301, 0)
    expected = np.sqrt(evaluate.squared_error(b, means).mean())
    assert explore.guess_rmse(first, second) == pytest.approx(expected, rel=1e-12)
    rows = explore.label_table(first, second, GALAXY_ZOO_2)
    assert [row["galaxies"] for row in rows] == np.isfinite(a).sum(0).tolist()
    assert "galaxies" not in explore.label_table(summary_of(labels, [701]), None, GALAXY_ZOO_2)[0]


def test_prototypes_by_texts_take_the_first_in_their_order(labels):
    tied = holes(labels)
    tied[[10, 400, 600], 0] = 1.0
    ids = np.array([f"g{i:03d}" for i in range(701)])
    ids[[10, 400, 600]] = ["J9 of a long name", "J10", "J7"]
    for sizes in ([701], [50, 651], [500, 201]):
        summary = summary_of(tied, sizes, ids)
        assert (summary.prototype[0], summary.prototype_id[0]) == (400, "J10")
        np.testing.assert_array_equal(summary.prototype_id[:31], ids[summary.prototype[:31]])
        assert not np.isfinite(summary.high[31:]).any()


def test_the_size_of_a_summary_does_not_grow(labels):
    size = [np.asarray(part).nbytes for part in summary_of(labels[:10], [10])]
    assert [np.asarray(part).nbytes for part in summary_of(labels, [701])] == size


def test_table_has_a_row_for_each_answer(labels):
    a = summary_of(labels, [701])
    rows = explore.label_table(a, a, GALAXY_ZOO_2)
    assert [row["column"] for row in rows] == list(GALAXY_ZOO_2.columns)
    assert rows[23]["answer"] == "merger"
    assert all(row["KS distance"] == 0 for row in rows)


def test_real_sample_has_the_known_guess_rmse(galaxy_zoo_sample):
    import io
    import zipfile

    with zipfile.ZipFile(galaxy_zoo_sample / "training_solutions_rev1.zip") as archive:
        text = archive.read("training_solutions_rev1.csv").decode()
    rows = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)
    summary = summary_of(rows[:, 1:], [1000, len(rows) - 1000], rows[:, 0].astype(np.int64))
    assert explore.guess_rmse(summary, summary) == pytest.approx(0.1746, abs=5e-5)
    np.testing.assert_allclose(explore.correlation(summary), np.corrcoef(rows[:, 1:].T), atol=1e-12)
