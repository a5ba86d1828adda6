"""The reports as files, and as a person meets them: in a browser, at a phone's and a desktop's width."""

import csv
import json
import pathlib

import numpy as np
import pytest
from browser import browser
from galaxies import ONE_QUESTION, history, holes, images, pair
from marks import no_warnings

from gz_jax.analysis import compare, evaluate, explore, page, report, report_data
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.runtime.errors import UserError

HOSTILE = '=HYPERLINK("http://example.org")<script>alert(1)</script>'
N = 50
TRUTH, PREDICTED = pair(N)
IDS = np.arange(N) + 100_000
CONTEXT = {"commit": "0123abc", "data fingerprint": "f" * 200, "config": {"seed": 0, "model": {"name": "cnn"}}}


def inputs() -> report.EvaluationInputs:
    unlabelled = report.TestSet(IDS + 50, pair(N, 3, 2.0)[1], images)
    return report.EvaluationInputs(
        name=HOSTILE,
        galaxy_id=IDS,
        truth=TRUTH,
        predicted=PREDICTED,
        tree=GALAXY_ZOO_2,
        history=history(6),
        images=images,
        views={"1 view": PREDICTED, "2 views": (PREDICTED + TRUTH) / 2},
        test=unlabelled,
        merger_threshold=0.05,
        context=CONTEXT,
        resamples=50,
        volunteers=np.full(N, 44),
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, pathlib.Path]:
    root = tmp_path_factory.mktemp("reports")
    side = explore.Side(lambda: [(IDS[:20], TRUTH[:20]), (IDS[20:], TRUTH[20:])], images)
    views = report_data.PipelineExamples(images(IDS[:2]), images(IDS[:2]), np.stack([images(IDS[:3])] * 2))
    report_data.explore_report(side, side, root / "explore", CONTEXT, views, tree=GALAXY_ZOO_2)
    report.evaluation_report(inputs(), root / "evaluate")
    runs = [compare.Run(name, 0, history(6), IDS, TRUTH, PREDICTED, GALAXY_ZOO_2) for name in ("a", HOSTILE)]
    report.compare_report(runs, root / "compare", CONTEXT, resamples=50)
    return {name: root / name for name in ("explore", "evaluate", "compare")}


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_numbers_in_the_files_are_those_of_the_computation(reports):
    folder = reports["evaluate"]
    metrics = json.loads((folder / "metrics.json").read_text())
    error = PREDICTED.astype(np.float64) - TRUTH
    assert metrics["galaxies"] == N
    assert metrics["mse"]["value"] == pytest.approx((error**2).mean())
    assert metrics["mse"]["low"] < metrics["mse"]["value"] < metrics["mse"]["high"]
    table = rows(folder / "per_answer.csv")
    assert [row["column"] for row in table] == list(GALAXY_ZOO_2.columns)
    np.testing.assert_allclose([float(row["rmse"]) for row in table], np.sqrt((error**2).mean(0)))
    assert all(float(row["rmse_low"]) <= float(row["rmse"]) <= float(row["rmse_high"]) for row in table)
    assert len(rows(folder / "per_question.csv")) == 11
    assert len(rows(folder / "history.csv")) == 6
    parts = rows(folder / "error_budget.csv")
    assert sum(float(row["part of the mean squared error"]) for row in parts) == pytest.approx((error**2).mean())
    noise = (TRUTH.astype(np.float64) * (1 - TRUTH) / 43).mean()
    assert metrics["noise of the votes"]["noise"] == pytest.approx(noise)
    assert sum(float(row["noise of the votes"]) for row in parts) == pytest.approx(noise)
    assert {name.name for name in (folder / "figures").glob("*.png")} == {
        name.with_suffix(".png").name for name in (folder / "figures").glob("*.pdf")
    }
    assert len(list((folder / "figures").glob("*.png"))) == 12
    assert not list(folder.rglob(".*"))


@pytest.mark.slow
def test_every_table_of_the_page_is_in_the_metrics(reports):
    for folder in reports.values():
        tables = json.loads((folder / "metrics.json").read_text())["tables"]
        assert {f"{name}.csv" for name in tables} == {path.name for path in folder.glob("*.csv")}


