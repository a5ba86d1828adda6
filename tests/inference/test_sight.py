"""What a network saw in training is what prediction looks at, unless the command says something else."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from PIL import Image
from pyarrow import csv
from test_predict import QUIET, SIZE, as_floats, encode, fractions, make_workdir, picture, run_mode

from gz_jax.data import sight
from gz_jax.data.images import BAD, read_cutout
from gz_jax.data.sight import Sight
from gz_jax.data.stretch import Stretch
from gz_jax.inference import tables, trained
from gz_jax.inference.predict import predict_arrays, predict_catalogue
from gz_jax.runtime.errors import UserError

SCALES = (0.25, 0.5, 0.75, 1.0, 0.4)
HOW = {"batch_size": 4, "shard_size": 4, **QUIET}


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory) -> pathlib.Path:
    return make_workdir(tmp_path_factory.mktemp("runs") / "kaggle")


@pytest.fixture
def of_catalogue(kaggle, tmp_path):
    """A function that makes the workdir of the same network, trained on a catalogue with these fields."""

    def make(name="own", **fields) -> pathlib.Path:
        shutil.copytree(kaggle, tmp_path / name)
        path = tmp_path / name / "config.json"
        record = json.loads(path.read_text())
        record["config"] |= {"data.source": "catalogue", "data.catalogue": "galaxies.csv", "data.labels": "counts"}
        record["config"] |= {name.replace("__", "."): value for name, value in fields.items()}
        path.write_text(json.dumps(record))
        return path.parent

    return make


@pytest.fixture
def table(tmp_path) -> pathlib.Path:
    """Five pictures of different sides in a table with pixel scales."""
    folder = tmp_path / "galaxies"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(encode(picture(i, 60 + 11 * i), "PNG"))
    columns = {
        "id": range(5),
        "file": [f"{i}.png" for i in range(5)],
        "arcsec": SCALES,
        "half": [s / 2 for s in SCALES],
    }
    csv.write_csv(pa.table(columns), folder / "table.csv")
    return folder / "table.csv"


def predicted(workdir, spec, output, **flags) -> np.ndarray:
    assert run_mode(workdir, spec, output, **flags) == 0
    return fractions(tables.read(output))


def shown(workdir, folder, **how) -> np.ndarray:
    """The network's answers for the five pictures, cut out one by one; `how` has a value for each."""
    network = trained.load(workdir)
    each = [{name: values[i] for name, values in how.items()} for i in range(5)]
    cutouts = [read_cutout(folder / f"{i}.png", size=SIZE, **one)[0] for i, one in enumerate(each)]
    rows = -(-5 // jax.device_count()) * jax.device_count()
    return network.predict(np.stack([*cutouts, *cutouts])[:rows])[0, :5]


@pytest.mark.parametrize(
    ("fields", "flags", "how", "words"),
    [
        ({"data__crop": 41}, {"crop": 41}, {"crop": [41] * 5}, "41 pixels"),
        ({"data__share": 0.7}, {"share": 0.7}, {"share": [0.7] * 5}, "70 % of the shorter side"),
        ({}, {"share": 1}, {"share": [1.0] * 5}, "100 % of the shorter side"),
        (
            {"data__field": 12.0, "data__pixel_scale": "0.25"},
            {"field": 12, "pixel_scale": "0.25"},
            {"crop": [48] * 5},
            "12 arcsec at 0.25 arcsec a pixel",
        ),
        (
            {"data__field": 15.0, "data__pixel_scale": "arcsec"},
            {"field": 15, "pixel_scale": "arcsec"},
            {"crop": [60, 30, 20, 15, 37.5]},
            "15 arcsec by the pixel scales in column 'arcsec'",
        ),
    ],
    ids=["pixels", "share", "all", "arcsec", "column"],
)
def test_a_networks_own_square_is_what_the_same_flags_show(
    fields, flags, how, words, kaggle, of_catalogue, table, tmp_path, capsys
):
    own = of_catalogue(**fields)
    found = predicted(own, table, tmp_path / "default")
    assert capsys.readouterr().out.startswith(f"looking at {words}\n5 of 5 images")
    np.testing.assert_array_equal(found, predicted(kaggle, table, tmp_path / "flags", **flags))
    np.testing.assert_allclose(found, shown(kaggle, table.parent, **how), rtol=1e-4, atol=1e-6)
    assert np.abs(found - predicted(kaggle, table, tmp_path / "kaggle")).max() > 1e-3
    default, by_flags = (tables.manifest(tmp_path / name) for name in ("default", "flags"))
    assert (default["sight"], default["as_trained"]) == (words, True)
    assert (by_flags["sight"], by_flags["as_trained"]) == (words, False)
    assert by_flags["settings"] == default["settings"]
    assert {name: default["settings"][name] for name in flags} == {
        name: pytest.approx(0.25) if value == "0.25" else value for name, value in flags.items()
    }
    kept = tables.read(tmp_path / "default")
    assert "pixel_scale" not in kept.column_names or kept["pixel_scale"].to_pylist() == list(SCALES)
    assert trained.load(own).weights != trained.load(kaggle).weights


@pytest.mark.slow
def test_flags_take_the_place_of_the_networks_own_square(of_catalogue, kaggle, table, tmp_path):
    """A pixel scale alone keeps the field, a field alone the pixel scale, and another square needs neither."""
    arcsec = of_catalogue("arcsec", data__field=15.0, data__pixel_scale="0.5")
    column = of_catalogue("column", data__field=15.0, data__pixel_scale="arcsec")
    for number, (workdir, flags, how) in enumerate(
        [
            (arcsec, {"pixel_scale": "0.25"}, {"crop": [60] * 5}),
            (arcsec, {"pixel_scale": "half"}, {"crop": [120, 60, 40, 30, 75]}),
            (column, {"pixel_scale": "half"}, {"crop": [120, 60, 40, 30, 75]}),
            (column, {"pixel_scale": "0.25"}, {"crop": [60] * 5}),
            (arcsec, {"field": "20"}, {"crop": [40] * 5}),
            (column, {"crop": "40"}, {"crop": [40] * 5}),
            (arcsec, {"share": "0.5"}, {"share": [0.5] * 5}),
        ]
    ):
        found = predicted(workdir, table, tmp_path / str(number), **flags)
        np.testing.assert_allclose(found, shown(kaggle, table.parent, **how), rtol=1e-4, atol=1e-6)


def test_kaggles_networks_of_any_crop_see_their_share(tmp_path, table, kaggle):
    """170 of 424 pixels are so much of any image's shorter side; 204 are the usual, however they are said."""
    other = make_workdir(tmp_path / "other", crop=170)
    found = predicted(other, table, tmp_path / "out")
    np.testing.assert_allclose(found, shown(kaggle, table.parent, share=[170 / 424] * 5), rtol=1e-4, atol=1e-6)
    explicit = make_workdir(tmp_path / "explicit", crop=204)
    assert trained.load(explicit).weights == trained.load(kaggle).weights != trained.load(other).weights


@pytest.mark.slow
def test_arrays_are_seen_as_files_are(of_catalogue, kaggle, tmp_path):
    images = np.stack([np.asarray(picture(i)) for i in range(3)])
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    share, arcsec = of_catalogue("share", data__share=0.8), of_catalogue("a", data__field=15.0, data__pixel_scale="0.5")
    column = of_catalogue("column", data__field=15.0, data__pixel_scale="arcsec")
    for workdir, flags, crop in ((share, {}, 48), (arcsec, {}, 30), (column, {"pixel_scale": 0.25}, 60)):
        _, expected, _ = predict_arrays(images, kaggle, crop=crop)
        for given in (images, paths, tmp_path / "*.png"):
            _, found, _ = predict_arrays(given, workdir, **flags)
            np.testing.assert_array_equal(found.fractions, expected.fractions)
    for given in (images, paths, f"{tmp_path}/*.png"):
        with pytest.raises(
            UserError, match=r"in column 'arcsec' need a table with that column; .*--pixel_scale=NUMBER"
        ):
            predict_arrays(given, column)


@pytest.fixture
def cube(tmp_path) -> pathlib.Path:
    """A folder with one FITS file: three bands, in a cube and in extensions of their own."""
    rng = np.random.default_rng(0)
    bands = as_floats(3) + rng.normal(0, 2, (3, 60, 60)).astype(np.float32)
    folder = tmp_path / "cubes"
    folder.mkdir()
    units = [fits.PrimaryHDU(bands), *(fits.ImageHDU(bands[i], name=name) for i, name in enumerate("RGI"))]
    fits.HDUList(units).writeto(folder / "1.fits")
    return folder


FITS = {"planes": "2,1,0", "scales": "0.85,1,1.4", "sky": "5", "noise": "2,2,3", "q": 8.0, "softening": 10.0}
SHOWN = {"planes": (2, 1, 0), "stretch": Stretch(8.0, 10.0, (0.85, 1.0, 1.4)), "sky": 5, "noise": (2, 2, 3)}


@pytest.mark.parametrize(
    ("flags", "how"),
    [
        ({}, {}),
        ({"planes": "0,1,2"}, {"planes": (0, 1, 2)}),
        ({"stretch_q": 4}, {"stretch": Stretch(4.0, 10.0, (0.85, 1.0, 1.4))}),
        (
            {"stretch_q": 6},
            {"stretch": Stretch(6.0, 10.0, (0.85, 1.0, 1.4))},
        ),  # the usual one, for this network another
        ({"scales": "1,1,2"}, {"stretch": Stretch(8.0, 10.0, (1.0, 1.0, 2.0))}),
        ({"softening": 25, "scales": "", "stretch_q": 6}, {"stretch": Stretch()}),
        ({"sky": "6,5,4"}, {"sky": (6, 5, 4)}),
        ({"sky": "", "noise": ""}, {"sky": None, "noise": None}),
        ({"extensions": "I,R,2", "planes": ""}, {"extensions": ("I", "R", 2), "planes": None}),
        ({"extension": "I", "noise": 2, "planes": ""}, {"extension": "I", "noise": 2, "planes": None}),
    ],
)
def test_settings_of_fits_are_the_networks_own_and_each_flag_replaces_one(
    flags, how, of_catalogue, kaggle, cube, tmp_path
):
    own = of_catalogue(data__share=1.0, **{f"fits__{name}": value for name, value in FITS.items()})
    found = predicted(own, cube, tmp_path / "out", **flags)
    image, flag, why = read_cutout(cube / "1.fits", size=SIZE, share=1.0, **SHOWN | how)
    assert flag != BAD, why
    expected = trained.load(kaggle).predict(np.stack([image] * jax.device_count()))[0, :1]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_three_extensions_give_way_to_one(of_catalogue):
    network = trained.load(of_catalogue(data__share=1.0, fits__extensions="R,G,I"))
    assert network.sight.arguments()["extensions"] == ("R", "G", "I")
    assert sight.changed(network.sight, extension="G").arguments().keys() == {"crop", "share", "stretch", "extension"}
    assert sight.changed(network.sight, extension=0).shown == (("extension", 0),)
    assert sight.changed(network.sight, planes=None) == network.sight
    assert network.sight.text == "100 % of the shorter side; FITS extensions ('R', 'G', 'I')"


def test_columns_of_ids_and_files_are_those_of_the_networks_catalogue(of_catalogue, kaggle, tmp_path):
    folder = tmp_path / "bands"
    folder.mkdir()
    bands = {name: [f"{i}{name}.png" for i in range(2)] for name in "irg"}
    for i in range(2):
        for name, pixels in zip("irg", np.moveaxis(np.asarray(picture(i)), -1, 0), strict=True):
            Image.fromarray(pixels).save(folder / f"{i}{name}.png")
    columns = {"objid": [7, 8], "other": [70, 80], **bands}
    csv.write_csv(pa.table(columns), folder / "table.csv")
    three = {"data__id_column": "objid", "data__file_columns": "i,r,g"}
    own = of_catalogue(data__share=1.0, **three, data__file_column="i")
    found, by_flags = (
        predict_arrays(folder / "table.csv", workdir, share=1.0, **how)
        for workdir, how in ((own, {}), (kaggle, {"id_column": "objid", "file_columns": ["i", "r", "g"]}))
    )
    assert found[0].tolist() == [7, 8]
    np.testing.assert_array_equal(found[1].fractions, by_flags[1].fractions)
    assert run_mode(own, folder / "table.csv", tmp_path / "flags", id_column="other", file_column="r") == 0
    table = tables.read(tmp_path / "flags")
    assert (table["id"].to_pylist(), table["file"].to_pylist()) == ([70, 80], bands["r"])
    assert run_mode(own, folder / "table.csv", tmp_path / "one", file_columns="") == 0
    assert tables.read(tmp_path / "one")["file"].to_pylist() == bands["i"]
    with pytest.raises(UserError, match=r"is not a table, so it has no columns i, r, g\. If each .* --file_columns="):
        predict_arrays(folder, own)


def test_a_table_without_the_column_of_pixel_scales_is_refused(of_catalogue, table, tmp_path):
    network = trained.load(of_catalogue(data__field=15.0, data__pixel_scale="pixscale"))
    match = r"no column 'pixscale'; it has id, file, arcsec, half\. Give --pixel_scale=NUMBER \(arcsec per pixel\)"
    with pytest.raises(UserError, match=match):
        predict_catalogue(table, tmp_path / "out", [network], **HOW)
    with pytest.raises(UserError, match="need a table with that column; or say --pixel_scale=NUMBER"):
        predict_catalogue(table.parent, tmp_path / "out", [network], **HOW)
    with pytest.raises(UserError, match="column 'file' holds no pixel scale, a positive number of arcsec per pixel"):
        predict_catalogue(table, tmp_path / "out", [network], pixel_scale="file", **HOW)
    assert not (tmp_path / "out").exists()


def test_pixel_scales_that_are_missing_cost_their_images_and_may_be_corrected(of_catalogue, table, tmp_path):
    network = trained.load(of_catalogue(data__field=15.0, data__pixel_scale="arcsec"))
    whole = tables.read(predict_catalogue(table, tmp_path / "whole", [network], **HOW))
    text, output = table.read_text(), tmp_path / "out"
    table.write_text(text.replace("0.75", "unknown").replace("0.4,", "-0.4,"))
    first = tables.read(predict_catalogue(table, output, [network], formats=("csv", "fits"), **HOW))
    assert (first["flag"].to_numpy() == BAD).tolist() == [False, False, True, False, True]
    assert first["pixel_scale"].to_pylist() == [0.25, 0.5, None, 1.0, None]
    assert {first["reason"][i].as_py() for i in (2, 4)} == {
        "the square is 15 arcsec wide, and the image's pixel scale is not known"
    }
    np.testing.assert_array_equal(fits.getdata(output / "predictions.fits", 1)["pixel_scale"][:2], SCALES[:2])
    table.write_text(text.replace("0.5,", "0.55,"))
    with pytest.raises(
        UserError, match=r"image 1 was predicted from '1\.png' at 0\.5 arcsec a pixel and is now .*0\.55"
    ):
        predict_catalogue(table, output, [network], **HOW)
    table.write_text(text)
    again = tables.read(predict_catalogue(table, output, [network], **HOW))
    np.testing.assert_array_equal(fractions(again), fractions(whole))
    assert again["pixel_scale"].to_pylist() == list(SCALES)


def test_a_table_begun_with_another_sight_is_refused(of_catalogue, table, tmp_path):
    network = trained.load(of_catalogue(data__field=15.0, data__pixel_scale="arcsec"))
    predict_catalogue(table, tmp_path / "out", [network], **HOW)
    for change, match in (
        ({"pixel_scale": "half"}, "settings pixel_scale was 'arcsec' and is now 'half'"),
        ({"field": 16}, r"settings field was 15\.0 and is now 16"),
        ({"share": 0.5}, r"field was 15\.0 and is now None; .*share was None and is now 0\.5"),
        ({"sky": 0.0}, r"settings sky was None and is now \[0\.0\]"),
    ):
        with pytest.raises(UserError, match=match):
            predict_catalogue(table, tmp_path / "out", [network], **change, **HOW)


@pytest.mark.slow
def test_networks_of_an_ensemble_must_have_seen_the_same(kaggle, of_catalogue, table, tmp_path):
    other = make_workdir(tmp_path / "other", seed=1)

    def pair(first, second):
        """The networks of these fields, of different parameters."""
        one = trained.load(of_catalogue(**first))
        shutil.rmtree(one.workdir)
        two = trained.load(of_catalogue(**second))
        shutil.rmtree(two.workdir)
        return [one, trained.load(other)._replace(sight=two.sight, workdir=pathlib.Path("two"))]

    arcsec, finer = ({"data__field": 15.0, "data__pixel_scale": scale} for scale in ("0.5", "0.25"))
    for second, match in (
        ({"data__crop": 128}, "own: 15 arcsec at 0.5 arcsec a pixel, as 34 px; two: 128 pixels, as 34 px"),
        (finer, "own: 15 arcsec at 0.5 arcsec a pixel, as 34 px; two: 15 arcsec at 0.25 arcsec a pixel, as 34 px"),
        (arcsec | {"fits__q": 8.0}, r"a pixel, as 34 px; two: 15 arcsec at 0.5 arcsec a pixel; FITS q 8\.0, as 34 px"),
    ):
        with pytest.raises(UserError, match=match):
            predict_catalogue(table, tmp_path / "out", pair(arcsec, second), **HOW)
    # Of two fields one is wrong for these images, whatever is said of them; their pixel scale is theirs.
    with pytest.raises(UserError, match="one pass needs networks that look at the same part"):
        predict_catalogue(table, tmp_path / "out", pair(arcsec, {"data__crop": 128}), crop=50, **HOW)
    predict_catalogue(table, tmp_path / "out", pair(arcsec, finer), pixel_scale=0.3, **HOW)
    assert tables.manifest(tmp_path / "out")["sight"] == "15 arcsec at 0.3 arcsec a pixel"


@pytest.mark.slow
def test_networks_of_the_same_parameters_and_other_sights_are_not_the_same(of_catalogue, kaggle):
    sights = [
        {"data__crop": 128},
        {"data__share": 0.5},
        {"data__field": 15.0, "data__pixel_scale": "0.5"},
        {"data__field": 15.0, "data__pixel_scale": "arcsec"},
        {"data__crop": 128, "fits__planes": "2,1,0"},
        {"data__crop": 128, "fits__q": 8.0},
    ]
    workdirs = [kaggle, *(of_catalogue(str(i), **fields) for i, fields in enumerate(sights))]
    assert len({trained.load(workdir).weights for workdir in workdirs}) == len(workdirs)
    same = of_catalogue("same", data__crop=128, data__id_column="other", data__dir="elsewhere")
    assert trained.load(same).weights == trained.load(workdirs[1]).weights


def test_a_sight_takes_texts_numbers_and_sequences():
    texts = sight.changed(Sight(), planes="2,1,0", sky="1,2,3", noise="0.5", scales="1,1,2", q="8")
    values = sight.changed(
        Sight(), planes=(2, 1, 0), sky=np.array([1.0, 2.0, 3.0]), noise=0.5, scales=[1, 1, 2], q=np.float64(8)
    )
    assert texts == values
    assert texts.arguments()["stretch"] == Stretch(q=8.0, scales=(1.0, 1.0, 2.0))
    for wrong, match in (
        ({"q": 0}, "--q=0: a number above 0"),
        ({"planes": (1, 2)}, "--planes=1,2: three numbers, none negative"),
        ({"sky": "a"}, "--sky=a: one number, or three"),
        ({"noise": -1}, "noise=.*must be positive"),
        ({"extensions": "a,b"}, "--extensions=a,b: three names or numbers"),
        ({"extensions": "a,b,c", "extension": "d"}, "without --extension beside them"),
    ):
        with pytest.raises(UserError, match=match):
            sight.changed(Sight(), **wrong)
