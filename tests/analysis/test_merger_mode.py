"""A fraction's folder, from tables on disk: joined by id, the same numbers as from arrays, mistakes refused."""

import csv
import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from gz_jax.analysis.merger_mode import merger_mode
from gz_jax.analysis.merger_report import merger_report
from gz_jax.analysis.page import plain
from gz_jax.inference import tables as table_files
from gz_jax.labels import GALAXY_ZOO_2, as_dict, load
from gz_jax.runtime.errors import UserError

N, M, TRAINING = 3000, 1500, 900
COLUMNS, MERGER = GALAXY_ZOO_2.columns, GALAXY_ZOO_2.index("Class8.6")


def galaxies(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Volunteers' fractions [n, 37] with a known share of mergers, and a biased network's: both float32."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 0.25, (n, 37))
    merging = rng.random(n) < fraction
    truth[merging, MERGER] = rng.uniform(0.35, 0.9, merging.sum())
    predicted = np.clip(0.7 * truth + 0.04 + rng.normal(0, 0.06, truth.shape), 0, 1)
    return truth.astype(np.float32), predicted.astype(np.float32)


TRUTH, GUESS = galaxies(M, 0.1, 1)
CATALOGUE = galaxies(N, 0.03, 2)[1]
CATALOGUE[7] = np.nan
TRAINING_VOTES = galaxies(TRAINING, 0.05, 3)[0]
IDS = np.random.default_rng(4).permutation(M) + 100_000


A, B, C, D = (
    {"run": name, "epoch": 3, "weights": weights * 16, "views": 1} for name, weights in zip("abcd", "1123", strict=True)
)


def write_predictions(path, ids, fractions, networks=(A,), files=None, tree=GALAXY_ZOO_2, interval=None, **settings):
    flag = np.where(np.isnan(fractions[:, 0]), 2, 0).astype(np.uint8)
    table = table_files.Predicted(fractions, fractions, None, flag, np.full(len(ids), ""), None, interval)
    metadata = {"models": {"networks": list(networks)}, "settings": {"crop": None, **settings}}
    metadata |= {"tree": as_dict(tree), "sight": f"{settings.get('crop')} pixels", "as_trained": "crop" not in settings}
    names = pa.array([f"{i}.jpg" for i in ids] if files is None else files)
    table_files.write_shard(path, table_files.to_table(ids, table, tree, metadata, names))
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    table_files.write_validation(folder / "validation.parquet", IDS, TRUTH, GUESS, GALAXY_ZOO_2, [B])
    write_predictions(folder / "catalogue.parquet", np.arange(N), CATALOGUE)
    write_predictions(folder / "labelled.parquet", IDS[::-1], GUESS[::-1])
    with open(folder / "solutions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["GalaxyID", *COLUMNS])
        votes = np.concatenate([TRAINING_VOTES, TRUTH])
        writer.writerows([i, *row] for i, row in zip([*range(1, TRAINING + 1), *IDS], votes.tolist(), strict=True))
    return folder


def test_numbers_are_those_of_the_arrays_and_the_truth_is_recovered(tables, tmp_path):
    results = merger_mode(
        tables / "catalogue.parquet", tables / "validation.parquet", tmp_path, observability=(0.5, 0.1)
    )
    column = lambda table: table[:, MERGER]  # noqa: E731
    arrays = column(CATALOGUE), column(GUESS), column(TRUTH)
    expected = merger_report(*arrays, tree=GALAXY_ZOO_2, answer="Class8.6", observability=(0.5, 0.1))
    for part in ("estimates", "confusion", "rate_per_gyr", "labels"):
        assert results[part] == expected[part]
    assert plain(results["curve"]) == plain(expected["curve"])  # it has NaN
    assert results["catalogue"] == {"galaxies": N - 1, "left_out": 1}
    for name in ("corrected", "calibrated"):
        assert results["estimates"][name].low < 0.03 < results["estimates"][name].high
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["estimates"] == plain(results["estimates"])
    with open(tmp_path / "fractions.csv", newline="") as file:
        rows = {row["quantity"]: row for row in csv.DictReader(file)}
    assert float(rows["(c) corrected count"]["fraction"]) == results["estimates"]["corrected"].value
    assert float(rows["(c) corrected count"]["fraction_high"]) == results["estimates"]["corrected"].high
    page = (tmp_path / "report.html").read_text()
    for words in ("Votes are not truth", "A fraction is not a rate", "not by volume", "Robotham", "rate per Gyr"):
        assert words in page
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {
        f"fraction_{x}.{kind}" for x in ("estimates", "threshold", "reliability") for kind in ("png", "pdf")
    }
    assert not list(tmp_path.rglob(".*"))


def test_the_page_says_first_how_many_are_found(tables, tmp_path):
    """And, of a network trained on synthetic galaxies, that they are synthetic."""
    paths = tables / "catalogue.parquet", tables / "validation.parquet"
    results = merger_mode(*paths, tmp_path / "drawn", config={"data.source": "synthetic"})
    counts = results["confusion"]
    found, positive = counts["true_positive"], counts["true_positive"] + counts["false_negative"]
    page = (tmp_path / "drawn" / "report.html").read_text()
    first = page.partition('<dd class="value">')[2]
    assert first.startswith(f"{found} of {positive}</dd>")
    assert 'class="note">The network was trained on synthetic galaxies' in page
    merger_mode(*paths, tmp_path / "real", config={"data.source": "galaxy_zoo"})
    assert "synthetic" not in (tmp_path / "real" / "report.html").read_text()
    blind = [
        write_predictions(tmp_path / f"{name}.parquet", ids, np.full((len(ids), 37), 0.03))
        for name, ids in (("catalogue", np.arange(N)), ("labelled", IDS))
    ]
    results = merger_mode(*blind, tmp_path / "blind", labels_csv=tables / "solutions.csv")
    assert any(f"none of the {positive} positive validation galaxies" in text for text in results["caveats"])
    page = (tmp_path / "blind" / "report.html").read_text()
    assert f">0 of {positive}</dd>" in page
    assert "cannot be measured" in page


def test_folds_judge_every_labelled_galaxy_by_the_network_that_held_it_out(tables, tmp_path):
    """Three networks that give other scores; each fold's are its own network's."""
    scale = (1.0, 0.9, 0.8)
    networks = [{"run": f"fold{k}", "epoch": 1, "weights": str(k) * 16, "views": 1} for k in range(3)]
    guesses, catalogues = ([np.float32(x * table) for x in scale] for table in (GUESS, CATALOGUE))
    paths = [
        write_predictions(tmp_path / f"p{k}.parquet", np.arange(N), catalogues[k], [networks[k]]) for k in range(3)
    ]
    folds = []
    for k in range(3):
        folds.append(tmp_path / f"v{k}.parquet")
        own = slice(k, None, 3)
        table_files.write_validation(folds[-1], IDS[own], TRUTH[own], guesses[k][own], GALAXY_ZOO_2, [networks[k]])
    results = merger_mode(paths, folds, tmp_path / "all")
    assert results["validation"] == {"galaxies": M, "left_out": 0}
    place, order = np.arange(M) % 3, np.argsort(np.arange(M) % 3, kind="stable")
    scores = np.array(guesses)[place, np.arange(M), MERGER][order]
    both = np.stack([c[:, MERGER] for c in catalogues]), scores, TRUTH[order, MERGER]
    expected = merger_report(*both, tree=GALAXY_ZOO_2, answer="Class8.6", crossed=True)
    assert results["estimates"] == expected["estimates"]
    assert any(
        "Each of the 1,500 labelled galaxies is judged by the one of 3 networks" in t for t in results["caveats"]
    )
    alone = merger_mode(paths[:1], folds[:1], tmp_path / "one")["estimates"]
    for name in ("corrected", "calibrated"):
        found, one = results["estimates"][name], alone[name]
        assert found.low < 0.03 < found.high
        assert found.high - found.low < 0.8 * (one.high - one.low)  # three times the labelled mergers


def test_a_network_that_knows_how_sure_it_is_adds_its_own_estimate(tables, tmp_path):
    """Votes drawn from the predicted distributions: the sum of the galaxies' probabilities finds their share."""
    rng = np.random.default_rng(8)
    mean = np.clip(rng.beta(0.3, 4, (N, 37)), 1e-4, 0.9999).astype(np.float32)
    total = 12.0
    truth = rng.beta(mean[:, MERGER] * total, (1 - mean[:, MERGER]) * total)
    mean[7] = np.nan
    ends = np.stack([mean, mean, mean, mean, np.sqrt(mean * (1 - mean) / (total + 1))], 1)
    path = write_predictions(tmp_path / "sure.parquet", np.arange(N), mean, interval=ends)
    found = merger_mode(path, tables / "validation.parquet", tmp_path / "one")
    share = (truth[np.arange(N) != 7] > 0.3).mean()
    estimate, own = found["estimates"]["posterior"], found["posterior"]
    assert own["galaxies"] == N - 1
    assert abs(estimate.value - share) < 3 * own["standard_deviation"]
    assert own["expected"] == pytest.approx(estimate.value * (N - 1))
    assert estimate.low < share < estimate.high
    assert any(text.startswith("(e) adds up the probabilities") for text in found["caveats"])
    without = merger_mode(tables / "catalogue.parquet", tables / "validation.parquet", tmp_path / "two")
    assert "posterior" not in without["estimates"]
    four = write_predictions(tmp_path / "four.parquet", np.arange(N), CATALOGUE, interval=ends[:, :4])
    assert "posterior" not in merger_mode(four, tables / "validation.parquet", tmp_path / "three")["estimates"]


def test_labels_from_kaggles_file_are_joined_by_id(tables, tmp_path):
    """The rows of the labelled table are in another order than those of the file."""
    paths = tables / "catalogue.parquet", tables / "labelled.parquet"
    joined = merger_mode(*paths, tmp_path / "a", labels_csv=tables / "solutions.csv")
    direct = merger_mode(tables / "catalogue.parquet", tables / "validation.parquet", tmp_path / "b")
    assert joined["confusion"] == direct["confusion"]
    assert joined["estimates"]["corrected"] == direct["estimates"]["corrected"]
    assert joined["labels"]["training"].value == (TRAINING_VOTES[:, MERGER] > 0.3).mean()
    with pytest.raises(UserError, match="has no labels"):
        merger_mode(*paths, tmp_path)


@pytest.mark.slow
def test_galaxies_whose_answer_is_unknown_do_not_take_part(tables, tmp_path):
    """Ids are texts here, in every table another order."""
    names, few = np.array([f"SDSS J{i}" for i in IDS]), np.arange(M) < M - 400
    partly = np.where(few[:, None], TRUTH, np.nan)
    partly[:, 0] = TRUTH[:, 0]
    write = table_files.write_validation
    write(tmp_path / "partly.parquet", names[::-1], partly[::-1], GUESS[::-1], GALAXY_ZOO_2, [B])
    write(tmp_path / "fewer.parquet", names[few], TRUTH[few], GUESS[few], GALAXY_ZOO_2, [B])
    found, expected = (
        merger_mode(tables / "catalogue.parquet", tmp_path / f"{name}.parquet", tmp_path / name)
        for name in ("partly", "fewer")
    )
    assert found["validation"] == {"galaxies": M - 400, "left_out": 400}
    for part in ("confusion", "labels"):
        assert found[part] == expected[part]
    assert found["estimates"]["corrected"] == expected["estimates"]["corrected"]
    assert any("The votes of 400 validation galaxies for this answer are unknown" in text for text in found["caveats"])
    assert not any("unknown" in text for text in expected["caveats"])
    other = write_predictions(tmp_path / "other.parquet", np.arange(N), CATALOGUE, [C])
    write(tmp_path / "second.parquet", names, TRUTH, GUESS, GALAXY_ZOO_2, [C])
    both = [tables / "catalogue.parquet", other], [tmp_path / "partly.parquet", tmp_path / "second.parquet"]
    assert merger_mode(*both, tmp_path / "both")["validation"]["galaxies"] == M - 400
    partly[:, MERGER] = np.nan
    write(tmp_path / "none.parquet", names, partly, GUESS, GALAXY_ZOO_2, [B])
    with pytest.raises(UserError, match=r"none of the 1500 validation galaxies has a known vote fraction of Class8\.6"):
        merger_mode(tables / "catalogue.parquet", tmp_path / "none.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_any_answer(tables, tmp_path):
    results = merger_mode(
        tables / "catalogue.parquet", tables / "validation.parquet", tmp_path, answer="Class7.2", threshold=0.2
    )
    assert results["meaning"] == "in between"
    share = float((CATALOGUE[:, COLUMNS.index("Class7.2")] > 0.2).sum() / (N - 1))
    assert results["estimates"]["count"].value == pytest.approx(share)
    assert not (tmp_path / "published.csv").exists()
    page = (tmp_path / "report.html").read_text()
    assert "in between (Class7.2)" in page
    for word in ("merger", "ublished", "not a rate", "alignment"):
        assert word not in page.partition("</style>")[2].partition("How this was made</h2>")[0], word
    key = "how-rounded_in-between"
    paths = tables / "catalogue.parquet", tables / "validation.parquet"
    assert plain(merger_mode(*paths, tmp_path / "key", answer=key, threshold=0.2)) == plain(results)
    with pytest.raises(UserError, match=r"no answer 'Class8\.9'; do you mean .*Class8\.6.* in gz_jax/trees/README.md"):
        merger_mode(tables / "catalogue.parquet", tables / "validation.parquet", tmp_path, answer="Class8.9")


def test_seeds_are_aligned_and_their_spread_told(tables, tmp_path):
    noise = np.random.default_rng(5).normal(0, 0.05, CATALOGUE.shape).astype(np.float32)
    second = np.clip(CATALOGUE + noise, 0, 1)
    write_predictions(tmp_path / "second.parquet", np.arange(N)[::-1], second[::-1], [C])
    guess = np.clip(GUESS + noise[:M], 0, 1)
    few = np.arange(M) < M - 100  # a hundred of the galaxies are in the first table alone
    table_files.write_validation(tmp_path / "validation.parquet", IDS[few], TRUTH[few], guess[few], GALAXY_ZOO_2, [C])
    results = merger_mode(
        [tables / "catalogue.parquet", tmp_path / "second.parquet"],
        [tables / "validation.parquet", tmp_path / "validation.parquet"],
        tmp_path / "report",
    )
    assert results["validation"]["galaxies"] == M - 100
    assert any("Only the 1,400 galaxies" in text for text in results["caveats"])
    shares = [float((x[:, MERGER] > 0.3).sum() / (N - 1)) for x in (CATALOGUE, second)]
    assert results["seeds"]["count"] == pytest.approx(shares)
    assert results["seed_scatter"]["count"] == pytest.approx(np.std(shares, ddof=1))
    both = np.stack([GUESS, guess])[:, few, MERGER]
    catalogue = np.stack([CATALOGUE, second])[:, :, MERGER]
    expected = merger_report(catalogue, both, TRUTH[few, MERGER], tree=GALAXY_ZOO_2, answer="Class8.6")
    assert results["confusion"] == expected["confusion"]
    with open(tmp_path / "report" / "fraction_seeds.csv", newline="") as file:
        assert [row["network"] for row in csv.DictReader(file)] == ["0", "1", "standard deviation"]


def test_tables_that_do_not_belong_together_are_refused(tables, tmp_path):
    other = write_predictions(tmp_path / "other.parquet", np.arange(N), CATALOGUE, [D])
    match = r"other\.parquet was predicted by d \(epoch 3, 1 view, weights 33333333\), .* by b \(epoch 3"
    with pytest.raises(UserError, match=match):
        merger_mode(other, tables / "validation.parquet", tmp_path / "out")
    strangers = write_predictions(tmp_path / "strangers.parquet", np.arange(5), CATALOGUE[:5])
    with pytest.raises(UserError, match="none of the validation galaxies is in"):
        merger_mode(strangers, strangers, tmp_path / "out", labels_csv=write_labels(tmp_path / "few.csv", [77]))
    with pytest.raises(UserError, match="neither a Parquet file nor a folder of predictions"):
        merger_mode(tmp_path / "nothing", tables / "validation.parquet", tmp_path / "out")
    parquet.write_table(pa.table({"id": [1]}), tmp_path / "bare.parquet")
    with pytest.raises(UserError, match=r"bare\.parquet does not say which"):
        merger_mode(tmp_path / "bare.parquet", tables / "validation.parquet", tmp_path / "out")
    with pytest.raises(UserError, match="1 prediction tables of the catalogue, 2 of the validation"):
        merger_mode(tables / "catalogue.parquet", [tables / "validation.parquet"] * 2, tmp_path / "out")
    with pytest.raises(UserError, match="as a table of GalaxyID and vote fractions"):
        merger_mode(strangers, strangers, tmp_path / "out", labels_csv=tmp_path / "bare.parquet")
    assert not (tmp_path / "out").exists()


def write_labels(path, ids):
    path.write_text("GalaxyID,Class8.6\n" + "".join(f"{i},0.5\n" for i in ids))
    return path


def test_numbers_of_other_networks_crops_images_or_labels_are_refused(tables, tmp_path):
    """And what cannot be checked is said on the page."""
    catalogue, validation = tables / "catalogue.parquet", tables / "validation.parquet"

    def refused(match, predictions, tables, **how):
        with pytest.raises(UserError, match=match):
            merger_mode(predictions, tables, tmp_path / "out", **how)

    eight = write_predictions(tmp_path / "eight.parquet", np.arange(N), CATALOGUE, [A | {"views": 8}])
    refused(r"a \(epoch 3, 8 views, .*by b \(epoch 3, 1 view", eight, validation)
    cropped = write_predictions(tmp_path / "cropped.parquet", IDS, GUESS, crop=300.0)
    refused("other parts of the images.*crop None and 300", catalogue, cropped, labels_csv=tables / "solutions.csv")
    copy = write_predictions(tmp_path / "copy.parquet", np.arange(N), CATALOGUE, [B])
    refused("predictions of the same network", [catalogue, copy], [validation] * 2)
    second = write_predictions(tmp_path / "second.parquet", np.arange(N), CATALOGUE, [C], planes=[2, 1, 0])
    refused("other pictures of the galaxies: planes None and", [catalogue, second], [validation] * 2)
    files = [f"{i + 1}.jpg" for i in range(N)]
    shifted = write_predictions(tmp_path / "shifted.parquet", np.arange(N), CATALOGUE, [C], files)
    refused(r"are of other images: 0 is '0\.jpg' in one and '1\.jpg'", [catalogue, shifted], [validation] * 2)
    table_files.write_validation(tmp_path / "votes.parquet", IDS, TRUTH[::-1], GUESS, GALAXY_ZOO_2, [C])
    other = write_predictions(tmp_path / "other.parquet", np.arange(N), CATALOGUE, [C])
    refused("different votes for the same galaxies", [catalogue, other], [validation, tmp_path / "votes.parquet"])
    refused("different votes", catalogue, validation, labels_csv=write_labels(tmp_path / "few.csv", IDS[:3]))
    assert not (tmp_path / "out").exists()
    own = write_predictions(tmp_path / "own.parquet", np.arange(N), CATALOGUE, crop=123)
    caveats = merger_mode(own, validation, tmp_path / "crop")["caveats"]
    assert any("from 123 pixels of its images" in text for text in caveats)
    unknown = write_predictions(tmp_path / "unknown.parquet", np.arange(N), CATALOGUE, [])
    caveats = merger_mode(unknown, validation, tmp_path / "unknown")["caveats"]
    assert any("unknown.parquet does not say which network" in text for text in caveats)


def test_tables_of_other_trees_are_refused_and_a_tree_without_mergers_asks_for_an_answer(tables, tmp_path):
    tree = load("galaxy_zoo_decals")
    few = np.full((N, len(tree.columns)), 0.25, np.float32)
    other = write_predictions(tmp_path / "other.parquet", np.arange(N), few, tree=tree)
    with pytest.raises(
        UserError, match=r"other\.parquet and .*validation\.parquet are of .*question 'smooth-or-features' was"
    ):
        merger_mode(other, tables / "validation.parquet", tmp_path / "out")
    plain_tree = dataclasses.replace(GALAXY_ZOO_2, merger=None)
    alone = write_predictions(tmp_path / "alone.parquet", np.arange(N), CATALOGUE, tree=plain_tree)
    with pytest.raises(UserError, match=r"name one with --answer, for example Class1\.1, Class1\.2"):
        merger_mode(alone, tables / "validation.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = merger_mode(alone, tables / "validation.parquet", tmp_path / "named", answer="odd-feature_merger")
    assert found["answer"] == "Class8.6"
    assert found["published"] == {}  # this tree does not say what a merger is