@pytest.mark.slow
def test_hostile_text_is_only_text(reports):
    html = (reports["evaluate"] / "report.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    table = rows(reports["compare"] / "runs.csv")
    assert table[1]["run"] == "'" + HOSTILE


@pytest.mark.slow
def test_pages_of_synthetic_galaxies_say_so(reports, tmp_path):
    assert not any("synthetic" in (folder / "report.html").read_text() for folder in reports.values())
    config = {"data.source": "synthetic"}
    about = {"config": config}
    report.evaluation_report(inputs()._replace(context=about, images=None), tmp_path / "evaluate")
    side = explore.Side(lambda: [(IDS, TRUTH)], images)
    report_data.explore_report(side, None, tmp_path / "explore", about, tree=GALAXY_ZOO_2)
    runs = [compare.Run(name, 0, history(3), IDS, TRUTH, PREDICTED, GALAXY_ZOO_2, config) for name in "ab"]
    report.compare_report(runs, tmp_path / "compare", resamples=20)
    for name in reports:
        assert 'class="note">The galaxies of this page are synthetic' in (tmp_path / name / "report.html").read_text()


@pytest.mark.slow
def test_one_galaxy_and_no_images_and_no_log_still_make_a_report(tmp_path):
    numbers = report.evaluation_report(
        report.EvaluationInputs("one", IDS[:1], TRUTH[:1], PREDICTED[:1], GALAXY_ZOO_2, resamples=20),
        tmp_path / "deep" / "er",
    )
    assert numbers["galaxies"] == 1
    json.loads((tmp_path / "deep" / "er" / "metrics.json").read_text())


@pytest.mark.slow
@no_warnings
def test_partly_known_labels_and_names_make_pages_with_the_scores_of_labelled_test_galaxies(tmp_path):
    names, truth = np.array([f"SDSS J{i}+45 $x" for i in IDS]), holes(TRUTH)
    seen = []
    tested, guess = pair(N, 3, 2.0)
    tested = holes(tested)
    tested[:20] = np.nan
    test = report.TestSet(np.char.add("T", names), guess, images, tested)
    numbers = report.evaluation_report(inputs()._replace(galaxy_id=names, truth=truth, test=test), tmp_path)
    assert numbers["rmse"].value == pytest.approx(np.sqrt(evaluate.squared_error(truth, PREDICTED).mean()))
    assert numbers["test scores"]["galaxies"] == 30
    assert numbers["test scores"]["mse"].value == pytest.approx(evaluate.squared_error(tested[20:], guess[20:]).mean())
    assert numbers["test"]["labelled"] == np.isfinite(tested[:, 23]).sum()
    html = (tmp_path / "report.html").read_text()
    for words in ("Labels are partly unknown", "Over the 30 of 50 test galaxies that have labels", "took no part in"):
        assert words in html
    assert "nan" not in html.lower().split("<body")[1].replace("data:image", "").split("base64")[0]
    assert {row["galaxy_id"] for row in rows(tmp_path / "most_confident.csv")} <= set(names)
    assert [int(row["galaxies"]) for row in rows(tmp_path / "per_answer.csv")] == np.isfinite(truth).sum(0).tolist()
    scores = {row["score"]: row["value"] for row in rows(tmp_path / "test_scores.csv")}
    assert float(scores["rmse"]) == numbers["test scores"]["rmse"].value

    def shown(at):
        seen.extend(at)
        return images(at)

    side = explore.Side(lambda: [(names[:20], truth[:20]), (names[20:], truth[20:])], shown)
    page = report_data.explore_report(side, side, tmp_path / "explore", tree=GALAXY_ZOO_2)
    assert min(seen) >= 0
    prototypes = rows(tmp_path / "explore" / "prototypes.csv")
    assert [row["column"] for row in prototypes] == list(GALAXY_ZOO_2.columns[:31])
    assert {row["galaxy_id"] for row in prototypes} <= set(names)
    assert "Every number is over the galaxies that have the label" in page.read_text()
    # A merger fraction that nobody voted on has no purity.
    truth[:, 23] = np.nan
    numbers = report.evaluation_report(inputs()._replace(truth=truth, test=None), tmp_path / "none")
    assert numbers["mergers"]["labelled"] == 0
    assert "No validation galaxy has a label of this answer" in (tmp_path / "none" / "report.html").read_text()
    assert not (tmp_path / "none" / "merger_curve.csv").exists()


@pytest.mark.slow
def test_a_tree_of_one_question_without_a_merger_has_no_section_on_mergers(tmp_path):
    truth, predicted = pair(N, tree=ONE_QUESTION)
    test = report.TestSet(IDS, predicted, images)
    inputs = report.EvaluationInputs("one", IDS, truth, predicted, ONE_QUESTION, (), images, test=test, resamples=20)
    numbers = report.evaluation_report(inputs, tmp_path)
    assert {"mergers", "test"}.isdisjoint(numbers)
    page = (tmp_path / "report.html").read_text()
    assert "erger" not in page
    assert "Kinds of galaxies: one" in page
    assert "largest predicted answer, of all 3, is" in page
    side = explore.Side(lambda: [(IDS, truth)], images)
    page = report_data.explore_report(side, None, tmp_path / "explore", tree=ONE_QUESTION).read_text()
    assert "Heat map of the 3 by 3 correlation matrix" in page
    assert not (tmp_path / "explore" / "correlations.csv").exists()  # no two questions to compare


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (evaluate.Estimate(0.058661, 0.05712, 0.06018), "0.0587 [0.0571, 0.0602]"),
        (evaluate.Estimate(-0.0000001, -0.0001, 0.0001), "0.00000 [-0.00010, 0.00010]"),
        (evaluate.Estimate(np.nan, np.nan, np.nan), "–"),
        (evaluate.Estimate(0.5, 0.5, 0.5), "0.5000 [0.5000, 0.5000]"),
        (61578, "61,578"),
        (np.int64(3), "3"),
        (0.123456, "0.1235"),
        (None, "–"),
        (True, "True"),
        ("text", "text"),
    ],
)
def test_numbers_for_a_reader(value, expected):
    assert page.text(value) == expected


