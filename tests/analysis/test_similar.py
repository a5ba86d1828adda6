"""Nearest neighbours and unusual galaxies: what a plain computation finds, in blocks of any size, in little memory."""

import csv
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv as arrow_csv
from pyarrow import parquet
from sklearn.neighbors import NearestNeighbors
from test_predict import QUIET, ROOT, make_workdir

from gz_jax.analysis.similar import SAMPLE, sample_rows, search
from gz_jax.data import synthetic_render, synthetic_votes
from gz_jax.inference import tables, trained
from gz_jax.inference.predict import predict_catalogue
from gz_jax.modes.similar import _rows, similar
from gz_jax.runtime.errors import UserError


def brute(embeddings, query, own, count):
    """Rows and distances of the nearest, in float64, by the definition."""
    known = np.flatnonzero(np.isfinite(embeddings).all(1))
    mean = embeddings[known].astype(np.float64).mean(0)
    a, b = embeddings[known] - mean, query - mean
    distance = 1 - a @ b / np.linalg.norm(a, axis=1) / np.linalg.norm(b)
    distance[known == own] = np.inf
    order = np.argsort(distance)[:count]
    return known[order], distance[order]


@pytest.mark.parametrize("step", [1, 7, 40, 1000])
def test_neighbours_are_those_of_a_plain_computation_in_blocks_of_any_size(step):
    rng = np.random.default_rng(0)
    embeddings = rng.gamma(1, 1, (300, 12)).astype(np.float16)
    embeddings[[0, 17, 299]] = np.nan
    queries, own = np.concatenate([embeddings[[5, 200]], rng.gamma(1, 1, (1, 12))]), np.array([5, 200, -1])
    found = search(lambda: (embeddings[i : i + step] for i in range(0, 300, step)), queries, own, sample_rows(300), 6)
    for i in range(3):
        rows, distance = brute(embeddings, queries[i].astype(np.float64), own[i], 6)
        np.testing.assert_array_equal(found.rows[i], rows)
        np.testing.assert_allclose(found.distance[i], distance, atol=1e-5)
    mean_distance = np.full(300, -np.inf)
    for row in np.flatnonzero(np.isfinite(embeddings).all(1)):
        mean_distance[row] = brute(embeddings, embeddings[row].astype(np.float64), row, 10)[1].mean()
    np.testing.assert_array_equal(found.unusual, np.argsort(-mean_distance)[:6])
    np.testing.assert_allclose(found.unusual_distance, np.sort(mean_distance)[::-1][:6], atol=1e-5)


def test_neighbours_are_scikit_learns():
    embeddings = np.random.default_rng(2).normal(1, 1, (500, 8)).astype(np.float32)
    rows = np.arange(0, 500, 50)
    found = search(lambda: [embeddings], embeddings[rows], rows, sample_rows(500), 5)
    peer = NearestNeighbors(metric="cosine").fit(embeddings - embeddings.mean(0))
    distance, neighbours = peer.kneighbors(embeddings[rows] - embeddings.mean(0), 6)
    np.testing.assert_array_equal(neighbours, np.column_stack([rows, found.rows]))
    np.testing.assert_allclose(found.distance, distance[:, 1:], atol=1e-5)


def test_a_galaxy_unlike_all_others_is_the_most_unusual_in_a_catalogue_larger_than_the_sample():
    rng = np.random.default_rng(1)
    usual = rng.normal(0, 1, (2, 16))[rng.integers(0, 2, 3 * SAMPLE)] + rng.normal(0, 0.1, (3 * SAMPLE, 16))
    usual[777] = rng.normal(0, 3, 16)
    blocks = [usual[i : i + 1000].astype(np.float16) for i in range(0, len(usual), 1000)]
    found = search(lambda: blocks, np.zeros((0, 16)), np.zeros(0, np.int64), sample_rows(len(usual)), 3)
    assert found.unusual[0] == 777
    assert found.rows.shape == (0, 3)


def test_where_there_are_too_few_galaxies_what_there_is_is_found():
    embeddings = np.array([[1, 0], [0, 1], [np.nan, np.nan]], np.float16)
    found = search(lambda: [embeddings], embeddings[:1], np.array([0]), sample_rows(3), 4)
    assert found.rows.tolist() == [[1, -1, -1, -1]]
    assert sorted(found.unusual) == [0, 1]
    with pytest.raises(UserError, match="none of these galaxies has an embedding"):
        search(lambda: [embeddings[2:]], embeddings[:1], np.array([-1]), sample_rows(1), 4)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """Thirty synthetic galaxies, each turned by 180 degrees too, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("similar")
    parameters = synthetic_votes.draw_parameters(np.arange(1, 31), seed=0, merger_fraction=0.2)
    pictures = synthetic_render.render(parameters, size=68, field=synthetic_render.CENTRE_FIELD)
    names, shades = [], []
    for i, picture in enumerate(pictures):
        for kind, turned in (("a", picture), ("b", picture[::-1, ::-1])):
            Image.fromarray(turned).save(folder / f"{kind}{i}.png")
            names.append(f"{kind}{i}")
            shades.append(float(picture.mean()))
    (folder / "bad.png").write_bytes(b"")
    table = {"id": [*names, "bad"], "file": [f"{n}.png" for n in [*names, "bad"]], "shade": [*shades, 0.0]}
    arrow_csv.write_csv(pa.table(table), folder / "table.csv")
    network = trained.load(make_workdir(folder / "net"), views=8)
    how = {"batch_size": 8, "shard_size": 16, "share": 1.0, "embeddings": True, "keep": ["shade"], **QUIET}
    predict_catalogue(folder / "table.csv", folder / "out", [network], **how)
    return folder


def run(folder, **given):
    """`--mode=similar`; the folder of what it made."""
    usual = {"input": str(folder / "out"), "output": str(folder / "found"), "like": [], "count": 5, "images": None}
    flags = SimpleNamespace(**usual | {"pixel_scale": None} | given)
    assert similar(given.get("workdir"), flags) == 0
    return folder / "found"


def test_a_galaxys_nearest_is_its_own_turned_copy(predictions):
    """Over the square's symmetries a turned picture has the same mean embedding."""
    ids = [f"{kind}{i}" for i in range(30) for kind in "ab"]
    found = parquet.read_table(run(predictions, like=ids) / "neighbours.parquet").to_pylist()
    first = {row["query"]: row for row in found if row["rank"] == 1}
    assert {name: row["id"] for name, row in first.items()} == {n: ("b" if n[0] == "a" else "a") + n[1:] for n in ids}
    assert max(row["distance"] for row in first.values()) < 1e-3
    assert min(row["distance"] for row in found if row["rank"] == 2) > 1e-3


