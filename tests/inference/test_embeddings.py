"""A network's features and a catalogue's own columns beside the predictions: what they hold, what is refused."""

import datetime

import jax
import numpy as np
import pyarrow as pa
import pytest
from astropy.table import Table
from PIL import Image
from pyarrow import csv, parquet
from test_predict import QUIET, SIZE, contents, encode, fractions, make_workdir, picture

import gz_jax
from gz_jax.data import look
from gz_jax.data.images import read_cutout
from gz_jax.inference import tables, trained
from gz_jax.inference.predict import ensemble, predict_arrays, predict_catalogue
from gz_jax.models import create
from gz_jax.runtime.errors import UserError

HOW = {"batch_size": 4, "shard_size": 4, "embeddings": True, **QUIET}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def network(workdir):
    return trained.load(workdir)


@pytest.fixture
def catalogue(tmp_path):
    """Ten galaxies, of which the fourth cannot be read, with columns of their own."""
    for i in range(10):
        data = encode(picture(i), "JPEG")
        (tmp_path / f"{i}.jpg").write_bytes(data[:300] if i == 3 else data)
    own = {"ra": np.linspace(150, 151, 10), "name": [f"00{i}" for i in range(10)], "z": [None, *range(1, 10)]}
    csv.write_csv(pa.table({"id": range(10), "file": [f"{i}.jpg" for i in range(10)]} | own), tmp_path / "table.csv")
    return tmp_path / "table.csv"


def embeddings(output):
    return tables.vectors(tables.read(output)["embedding"])


def cutouts(folder, numbers):
    return np.stack([read_cutout(folder / f"{i}.jpg", size=SIZE)[0] for i in numbers])


@pytest.mark.parametrize("pooling", ["flatten", "average"])
@pytest.mark.slow
def test_a_resnets_embedding_is_the_map_that_its_head_sees_averaged_over_positions(pooling):
    module = create("resnet50", num_outputs=5, hidden=(), pooling=pooling)
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), images)
    run = jax.jit(lambda variables, images, method: module.apply(variables, images, method=method), static_argnums=2)
    logits, embedding = run(variables, images, "embed")
    seen = run(variables, images, "features").reshape(2, -1, 2048)
    np.testing.assert_allclose(embedding, seen.mean(1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(logits, run(variables, images, "__call__"), rtol=1e-3, atol=1e-3)


def test_a_cnns_logits_follow_from_its_embedding_by_its_last_two_layers():
    module = create("cnn", num_outputs=5)
    images = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
    variables = module.init(jax.random.key(0), images)
    logits, x = module.apply(variables, images, method="embed")
    p = jax.tree.map(np.asarray, variables["params"])
    x = (
        np.maximum(np.asarray(x) @ p["dense2"]["kernel"] + p["dense2"]["bias"], 0) @ p["head"]["kernel"]
        + p["head"]["bias"]
    )
    np.testing.assert_allclose(logits, x, atol=1e-5)
    np.testing.assert_array_equal(logits, module.apply(variables, images))


def test_embeddings_are_the_networks_own_and_the_fractions_stay(catalogue, network, tmp_path):
    predict_catalogue(catalogue, tmp_path / "out", [network], **HOW)
    predict_catalogue(catalogue, tmp_path / "plain", [network], **HOW | {"embeddings": False})
    found, plain = tables.read(tmp_path / "out"), tables.read(tmp_path / "plain")
    assert found.schema.field("embedding").type == pa.list_(pa.float16(), 128)
    assert found.column_names == [*plain.column_names, "embedding"]
    np.testing.assert_allclose(fractions(found), fractions(plain), atol=1e-6)
    good = [i for i in range(10) if i != 3]
    many = np.repeat(cutouts(tmp_path, good), jax.device_count(), 0)
    expected = network.embed(many)[1][0, :: jax.device_count()]
    np.testing.assert_allclose(embeddings(tmp_path / "out")[good], expected, rtol=2e-3, atol=1e-4)
    assert np.isnan(embeddings(tmp_path / "out")[3]).all()
    assert expected.std(0).max() > 0.01
    assert tables.manifest(tmp_path / "out")["settings"]["embeddings"] is True
    assert "embeddings" not in tables.manifest(tmp_path / "plain")["settings"]
    frame = gz_jax.predict(network.workdir, [tmp_path / "0.jpg"], embeddings=True)
    np.testing.assert_allclose(frame["embedding"][0], expected[0], rtol=2e-3, atol=1e-4)


def test_over_views_the_embedding_is_the_mean(workdir):
    image = np.asarray(picture(0))
    _, found, _ = predict_arrays(image[None], workdir, views=8, embeddings=True)
    cutout = read_cutout(encode(Image.fromarray(image), "PNG"), size=SIZE)[0]
    one = trained.load(workdir)
    each = [one.embed(np.repeat(v[None], jax.device_count(), 0))[1][0, 0] for v in look.symmetries(cutout)]
    np.testing.assert_allclose(found.embedding[0], np.mean(each, 0), rtol=2e-3, atol=1e-4)


def test_a_feature_beyond_16_bits_is_the_largest_number(network):
    huge = network._replace(embed=lambda seen: (network.predict(seen), np.full((1, len(seen), 3), 1e9)))
    together, _ = ensemble([huge], 1, embeddings=True)
    assert (together(np.zeros((1, SIZE, SIZE, 3), np.uint8))[3] == np.finfo(np.float16).max).all()


def test_a_stopped_run_goes_on_with_embeddings_and_kept_columns(catalogue, network, tmp_path):
    how = HOW | {"keep": ["name", "ra"]}
    whole = contents(predict_catalogue(catalogue, tmp_path / "whole", [network], **how))
    for process in (1, 0):
        predict_catalogue(catalogue, tmp_path / "two", [network], process_index=process, process_count=2, **how)
    assert contents(tmp_path / "two") == whole
    (tmp_path / "two" / "part-00001.parquet").write_bytes(b"")
    predict_catalogue(catalogue, tmp_path / "two", [network], **how)
    assert contents(tmp_path / "two") == whole
    for change, message in (
        ({"embeddings": False}, "settings embeddings was True and is now None"),
        ({"keep": ["name"]}, r"settings keep was \['name', 'ra'\] and is now \['name'\]"),
        ({"keep": []}, r"settings keep was \['name', 'ra'\] and is now None"),
    ):
        with pytest.raises(UserError, match=message):
            predict_catalogue(catalogue, tmp_path / "two", [network], **how | change)
    catalogue.write_text(catalogue.read_text().replace('"005"', '"5"'))
    with pytest.raises(UserError, match="column 'name' of the catalogue has other values now"):
        predict_catalogue(catalogue, tmp_path / "two", [network], **how)
    assert contents(tmp_path / "two") == whole


def test_a_csvs_columns_lose_nothing(catalogue, network, tmp_path, capsys):
    how = HOW | {"keep": ["z", " name", "ra"], "formats": ("parquet", "csv", "fits")}
    found = tables.read(predict_catalogue(catalogue, tmp_path / "out", [network], **how))
    assert found.column_names[:5] == ["id", "file", "z", "name", "ra"]
    assert found["name"].to_pylist() == [f"00{i}" for i in range(10)]  # text: a zero would be lost
    assert found["z"].to_pylist() == [None, *range(1, 10)]
    assert found.schema.field("z").type == pa.int64()
    np.testing.assert_array_equal(found["ra"].to_numpy(), np.linspace(150, 151, 10))
    said = "predictions.csv is without embedding, which only the Parquet files can hold\n"
    assert said in capsys.readouterr().out
    text, binary = csv.read_csv(tmp_path / "out/predictions.csv"), Table.read(tmp_path / "out/predictions.fits")
    assert text.column_names == found.column_names[:-1]
    assert binary.colnames == found.column_names
    np.testing.assert_array_equal(np.ma.filled(binary["embedding"], np.nan), embeddings(tmp_path / "out"))
    assert binary["z"].mask.tolist() == [True] + [False] * 9
    assert binary["z"].tolist()[1:] == list(range(1, 10))
    assert [str(x) for x in binary["name"]] == found["name"].to_pylist()


def test_parquets_columns_keep_their_types_in_the_tables_order(catalogue, network, tmp_path, capsys):
    own = {
        "day": pa.array([datetime.date(2026, 1, 1 + i) for i in range(10)]),
        "star": pa.array([i % 2 == 0 for i in range(10)]),
        "large": pa.array([2**64 - 1 - i for i in range(10)], pa.uint64()),
        "shape": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(30.0)), 3),
        "tags": pa.array([["a"] * i for i in range(10)]),
        "survey": pa.array(["x", "y"] * 5).dictionary_encode(),
    }
    table = pa.table({"id": range(9, -1, -1), "file": [f"{i}.jpg" for i in range(10)]} | own)
    parquet.write_table(table, tmp_path / "own.parquet")
    how = HOW | {"keep": list(own), "formats": ("parquet", "csv", "fits")}
    found = tables.read(predict_catalogue(tmp_path / "own.parquet", tmp_path / "out", [network], **how))
    assert found["id"].to_pylist() == list(range(9, -1, -1))
    for name, column in own.items():
        assert found[name].to_pylist() == column.to_pylist(), name
    assert found.schema.field("large").type == pa.uint64()
    said = capsys.readouterr().out
    assert "predictions.csv is without shape, tags, embedding," in said
    assert "predictions.fits is without tags," in said
    binary = Table.read(tmp_path / "out/predictions.fits")
    np.testing.assert_array_equal(binary["shape"], np.arange(30.0).reshape(10, 3))
    assert str(binary["large"][0]) == str(2**64 - 1)
    assert str(binary["day"][1]) == "2026-01-02"