def test_submission_is_kaggles_format(tmp_path):
    path = tmp_path / "submission.csv"
    report.write_submission(path, np.array([100037, 100018]), PREDICTED[:2])
    lines = path.read_text().split("\n")
    assert lines[0] == "GalaxyID," + ",".join(GALAXY_ZOO_2.columns)
    assert [line.split(",")[0] for line in lines[1:3]] == ["100018", "100037"]
    assert lines[3:] == [""]
    np.testing.assert_allclose([float(x) for x in lines[1].split(",")[1:]], PREDICTED[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("ids", "predicted", "message"),
    [
        ([1, 1], PREDICTED[:2], "more than once"),
        ([1, 2], PREDICTED[:2] * np.nan, "2 galaxies"),
        ([1], PREDICTED[:2], "each galaxy"),
    ],
)
def test_a_submission_kaggle_would_refuse_is_not_written(tmp_path, ids, predicted, message):
    with pytest.raises(UserError, match=message):
        report.write_submission(tmp_path / "s.csv", np.array(ids), predicted)
    assert not list(tmp_path.iterdir())


OVERFLOW = """
const wide = [...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('.scroll, .sheet')) return false;
  return e.getBoundingClientRect().right > innerWidth + 1;
});
return [document.documentElement.scrollWidth, innerWidth, wide.map(e => e.tagName)];
"""


@pytest.mark.slow
def test_in_a_browser(reports, tmp_path):
    with browser(tmp_path / "profile") as tab:
        tab.open(reports["compare"] / "report.html", 1280)
        tab.requested()  # what a fresh browser asks for before the first page
        for name, folder in reports.items():
            for width, dark in ((390, False), (390, True), (1280, False), (1280, True)):
                tab.open(folder / "report.html", width, dark)
                scroll, inner, wide = tab.run(OVERFLOW)
                assert (inner, wide) == (width, []), name
                assert scroll <= width, name
                loaded = tab.run("return [...document.images].map(i => i.complete && i.naturalWidth > 0 && !!i.alt)")
                assert loaded, name
                assert all(loaded), name
                background = tab.run("return getComputedStyle(document.body).backgroundColor")
                assert (int(background[4:].split(",")[0]) < 60) == dark
                assert tab.run("return document.querySelectorAll('nav a').length") == tab.run(
                    "return [...document.querySelectorAll('nav a')].filter("
                    "a => document.getElementById(a.hash.slice(1))).length"
                )
                assert tab.logged() == [], name
                urls = tab.requested()
                assert {url.split(":")[0] for url in urls} <= {"file", "data"}, name
                assert [url for url in urls if url.startswith("file")] == [(folder / "report.html").as_uri()]