def test_the_tables_agree_and_the_page_stands_alone(predictions, capsys):
    output = run(predictions, like=["a3", str(predictions / "b7.png")], workdir=str(predictions / "net"))
    found = parquet.read_table(output / "neighbours.parquet")
    assert found.column_names == ["query", "rank", "id", "distance", "shade"]
    assert found["query"].to_pylist() == ["a3"] * 5 + [str(predictions / "b7.png")] * 5
    assert set(found["id"].to_pylist()[5:7]) == {"a7", "b7"}  # a file is not the catalogue's: its row is found, too
    known = tables.read(predictions / "out", ["id", "shade"]).to_pylist()
    shade = {row["id"]: row["shade"] for row in known}
    assert found["shade"].to_pylist() == [shade[name] for name in found["id"].to_pylist()]
    with open(output / "neighbours.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == found["id"].to_pylist()
    unusual = parquet.read_table(output / "unusual_galaxies.parquet")
    assert unusual["rank"].to_pylist() == [1, 2, 3, 4, 5]
    assert "bad" not in unusual["id"].to_pylist()
    page = (output / "report.html").read_text()
    assert "Similar galaxies" in page
    assert "Unusual galaxies" in page
    assert "no pictures" not in capsys.readouterr().out


def test_an_id_that_is_a_number_is_a_name_on_the_page():
    rows = _rows(pa.table({"rank": [1], "id": [587_722_981_741_363_323]}))
    assert rows == [{"rank": 1, "id": "587722981741363323"}]


def test_images_that_are_gone_become_grey_tiles(predictions, capsys):
    table = predictions / "table.csv"
    table.rename(predictions / "elsewhere.csv")
    try:
        assert (run(predictions, like=["a3"]) / "report.html").exists()
    finally:
        (predictions / "elsewhere.csv").rename(table)
    assert "no pictures: no such input" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(predictions, tmp_path):
    plain = tmp_path / "plain"
    network = trained.load(predictions / "net")
    predict_catalogue(predictions / "table.csv", plain, [network], batch_size=8, shard_size=16, **QUIET)
    other = make_workdir(tmp_path / "other", 1)
    file = str(predictions / "a0.png")
    for given, message in (
        ({"output": None}, "--mode=similar needs --input"),
        ({"input": str(plain)}, "plain has no embeddings: predict these images with --embeddings"),
        ({"like": ["nowhere"]}, "--like=nowhere: .* has no such id, and there is no such file"),
        ({"like": ["bad"]}, "--like=bad: this galaxy has no embedding"),
        ({"like": [file]}, "is an image file: add --workdir of the network that predicted"),
        ({"like": [file], "workdir": str(other)}, "embeddings of different networks cannot be compared"),
        (
            {"like": [str(predictions / "bad.png")], "workdir": str(predictions / "net")},
            "bad.png: this image cannot be used",
        ),
    ):
        with pytest.raises(UserError, match=message):
            run(predictions, **given)


SCRIPT = """
import sys
from types import SimpleNamespace
from gz_jax.modes.similar import similar
from tests.peak import peak_memory
flags = SimpleNamespace(input=sys.argv[1], output=sys.argv[1] + "/found", like=["7", "11"], count=20, images=None,
                        pixel_scale=None)
similar(None, flags)
print(peak_memory())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_embeddings(tmp_path):
    """Twenty times as many galaxies, 400 MB of embeddings more: less than 100 MB of memory more."""
    rng, peak = np.random.default_rng(0), {}
    for count in (1, 20):
        folder = tmp_path / str(count)
        folder.mkdir()
        files = {"catalogue": {"shards": count, "where": "nowhere"}, "models": {}, "settings": {}, "versions": {}}
        tables.files.write_json(folder / tables.MANIFEST, files)
        for k in range(count):
            values = pa.array(rng.gamma(1, 1, 10_000 * 1024).astype(np.float16))
            columns = {"id": np.arange(10_000) + 10_000 * k, "reason": [""] * 10_000}
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, 1024)
            tables.write_shard(tables.shard(folder, k), pa.table(columns))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder)], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peak[count] = int(done.stdout.split()[-1])
        assert parquet.read_metadata(folder / "found/neighbours.parquet").num_rows == 40
    assert peak[20] - peak[1] < 100e6, peak
