"""A person's own table of galaxies, in every shape that people have: the same data set, or one clear refusal."""

import io
import json
import os
import re
import shutil
import zipfile
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from catalogues import RINGS, everything, opened, rings, write, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from kaggle_like import jpeg
from PIL import Image
from pyarrow import parquet

from gz_jax import labels
from gz_jax.data import kaggle_split, sight
from gz_jax.data.sight import Sight
from gz_jax.runtime.errors import UserError

KINDS = ("csv", "parquet", "fits")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folder with 40 JPEGs, 0.jpg to 39.jpg."""
    folder = tmp_path_factory.mktemp("pictures")
    write_images(folder, [f"{i}.jpg" for i in range(40)])
    return folder


@pytest.fixture
def place(pictures, tmp_path):
    """Folder of a test, with the JPEGs and a place for the store."""
    shutil.copytree(pictures, tmp_path / "here")
    return tmp_path / "here"


def refusal(*args, **how):
    with pytest.raises(UserError) as error:
        opened(*args, **how)
    return str(error.value)


class TestFormats:
    def test_all_formats_give_the_same(self, place):
        counts = [None, 3.0, 2.5, *[7.0] * 37]
        columns = rings(ring_yes=counts, ring_no=[None, 1.0, 1.5, *range(37)])
        found = [everything(opened(write(place / f"a.{kind}", columns))) for kind in KINDS]
        assert found[0] == found[1] == found[2]
        assert len(found[0]["train"]) + len(found[0]["validation"]) == 39
        assert list(found[0]["test"]) == ["1000"]  # it has no label
        both = found[0]["train"] | found[0]["validation"]
        assert both["1001"][:2] == ("[0.75, 0.25]", [0.06818182021379471, 0.022727273404598236])  # 3/44, 1/44
        fingerprints = {opened(place / f"a.{kind}").fingerprint for kind in KINDS}
        assert len(fingerprints) == 1

    @pytest.mark.parametrize(
        "convert",
        [
            lambda x: pa.array(x, pa.int8()),
            lambda x: pa.array(x, pa.uint64()),
            lambda x: pa.array(map(float, x), pa.float32()),
            lambda x: pa.array(map(str, x)),
            lambda x: pa.array([f" {n} " for n in x], pa.large_string()),
            lambda x: pa.array([str(n).encode() for n in x], pa.binary()),
            lambda x: pa.array(x).dictionary_encode(),
            lambda x: pa.array(map(str, x)).dictionary_encode(),
            lambda x: pa.array(map(Decimal, x), pa.decimal128(10, 3)),
            lambda x: pa.array([f"+{n}.0e0" for n in x]),
        ],
        ids=["int8", "uint64", "float32", "text", "large text", "bytes", "dictionary", "dictionary of text", "decimal",
             "exponents"],
    )  # fmt: skip
    def test_types_of_parquet_columns(self, place, convert):
        columns = rings()
        plain = opened(write(place / "a.parquet", columns))
        changed = {name: convert(columns[name]) for name in ("ring_yes", "ring_no")}
        other = opened(write(place / "b.parquet", columns | changed))
        assert other.fingerprint == plain.fingerprint
        assert everything(other) == everything(plain)

    @pytest.mark.parametrize(
        ("values", "what"),
        [
            (pa.array([True] * 40), "holds bool, not numbers"),
            (pa.array([[1, 2]] * 40), "holds list"),
            (pa.array([{"a": 1}] * 40), "holds struct"),
            (pa.array([0] * 40, pa.timestamp("s")), "holds timestamp"),
            (pa.array([b"\xff"] * 40), "cannot be read as text"),
        ],
        ids=["booleans", "lists", "structs", "times", "bytes"],
    )
    @pytest.mark.parametrize("column", ["ring_yes", "scale", "split"])
    def test_columns_of_other_types(self, place, values, what, column):
        path = write(place / "a.parquet", rings() | {column: values})
        text = refusal(path, sight=Sight(field=5.0, scale_column="scale") if column == "scale" else Sight(share=1.0))
        assert str(path) in text
        if column == "split":
            assert f"column {column!r}" in text or "unknown split" in text
        else:
            assert f"column {column!r}" in text
            assert what in text

    def test_lists_as_classes_ids_and_files(self, place):
        lists = pa.array([["yes"]] * 40)
        path = write(place / "a.parquet", rings(ring=lists))
        assert "column 'ring'" in refusal(path, labels="class")
        for column in ("id", "file"):
            path = write(place / "a.parquet", rings() | {column: lists})
            assert f"cannot read {path} as a table" in refusal(path)

    def test_missing_numbers_as_people_write_them(self, place):
        words = ["", "NaN", "nan", "NA", "n/a", "null", "None", "--", "  "]
        columns = rings(ring_yes=[*words, *["3"] * 31], ring_no=[*words[::-1], *["1"] * 31])
        found = everything(opened(write(place / "a.csv", columns)))
        assert sorted(found["test"]) == [str(1000 + i) for i in range(len(words))]

    def test_names_of_columns_with_dots(self, place, tmp_path):
        tree = labels.GALAXY_ZOO_2
        columns = {name: columns for name, columns in rings().items() if not name.startswith("ring")}
        for name in tree.columns:
            columns[name] = [4.0] * 40
        found = [opened(write(place / f"a.{kind}", columns), tree=tree) for kind in KINDS]
        assert len({one.fingerprint for one in found}) == 1
        assert found[0].splits["train"].read(np.arange(1))["vote_fractions"].shape == (1, 37)


class TestIds:
    @pytest.mark.parametrize(
        "ids",
        [
            [587722981736120347 + i for i in range(40)],
            [1237648720693755918 + i for i in range(40)],
            [-5 - i for i in range(40)],
        ],
        ids=["18 digits", "19 digits", "negative"],
    )
    @pytest.mark.parametrize("kind", KINDS)
    def test_numbers(self, place, kind, ids):
        dataset = opened(write(place / f"a.{kind}", rings(id=ids)))
        found = [split.read(np.arange(split.size))["galaxy_id"] for split in dataset.splits.values()]
        assert all(split.names is None for split in dataset.splits.values())
        assert all((np.diff(some) > 0).all() for some in found)
        assert sorted(np.concatenate(found).tolist()) == sorted(ids)
        validates = kaggle_split.side(np.array(sorted(ids)), 0, 0.2)
        np.testing.assert_array_equal(found[1], np.array(sorted(ids))[validates])

    @pytest.mark.parametrize(
        "form", ["J{:06}", "{:05}", "{}.5", "NGC {}", "é{}", "銀河{}", "=1+{}", "{}99999999999999999999"]
    )
    def test_texts(self, place, form):
        ids = [form.format(i + 1) for i in range(40)]
        dataset = opened(write(place / "a.csv", rings(id=ids)))
        names = [split.names.tolist() for split in dataset.splits.values()]
        assert all(some == sorted(some) for some in names)
        assert sorted([*names[0], *names[1]]) == sorted(ids)
        keys = np.concatenate([split.read(np.arange(split.size))["galaxy_id"] for split in dataset.splits.values()])
        assert keys.dtype == np.int64
        assert len(np.unique(keys)) == 40
        assert everything(dataset) == everything(opened(write(place / "b.parquet", rings(id=ids))))

    def test_floating_point_ids_have_lost_digits(self, place):
        path = write(place / "a.parquet", rings(id=[5.9e17 + 100 * i for i in range(40)]))
        assert "lost digits" in refusal(path)

    def test_floating_point_ids_with_gaps(self, place):
        path = write(place / "a.parquet", rings(id=[None, np.nan, *map(float, range(38))]))
        text = refusal(path)
        assert "no id: 2: row 1 (row 1), row 2 (row 2)" in text
        dataset = opened(path, on_bad="skip")
        assert sum(split.size for split in dataset.splits.values()) == 38
        assert dataset.skipped == (("row 1", "0.jpg", "no id (row 1)"), ("row 2", "1.jpg", "no id (row 2)"))


class TestOrder:
    @settings(deadline=None, max_examples=5)
    @given(order=st.permutations(range(40)), text=st.booleans())
    def test_the_order_of_rows_makes_no_difference(self, pictures, tmp_path_factory, order, text):
        folder = tmp_path_factory.mktemp("order")
        columns = rings(split=["train"] * 20 + ["val"] * 10 + ["test"] * 10)
        if text:
            columns["id"] = [f"g{i}" for i in range(40)]
        mixed = {name: [values[i] for i in order] for name, values in columns.items()}
        one, other = (
            opened(write(folder / f"{name}.csv", table), images=pictures)
            for name, table in (("a", columns), ("b", mixed))
        )
        assert (one.fingerprint, one.labelled, one.cache) == (other.fingerprint, other.labelled, other.cache)
        assert everything(one) == everything(other)
        for split in one.splits:
            np.testing.assert_array_equal(
                *(x.splits[split].read(np.arange(x.splits[split].size))["galaxy_id"] for x in (one, other))
            )


class TestSplit:
    def test_of_the_table(self, place):
        split = ["train"] * 10 + ["TRAINING"] * 10 + ["Validation"] * 5 + [" val "] * 5 + ["test"] * 5 + ["Testing"] * 5
        found = everything(opened(write(place / "a.csv", rings(split=split))))
        assert {name: len(rows) for name, rows in found.items()} == {"train": 20, "validation": 10, "test": 10}
        assert sorted(map(int, found["validation"])) == list(range(1020, 1030))
        assert sorted(map(int, found["test"])) == list(range(1030, 1040))
        assert found["test"]["1030"][0] != "[nan, nan]"  # a labelled test set

    def test_none_validating(self, place):
        """Training galaxies are split by their ids; the test galaxies stay."""
        columns = rings(split=["train"] * 30 + ["test"] * 10)
        found = everything(opened(write(place / "a.csv", columns)))
        validates = kaggle_split.side(np.arange(1000, 1030), 0, 0.2)
        assert sorted(map(int, found["validation"])) == (1000 + np.flatnonzero(validates)).tolist()
        assert len(found["train"]) + len(found["validation"]) == 30
        assert sorted(map(int, found["test"])) == list(range(1030, 1040))

    def test_unknown_and_empty(self, place):
        path = write(place / "a.csv", rings(split=["train", "validation", "", "dev", *["train"] * 36]))
        text = refusal(path)
        assert (
            "unknown split: 2: 1002 (row 3, it is empty), 1003 (row 4, 'dev' is not train, validation or test)" in text
        )
        dataset = opened(path, on_bad="skip")
        assert {name: split.size for name, split in dataset.splits.items()} == {"train": 37, "validation": 1}

    def test_none_training(self, place):
        text = refusal(write(place / "a.csv", rings(split=["test"] * 40)))
        assert "is left for train: of " in text

    @pytest.mark.parametrize(("seed", "share"), [(0, 0.2), (7, 0.5)])
    def test_by_hash_as_kaggles_are(self, place, seed, share):
        found = everything(opened(write(place / "a.csv", rings()), seed=seed, validation_fraction=share))
        validates = kaggle_split.side(np.arange(1000, 1040), seed, share)
        assert list(map(int, found["validation"])) == (1000 + np.flatnonzero(validates)).tolist()
        assert list(map(int, found["train"])) == (1000 + np.flatnonzero(~validates)).tolist()

    def test_galaxies_without_labels_are_for_prediction(self, place):
        columns = rings(split=["train"] * 20 + ["validation"] * 20)
        columns["ring_yes"][:3] = columns["ring_no"][:3] = [None] * 3
        found = everything(opened(write(place / "a.csv", columns)))
        assert sorted(found["test"]) == ["1000", "1001", "1002"]
        assert {row[0] for row in found["test"].values()} == {"[nan, nan]"}
        assert {tuple(row[1]) for row in found["test"].values()} == {(0.0, 0.0)}

    def test_all_unlabelled(self, place):
        text = refusal(write(place / "a.csv", rings(ring_yes=[None] * 40, ring_no=[None] * 40)))
        assert "is left for train: of 40 usable galaxies, 0 have labels" in text
        assert "0 have labels" in text


class TestImages:
    def test_wherever_they_are(self, place, tmp_path):
        """Beside the table, in a folder or zip that is named, in one zip beside the table, and below its folders."""
        path = write(place / "a.csv", rings())
        expected = everything(opened(path))
        alone = write(tmp_path / "alone" / "a.csv", rings())
        assert everything(opened(alone, images=place)) == expected
        for inside in ("", "images/deep/"):
            folder = tmp_path / f"zip {len(inside)}"
            table = write(folder / "a.csv", rings())
            with zipfile.ZipFile(folder / "pictures.zip", "w") as file:
                for i in range(40):
                    file.write(place / f"{i}.jpg", f"{inside}{i}.jpg")
            assert everything(opened(table)) == expected
            assert everything(opened(alone, images=folder / "pictures.zip")) == expected

    def test_a_zip_beside_the_images_is_left_alone(self, place):
        """Also where the table's first image is missing."""
        (place / "0.jpg").unlink()
        with zipfile.ZipFile(place / "backup.zip", "w") as file:
            file.writestr("notes.txt", "nothing")
        text = refusal(write(place / "a.csv", rings()))
        assert text.startswith("1 problem in the catalogue")
        assert f"no such file: 1: 1000 (row 1, {place / '0.jpg'})" in text

    def test_kinds_and_sizes_mixed(self, tmp_path):
        names = [f"{i}{('.jpg', '.png', '.fits')[i % 3]}" for i in range(40)]
        for side, some in ((24, names[:10]), (61, names[10:20]), (100, names[20:])):
            write_images(tmp_path, some, side)
        found = everything(opened(write(tmp_path / "a.csv", rings(file=names))))
        pixels = [row[2] for rows in found.values() for row in rows.values()]
        assert {len(one) for one in pixels} == {16 * 16 * 3}

    def test_three_bands(self, tmp_path):
        bands = {band: [f"{band}{i}.{'fits' if i % 2 else 'png'}" for i in range(40)] for band in "gri"}
        for some in bands.values():
            write_images(tmp_path, some, 32)
            for name in some[::2]:
                (tmp_path / name).write_bytes(jpeg(1, (32, 32), mode="L", format="PNG"))
        columns = {name: values for name, values in rings().items() if name != "file"} | bands
        path = write(tmp_path / "a.csv", columns)
        dataset = opened(path, file_columns=["i", "r", "g"])
        assert sum(split.size for split in dataset.splits.values()) == 40
        (tmp_path / "r3.fits").unlink()
        columns["g"][5] = None
        text = refusal(write(path, columns), file_columns=["i", "r", "g"])
        assert "no such file: 1: 1003" in text
        assert "the table names no file in column 'g': 1: 1005" in text

    def test_a_square_larger_than_images_is_padded(self, place):
        dataset = opened(write(place / "a.csv", rings()), sight=Sight(crop=80))
        image = dataset.splits["train"].read(np.arange(1))["image"][0]
        pixels = image.see(size=80)
        assert not pixels[:20].any()
        assert pixels[20:60, 20:60].any()

    def test_pixel_scales_of_each_image(self, tmp_path):
        """Twice the pixels of half the size show the same square."""
        y, x = np.mgrid[:80, :80] - 39.5
        fine = np.repeat((250 * np.exp(-(x**2 + y**2) / 300))[..., None], 3, -1).astype(np.uint8)
        for i in range(40):
            pixels = fine if i % 2 else fine.reshape(40, 2, 40, 2, 3).mean((1, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        columns = rings(file=[f"{i}.png" for i in range(40)], scale=[0.4, 0.2] * 20)
        dataset = opened(write(tmp_path / "a.csv", columns), sight=Sight(field=8.0, scale_column="scale"))
        read = dataset.splits["train"].read(np.arange(dataset.splits["train"].size))
        shown = [image.see(size=16).astype(int) for image in read["image"]]
        assert max(np.abs(one - shown[0]).max() for one in shown) <= 3
        assert shown[0].std() > 10
        columns["scale"][:5] = [0.0, -1.0, None, np.nan, np.inf]
        text = refusal(write(tmp_path / "a.parquet", columns), sight=Sight(field=8.0, scale_column="scale"))
        assert "pixel scale is missing or not positive: 5: 1000 (row 1, scale = 0)" in text

    def test_an_image_that_changes_later_is_named(self, place):
        dataset = opened(write(place / "a.csv", rings()))
        for i in range(40):
            (place / f"{i}.jpg").write_bytes(b"no image")
        image = dataset.splits["train"].read(np.arange(1))["image"][0]
        with pytest.raises(UserError, match=r"the image of galaxy 10\d\d \(\d+\.jpg\) cannot be read any more"):
            image.see(size=16)


class TestFingerprint:
    def changed(self, place, change, **how):
        """(whether the fingerprint changed, whether the cache's name did)."""
        columns = rings(scale=[0.5] * 40, note=["x"] * 40, split=["train"] * 20 + ["val"] * 20)
        sight = Sight(field=10.0, scale_column="scale")
        before = opened(write(place / "a.csv", columns), sight=sight)
        path = change(columns) or write(place / "a.csv", columns)
        after = opened(path, **{"sight": sight, "store": place / "store", **how})
        return before.fingerprint != after.fingerprint, before.cache != after.cache

    @pytest.mark.parametrize(
        ("column", "value"),
        [("ring_yes", 19.5), ("id", 999), ("file", "./0.jpg"), ("split", "test"), ("scale", 0.25)],
    )
    def test_changes_with_what_matters(self, place, column, value):
        def change(columns):
            columns[column][0] = value

        assert self.changed(place, change) == (True, True)

    def test_changes_with_an_images_size(self, place):
        assert self.changed(place, lambda _: (place / "0.jpg").write_bytes(jpeg(77, (60, 60))) and None) == (True, True)

    def test_an_image_of_the_same_size_is_looked_at_again(self, place):
        """FITS images of one shape all have one size."""

        def change(_):
            data = bytearray((place / "0.jpg").read_bytes())
            data[-40] ^= 1
            os.truncate(place / "0.jpg", 0)
            (place / "0.jpg").write_bytes(bytes(data))

        assert self.changed(place, change) == (False, True)

    def test_stays_with_what_does_not_matter(self, place):
        def change(columns):
            columns["note"][0] = "y"
            columns["another"] = [1] * 40

        assert self.changed(place, change) == (False, False)

    def test_stays_where_everything_moves(self, place, tmp_path):
        def change(_):
            shutil.move(place, tmp_path / "there")
            return tmp_path / "there" / "a.csv"

        assert self.changed(place, change, store=tmp_path / "there" / "store") == (False, False)

    @pytest.mark.parametrize("how", [{"seed": 1}, {"validation_fraction": 0.3}, {"on_bad": "skip"}])
    def test_changes_with_how_it_is_read(self, place, how):
        assert self.changed(place, lambda _: None, **how) == (True, True)

    def test_test_galaxies_may_come_later(self, place):
        columns = rings(split=["train"] * 20 + ["val"] * 10 + ["test"] * 10)
        fewer = {name: values[:35] for name, values in columns.items()}
        one, other = (opened(write(place / "a.csv", some)) for some in (columns, fewer))
        assert one.fingerprint != other.fingerprint
        assert one.labelled == other.labelled == one.identity


class TestProblems:
    def test_faulty_rows_are_left_out(self, place):
        columns = rings()
        columns["ring_yes"][3] = -1
        columns["file"][4] = "gone.jpg"
        (place / "5.jpg").write_bytes(b"\xff\xd8\xff nothing")
        columns["ring_yes"][6], columns["file"][6] = None, ""  # two faults, one row
        path = write(place / "a.csv", columns)
        text = refusal(path)
        assert text.startswith(f"5 problems in the catalogue at {path}:\n")
        assert text.endswith("Repair the table, or go on without these galaxies: --config.data.on_bad=skip")
        for line in (
            "count is negative or above 1e9: 1: 1003 (row 4, ring_yes = -1)",
            f"no such file: 1: 1004 (row 5, {place / 'gone.jpg'})",
            "labels of a part of a question's answers: 1: 1006 (row 7, no number for ring_yes)",
            "the table names no file: 1: 1006 (row 7)",
            "image: damaged or unreadable: 1: 1005",
        ):
            assert line in text.replace("image: not a JPEG, PNG, TIFF or FITS image", "image: damaged or unreadable")
        dataset = opened(path, on_bad="skip")
        assert [one[:2] for one in dataset.skipped] == [
            ("1003", "3.jpg"), ("1006", ""), ("1004", "gone.jpg"), ("1005", "5.jpg"),
        ]  # fmt: skip
        good = everything(opened(write(place / "b.csv", {
            name: [values[i] for i in range(40) if i not in (3, 4, 5, 6)] for name, values in columns.items()
        })))  # fmt: skip
        assert everything(dataset) == good

    def test_an_id_used_twice(self, place):
        path = write(place / "a.csv", rings(id=[1, 1, *range(2, 40)]))
        assert "id used more than once: 2: 1 (row 1), 1 (row 2)" in refusal(path)
        dataset = opened(path, on_bad="skip")
        assert len(dataset.skipped) == 2
        assert sum(split.size for split in dataset.splits.values()) == 38

    def test_the_check_is_kept(self, place):
        (place / "5.jpg").write_bytes(b"no image")
        path = write(place / "a.csv", rings())
        one = opened(path, on_bad="skip")
        (saved,) = (place / "store").rglob("checked.json")
        assert json.loads(saved.read_text()) == [["1005", "5.jpg", "image: not a JPEG, PNG, TIFF or FITS image", ""]]
        before = saved.stat().st_mtime_ns
        assert opened(path, on_bad="skip").skipped == one.skipped
        assert saved.stat().st_mtime_ns == before
        saved.write_text("[[")
        text = refusal(path, on_bad="skip")
        assert f"{saved} cannot be read" in text
        assert "remove it" in text

    def test_no_row_is_usable(self, place):
        text = refusal(write(place / "a.csv", rings(file=["gone.jpg"] * 40)), on_bad="skip")
        assert "No row can be used" in text
        assert "no such file: 40" in text

    def test_another_kind_of_labels_ends_early(self, tmp_path):
        n = 150_000
        columns = {"id": np.arange(n), "file": ["x.jpg"] * n, "ring_yes": np.full(n, 7), "ring_no": np.full(n, 5)}
        text = refusal(write(tmp_path / "a.parquet", columns), labels="joint")
        assert "fraction outside 0..1: 100001" in text
        assert "Are these the right columns?" in text
        assert len(text) < 2_000

    def test_remarks_on_images(self, tmp_path, caplog):
        names = [f"{i}.png" for i in range(40)]
        for name in names:
            (tmp_path / name).write_bytes(jpeg(1, (5, 5), mode="L", format="PNG"))
        opened(write(tmp_path / "a.csv", rings(file=names)))
        assert "40 one band, shown grey" in caplog.text
        assert "40 small" in caplog.text


NO_TABLES = {
    "JPEG.csv": (lambda path: path.write_bytes(jpeg(0)), "it is not text in UTF-8"),
    "empty.csv": (lambda path: path.write_bytes(b""), "it has no columns"),
    "empty.parquet": (lambda path: path.write_bytes(b""), "cannot read"),
    "empty.fits": (lambda path: path.write_bytes(b""), "holds no table"),
    "header.csv": (lambda path: path.write_text("id,file,ring_yes,ring_no\n"), "no rows"),
    "folder.csv": (lambda path: path.mkdir(), "Is a directory"),
    "folder.parquet": (lambda path: path.mkdir(), "cannot read"),
    "folder.fits": (lambda path: path.mkdir(), "Is a directory"),
    "image.fits": (lambda path: fits.PrimaryHDU(np.ones((9, 9))).writeto(path), "it holds no table"),
    "UTF-16.csv": (lambda path: path.write_text("id,file,ring_yes,ring_no\n1,a,1,1\n", "utf-16"), "not text in UTF-8"),
    "Latin.csv": (lambda path: path.write_text("id,file,ring_yes,ring_no\né,a,1,1\n", "latin-1"), "UTF-8"),
    "semicolons.csv": (lambda path: path.write_text("id;file;ring_yes\n1;a;2\n"), "';' between its columns"),
    "tabs.csv": (lambda path: path.write_text("id\tfile\tring_yes\n1\ta\t2\n"), r"'\t' between its columns"),
    "ragged.csv": (lambda path: path.write_text("id,file,ring_yes,ring_no\n1,a,1,1\n2,b\n"), "does not have 4 fields"),
    "twice.csv": (lambda path: path.write_text("id,file,ring_yes,ring_no,ring_no\n1,a,1,1,1\n"), "more than once"),
    "split.csv": (lambda path: path.write_text("id,file,ring_yes,ring_no,split,split\n1,a,1,1,,\n"), "more than once"),
    "wide.csv": (
        lambda path: path.write_text(",".join(f"ring_{i}" for i in range(10_000)) + "\n" + ",".join("1" * 10_000)),
        "no column 'id'",
    ),
    "binary.csv": (lambda path: path.write_bytes(b"id,file,ring_yes,ring_no\n\0\0\0\n"), "does not have 4 fields"),
    "not there.csv": (lambda path: None, "No such file"),
    "table.csv.gz": (lambda path: path.write_bytes(b""), "is not a table that can be read"),
    "table.xlsx": (lambda path: path.write_bytes(b"PK"), "is not a table that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_TABLES)
def test_no_table(name, tmp_path):
    make, what = NO_TABLES[name]
    make(tmp_path / name)
    text = refusal(tmp_path / name)
    assert what in text
    assert str(tmp_path / name) in text
    assert "\n" not in text
    assert len(text) < 3_000
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["parquet", "fits"])
def test_a_truncated_table(kind, place):
    path = write(place / f"a.{kind}", rings())
    data = path.read_bytes()
    for keep in (10, len(data) // 2, len(data) - 2_900, len(data) - 1):
        path.write_bytes(data[: max(keep, 1)])
        if kind == "fits" and keep == len(data) - 1:
            opened(path)  # the padding of the last block is not needed
            continue
        assert str(path) in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(place):
    path = write(place / "a.csv", rings())
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_ten_thousand_columns(place):
    columns = rings() | {f"feature {i}": [0.5] * 40 for i in range(10_000)}
    assert everything(opened(write(place / "a.parquet", columns))) == everything(
        opened(write(place / "b.csv", rings()))
    )


@pytest.mark.parametrize(
    "name", ["~a\0b", "a" * 5000, "..", " ", ".", "/dev/zero", "http://x.org/0.jpg", "\ud83d\ude00"]
)
def test_names_of_files_that_cannot_be(name, place):
    name = name.encode("utf-16", "surrogatepass").decode("utf-16")
    columns = rings()
    for row in (0, 7):
        columns["file"][row] = name
    path = write(place / "a.parquet", columns)
    dataset = opened(path, on_bad="skip")
    assert [one[0] for one in dataset.skipped] == ["1000", "1007"]
    assert sum(split.size for split in dataset.splits.values()) == 38


def test_trees_of_one_question_and_classes(place):
    columns = rings(**{"class": ["yes", "no", "Ring", "ring_no"] * 10})
    del columns["ring_yes"], columns["ring_no"]
    path = write(place / "a.csv", columns)
    found = everything(opened(path, labels="class"))
    both = found["train"] | found["validation"]
    expected = ["[1.0, 0.0]", "[0.0, 1.0]"] * 20
    assert [both[str(1000 + i)][0] for i in range(40)] == expected
    columns["class"] = pa.array(columns["class"]).dictionary_encode()
    assert everything(opened(write(place / "a.parquet", columns), labels="class")) == found
    columns["class"] = ["maybe", *["yes"] * 39]
    text = refusal(write(path, {**columns, "class": columns["class"]}), labels="class")
    assert "unknown answer of ring: 1: 1000 (row 1, 'maybe')" in text


def test_rest(place):
    columns = rings(p=[0.25] * 39 + [1.2])
    path = write(place / "a.csv", columns)
    how = {"labels": "joint", "columns": "yes=p, no=rest"}
    text = refusal(path, **how)
    assert re.search(r"fraction outside 0\.\.1: 1: 1039 \(row 40, ring_yes = 1\.2 and 1 more\)", text)
    found = everything(opened(path, on_bad="skip", **how))
    assert {row[0] for rows in found.values() for row in rows.values()} == {"[0.25, 0.75]"}


def test_a_table_in_memory_of_another_program(place):
    """pandas' Parquet has an index and metadata of its own; a CSV may have a byte order mark and Windows' lines."""
    table = pa.table(rings()).append_column("__index_level_0__", pa.array(range(40)))
    parquet.write_table(table.replace_schema_metadata({"pandas": "{}"}), place / "a.parquet")
    text = io.StringIO()
    columns = rings()
    print(*columns, sep=",", file=text)
    for row in zip(*columns.values(), strict=True):
        print(*row, sep=",", file=text)
    (place / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().replace("\n", "\r\n").encode())
    assert everything(opened(place / "a.csv")) == everything(opened(place / "a.parquet"))


def test_tree_of_the_dataset(place):
    dataset = opened(write(place / "a.csv", rings()))
    assert dataset.tree == RINGS
    assert dataset.statistics["galaxies"] == {name: split.size for name, split in dataset.splits.items()}


def test_ids_that_differ_by_a_nul(place):
    """NumPy drops it at the end of a text, so that two galaxies would have one id."""
    path = write(place / "a.parquet", rings(id=["a", "a\0", *map(str, range(38))]))
    (left_out,) = opened(path, on_bad="skip").skipped
    assert left_out[2].startswith("id with a NUL character")


@pytest.mark.parametrize("name", ["extension", "extensions", "planes", "scales", "sky", "noise"])
@pytest.mark.parametrize("text", ["9" * 5000, "nan", "1,2", ",", "²", "1e999,1,1", "-1,0,1", "x,y,z", "\0"])
def test_what_is_said_of_fits_data_is_taken_or_refused(name, text):
    try:
        seen = sight.make(fits={name: text})
    except UserError as error:
        if f"--config.fits.{name}" not in str(error) and f"{name}=" not in str(error):
            raise
        return
    assert hash(seen) == hash(sight.make(fits={name: text}))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"crop": 100, "share": 0.5}, "--config.data.crop=100 and --config.data.share=0.5"),
        ({"field": 10.0}, "go together"),
        ({"pixel_scale": "0.2"}, "go together"),
        ({"field": 10.0, "pixel_scale": "nan"}, "must be positive"),
        ({"field": 10.0, "pixel_scale": "-1"}, "must be positive"),
    ],
)
def test_squares_that_cannot_be(given, what):
    with pytest.raises(UserError, match=re.escape(what)):
        sight.make(fits={}, **given)