def test_a_fits_tables_columns_are_kept(catalogue, network, tmp_path):
    table = Table({"id": np.arange(10), "file": [f"{i}.jpg" for i in range(10)], "ra": np.linspace(0, 1, 10)})
    table.write(tmp_path / "own.fits")
    found = tables.read(predict_catalogue(tmp_path / "own.fits", tmp_path / "out", [network], **HOW, keep=["ra"]))
    np.testing.assert_array_equal(found["ra"].to_numpy(), np.linspace(0, 1, 10))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (
            ["raa", "dec"],
            r"--keep=raa,dec: .*table\.csv has no column 'raa' \(near it: 'ra'\), 'dec'; it has id, file, ",
        ),
        (["flag"], "predictions have a column 'flag' of their own"),
        (["cond_Class1.1"], r"predictions have a column 'cond_Class1\.1' of their own"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(keep, message, catalogue, network, tmp_path):
    with pytest.raises(UserError, match=message):
        predict_catalogue(catalogue, tmp_path / "out", [network], **HOW, keep=keep)
    assert not (tmp_path / "out").exists()


def test_what_has_no_columns_or_no_one_network_is_refused(catalogue, network, tmp_path):
    with pytest.raises(UserError, match=r"--keep names columns of a table \(CSV, Parquet or FITS\), but .* is not one"):
        predict_catalogue(tmp_path, tmp_path / "out", [network], **HOW, keep=["ra"])
    other = trained.load(make_workdir(tmp_path / "runs", 1))
    with pytest.raises(UserError, match="embeddings of different networks cannot be averaged: name one of"):
        predict_catalogue(catalogue, tmp_path / "out", [network, other], **HOW)
