"""Catalogues of images: folders, globs, zips and tables; what is left out; ids; the paths in tables."""

import bz2
import gzip
import os
import pathlib
import pwd
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from pyarrow import csv, parquet
from test_images import as_fits, encode

from gz_jax.data import archive, identifiers, inputs, listing
from gz_jax.data.inputs import Catalogue, list_inputs, read_batches
from gz_jax.inference.manifest import Rows
from gz_jax.runtime.errors import UserError

PICTURE = encode(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
SDSS = [1237648720693755918, 1237648720693755919]  # 19 digits
LARGEST = 2**63 - 1


@pytest.fixture
def home(tmp_path, monkeypatch) -> pathlib.Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def put(root: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PICTURE)
    return root


def zipped(path: pathlib.Path, contents: dict[str, bytes]) -> pathlib.Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return path


def table(path: pathlib.Path, **columns) -> pathlib.Path:
    """A table in the format that the suffix says."""
    name = path.name.lower()
    if name.endswith(".csv"):
        csv.write_csv(pa.table(columns), path)
    elif name.endswith(".parquet"):
        parquet.write_table(pa.table(columns), path)
    else:
        data = as_fits(fits.PrimaryHDU(), binary_table(**columns))
        packs = {".gz": gzip.compress, ".bz2": bz2.compress}
        path.write_bytes(packs.get(path.suffix.lower(), bytes)(data))
    return path


def binary_table(**columns) -> fits.BinTableHDU:
    def column(name, values):
        values = np.array(["" if value is None else value for value in values])
        if values.dtype.kind == "U":
            return fits.Column(name, f"{max(1, values.dtype.itemsize // 4)}A", array=values)
        if values.dtype == np.uint64:
            return fits.Column(name, "K", array=values, bzero=2**63)
        return fits.Column(name, {"i8": "K", "f8": "D", "f4": "E"}[values.dtype.str[1:]], array=values)

    return fits.BinTableHDU.from_columns([column(*pair) for pair in columns.items()])


FORMATS = ("a.csv", "a.parquet", "a.fits", "a.fit.gz", "A.FITS.bz2")


# Folders and links


def linked(root: pathlib.Path) -> pathlib.Path:
    """Images below links: beside the folder, below another link, and loops of all kinds."""
    put(root.parent / "elsewhere", "1.png", "deep/2.png")
    put(root, "3.png", "sub/4.png", "sub/5.png")
    for name, target in {
        "link": root.parent / "elsewhere",
        "sub/again": root.parent / "elsewhere",  # a second way to the same images
        "sub/up": "..",
        "self": ".",
        "broken": "nowhere",
        "6.png": "nowhere.png",
        "loop": "loop",
        "7.png": root / "3.png",
    }.items():
        (root / name).symlink_to(target)
    return root


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    root = linked(tmp_path / "root")
    found = list_inputs(root)
    assert found.ids.tolist() == ["3", "7", "link/1", "link/deep/2", "sub/4", "sub/5"]
    assert [found.read(i).read_bytes() for i in range(6)] == [PICTURE] * 6
    assert found.left_out == {"broken link": 3, "link to a folder that is listed already": 3}
    everywhere = list_inputs(f"{root}/**/*.png")
    assert everywhere.ids.tolist() == found.ids.tolist()
    assert list_inputs(f"{root}/**").ids.tolist() == found.ids.tolist()
    assert list_inputs(f"{root}/*/*.png").ids.tolist() == sorted(
        [*(f"{folder}/{i}" for folder, i in (("link", 1), ("sub", 4), ("sub", 5))), "self/3", "self/7"]
    )
    (tmp_path / "root_by_link").symlink_to(root)
    assert list_inputs(tmp_path / "root_by_link").ids.tolist() == found.ids.tolist()


def test_many_links_between_folders_end_soon(tmp_path):
    """Thirty folders that link to one another: the ways through them are more than could be walked."""
    folders = [put(tmp_path / f"d{i}", f"{i}.png") for i in range(30)]
    for folder in folders:
        for other in folders:
            (folder / other.name).symlink_to(other)
    assert len(list_inputs(tmp_path).ids) == len(list_inputs(f"{tmp_path}/**/*.png").ids) == 30
    assert len(list_inputs(folders[3]).ids) == 30


def test_kaggles_extracted_folder_may_hold_links(tmp_path):
    put(tmp_path / "big_disk", "1.jpg")
    folder = put(tmp_path / "images_training_rev1", "2.jpg", ".hidden/3.jpg", "__MACOSX/4.jpg")
    (folder / "part").symlink_to(tmp_path / "big_disk")
    (folder / "loop").symlink_to(folder)
    (folder / "5.jpg").symlink_to("nowhere.jpg")
    source = archive.from_folder(folder, ".jpg")
    assert sorted(source.sizes) == ["images_training_rev1/2.jpg", "images_training_rev1/part/1.jpg"]
    assert source.read("images_training_rev1/part/1.jpg") == PICTURE


def test_a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    put(tmp_path, "1.png", "closed/2.png")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(os.path.normpath(path)) == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    assert list_inputs(tmp_path).left_out == {"folder that cannot be read (Permission denied)": 1}
    with pytest.raises(UserError, match=r"cannot list .*Permission denied"):
        list_inputs(tmp_path / "closed")


# What is left out

OTHERS = {
    **{f"{i}.webp": b"x" for i in range(3)},
    "a/b.BMP": b"x",
    "notes.txt": b"x",
    "table.csv": b"x",
    "README": b"x",
    ".hidden.webp": b"x",
    ".thumbnails/1.png": PICTURE,
    "__MACOSX/._1.png": PICTURE,
}
COUNTED = {".webp": 3, ".bmp": 1, ".txt": 1, ".csv": 1, "without a suffix": 1}


@pytest.fixture(params=["folder", "zip", "glob"])
def mixed(request, tmp_path):
    """A function that lays files out and returns what to list."""

    def lay_out(contents: dict[str, bytes]) -> str:
        if request.param == "zip":
            return str(zipped(tmp_path / "a.zip", contents))
        for name, data in contents.items():
            (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "all" / name).write_bytes(data)
        return str(tmp_path / "all") + ("/**/*" if request.param == "glob" else "")

    return lay_out


def test_other_files_are_counted_by_suffix(mixed):
    suffixes = ("jpg", "JPEG", "png", "tif", "TIFF", "fits", "fit", "fts", "fits.gz", "fits.bz2", "fit.BZ2", "fits.fz")
    found = list_inputs(mixed(OTHERS | {f"{i}.{suffix}": PICTURE for i, suffix in enumerate(suffixes)}))
    assert found.ids.tolist() == list(range(12))
    assert dict(found.left_out) == COUNTED
    assert inputs.left_out_text(found) == (
        "left out: 3 .webp, 1 .bmp, 1 .csv, 1 .txt, 1 without a suffix; JPEG, PNG, TIFF and FITS are read"
    )


def test_nothing_but_other_files(mixed):
    with pytest.raises(UserError, match=r"no image files \(JPEG.*\); there are 3 \.webp, 1 \.bmp, 1 \.csv"):
        list_inputs(mixed(OTHERS))


def test_nothing_is_said_where_nothing_is_left_out(tmp_path):
    assert inputs.left_out_text(list_inputs(put(tmp_path, "1.png"))) == ""
    many = Catalogue(np.zeros(0), lambda i: b"", "x", left_out={f".{i:02d}": 1 for i in range(20)} | {".z": 5})
    assert inputs.left_out_text(many).startswith(
        "left out: 5 .z, 1 .00, 1 .01, 1 .02, 1 .03, 1 .04, 1 .05, 1 .06, 13 oth"
    )


def test_names_that_differ_in_suffix_alone_are_refused(mixed):
    spec = mixed({"b/5.fits": PICTURE, "b/5.fits.gz": PICTURE, "b/6.png": PICTURE, "b/7.JPG": PICTURE})
    with pytest.raises(UserError, match=r"1 id is used more than once, the first is 5, by 5\.fits and 5\.fits\.gz"):
        list_inputs(spec)


# Identity


def digest_of(spec, **how):
    found = list_inputs(spec, **how)
    return Rows(found.ids, found.files, found.stamps).digest


def test_identity_is_of_ids_and_files(tmp_path):
    def of(name="a.csv", ids=(1, 2), files=("a.png", "b.png"), how=None, **more):
        path = table(tmp_path / name, id=list(ids), file=list(files), **more)
        return digest_of(path, **(how or {}))

    first = of()
    assert len(first) == 16
    assert {of(), of("b.csv"), of("b.parquet"), of("b.fits"), of("b.csv", z=[0.1, 0.2])} == {first}
    changed = [
        of(files=("a.png", "c.png")),
        of(files=("b.png", "a.png")),
        of(files=("a.png", None)),
        of(files=("a.pngb", ".png")),
        of(ids=(1, 3)),
        of(ids=(2, 1)),
        of(g=["a.png"] * 2, r=["b.png"] * 2, how={"file_columns": ("g", "r", "file")}),
        of(g=["a.png"] * 2, r=["b.png"] * 2, how={"file_columns": ("r", "g", "file")}),
    ]
    assert len({first, *changed}) == 1 + len(changed)


def test_identity_of_folders_and_zips(tmp_path):
    a, b = (put(tmp_path / name, "1.png", "sub/2.png") for name in "ab")
    first = digest_of(a)
    assert first == digest_of(b) == digest_of(f"{b}/**/*.png")
    put(a, "sub/3.png")
    assert digest_of(a) != first
    (b / "1.png").rename(b / "1.jpg")
    assert digest_of(b) not in (first, digest_of(a))
    names = {"1.png": PICTURE, "2.png": PICTURE}
    marks = [
        digest_of(zipped(tmp_path / name, contents))
        for name, contents in (
            ("a.zip", names),
            ("b.zip", names),
            ("c.zip", names | {"1.png": PICTURE[:-1] + b"x"}),
            ("d.zip", names | {"1.png": PICTURE + b"x"}),
            ("e.zip", {"1.png": PICTURE, "2.jpg": PICTURE}),
        )
    ]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 4


# Ids


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "ids",
    [SDSS, [LARGEST, -(2**63)], [0, -5], [str(i) for i in SDSS], [f" {i} " for i in SDSS]],
    ids=["19 digits", "ends", "small", "text", "spaces"],
)
def test_whole_numbers_of_64_bits_stay_numbers(tmp_path, name, ids):
    found = list_inputs(table(tmp_path / name, id=ids, file=["a.png", "b.png"])).ids
    assert found.dtype == np.int64
    assert found.tolist() == [int(i) for i in ids]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "ids",
    [
        *(["007", "7"], [str(LARGEST + 1), "1"], [str(-(2**63) - 1), "1"], ["M31", "1"], ["1.5", "2.25"]),
        *(["1.10", "1.1"], ["-0", "1"], ["+5", "6"], ["٣", "4"], ["12e4567a", "3"], [".5", "5."], ["0x10", "2"]),
    ],
)
def test_other_ids_stay_text_as_they_are(tmp_path, name, ids):
    if "٣" in ids and "fit" in name.lower():
        pytest.skip("FITS is ASCII")
    found = list_inputs(table(tmp_path / name, id=ids, file=["a.png", "b.png"])).ids
    assert found.dtype.kind == "U"
    assert found.tolist() == ids


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.int32(), [5, -7], [5, -7]),
        (pa.uint8(), [5, 255], [5, 255]),
        (pa.uint64(), [5, LARGEST], [5, LARGEST]),
        (pa.uint64(), [5, 2**64 - 1], ["5", "18446744073709551615"]),
        (pa.dictionary(pa.int32(), pa.int64()), SDSS, SDSS),
        (pa.dictionary(pa.int32(), pa.string()), ["a", "b"], ["a", "b"]),
        (pa.decimal128(20, 0), SDSS, SDSS),
        (pa.decimal128(22, 2), [5, 7], [5, 7]),
        (pa.large_string(), ["5", "7"], [5, 7]),
        (pa.binary(), [b"5", b"7"], [5, 7]),
        (pa.float64(), [5.0, 2.0**53], [5, 2**53]),
        (pa.float32(), [5.0, 2.0**24], [5, 2**24]),
        (pa.timestamp("ms"), [0, 1], ["1970-01-01 00:00:00.000", "1970-01-01 00:00:00.001"]),
        (pa.bool_(), [True, False], ["true", "false"]),
    ],
    ids=str,
)
def test_ids_of_every_type_of_parquet(tmp_path, kind, values, expected):
    column = pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)
    path = table(tmp_path / "a.parquet", id=column, file=["a.png", "b.png"])
    found = list_inputs(path).ids
    assert found.tolist() == expected
    assert (found.dtype == np.int64) == isinstance(expected[0], int)


def test_unsigned_and_scaled_ids_in_fits(tmp_path):
    path = table(tmp_path / "a.fits", id=np.array([5, 2**63 + 5], np.uint64), file=["a", "b"])
    assert list_inputs(path).ids.tolist() == ["5", str(2**63 + 5)]
    unit = fits.BinTableHDU.from_columns(
        [fits.Column("id", "J", null=-1, array=[5, -1, 6]), fits.Column("file", "1A", array=["a"] * 3)]
    )
    path.write_bytes(as_fits(fits.PrimaryHDU(), unit))
    with pytest.raises(UserError, match="1 rows without an id"):
        list_inputs(path)


@pytest.mark.parametrize("name", FORMATS)
def test_ids_that_floating_point_has_spoilt_are_refused(tmp_path, name):
    path = table(tmp_path / name, id=np.array(SDSS, float), file=["a", "b"])
    with pytest.raises(UserError, match=rf"{name}: column 'id' is stored as floating point and has lost digits"):
        list_inputs(path)


@pytest.mark.parametrize(
    "texts",
    [["1.237648720693755e+18", "7"], ["5.87723E+17", "5.87724E+17"], ["9007199254740994.0", "7"], ["1e5", "2e5"]],
)
def test_so_are_texts_in_its_notation(tmp_path, texts):
    for name in FORMATS:
        with pytest.raises(UserError, match="'id' is stored as floating point and has lost digits"):
            list_inputs(table(tmp_path / name, id=texts, file=["a", "b"]))


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        ("a.parquet", [1.5, 2.0], "column 'id' holds 1.5: an id must be a whole number or a text"),
        ("a.fits", [1.5, 2.0], "column 'id' holds 1.5: an id must be a whole number or a text"),
        ("a.fits", np.array([2**24 + 2, 1], np.float32), "has lost digits"),
        ("a.parquet", np.array([2**24 + 2, 1], np.float32), "has lost digits"),
        ("a.parquet", [float("inf"), 2.0], "has lost digits"),
        ("a.parquet", [float("nan"), 2.0], "1 rows without an id"),
        ("a.fits", [float("nan"), 2.0], "1 rows without an id"),
        ("a.parquet", ["", "2"], "1 rows without an id"),
        ("a.csv", ["", "2"], "1 rows without an id"),
        ("a.fits", ["", "2"], "1 rows without an id"),
        ("a.parquet", [[1], [2]], "cannot read .* as a table"),
        ("a.csv", ["x" * 1001, "2"], "longest id has 1001 characters"),
    ],
)
def test_ids_that_cannot_be(tmp_path, name, ids, message):
    with pytest.raises(UserError, match=message) as refused:
        list_inputs(table(tmp_path / name, id=ids, file=["a", "b"]))
    assert name in str(refused.value)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_floats_are_whole_numbers(tmp_path, name):
    path = table(tmp_path / name, id=np.array([5.0, 7.0]), file=["a", "b"])
    assert list_inputs(path).ids.tolist() == [5, 7]
    path = table(tmp_path / name, id=["5.0", "7."], file=["a", "b"])  # as pandas writes them beside gaps
    assert list_inputs(path).ids.tolist() == [5, 7]


@pytest.mark.parametrize("name", FORMATS)
def test_an_id_used_twice_names_the_rows(tmp_path, name):
    for ids in ([7, 8, 7, 8], ["x", "y", "x", "y"]):
        with pytest.raises(
            UserError, match=rf"2 ids are used more than once, the first is {ids[0]}, in rows 1 \(a\) a"
        ):
            list_inputs(table(tmp_path / name, id=ids, file=["a", "b", "c", "d"]))
    assert len(list_inputs(table(tmp_path / name, id=[1, 2], file=["a", "a"])).ids) == 2  # one file twice is no fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("587722981742084096", (587722981742084096, "")),
        (str(LARGEST), (LARGEST, "")),
        (str(-(2**63)), (-(2**63), "")),
        ("007", (7, "")),
        ("0" * 5000, (0, "")),
        (str(LARGEST + 1), (None, f"is too large for 64 bits (at most {LARGEST})")),
        ("9" * 5000, (None, f"is too large for 64 bits (at most {LARGEST})")),
        ("1.2376e+18", (None, "is floating point, which loses digits")),
        ("M31", (None, "is not a whole number")),
        ("", (None, "is not a whole number")),
        ("1_000", (None, "is not a whole number")),
        ("²", (None, "is not a whole number")),
    ],
)
def test_one_id(text, expected):
    assert identifiers.parse(text) == expected


def test_file_names_are_no_floating_point(tmp_path):
    assert list_inputs(put(tmp_path / "a", "1e5.png", "2e5.png")).ids.tolist() == ["1e5", "2e5"]
    assert list_inputs(put(tmp_path / "b", "5.0.png", "6.0.png")).ids.tolist() == ["5.0", "6.0"]
    assert list_inputs(put(tmp_path / "c", f"{SDSS[1]}.png", f"{SDSS[0]}.png")).ids.tolist() == SDSS
    assert list_inputs(put(tmp_path / "d", "007.png", "8.png")).ids.tolist() == ["007", "8"]
    deep = "/".join(["x" * 200] * 6)
    assert list_inputs(put(tmp_path / "e", f"{deep}/1.png", "2.png")).ids.tolist() == ["2", f"{deep}/1"]


# Tables


@pytest.mark.parametrize("name", FORMATS)
def test_tables_of_every_format_read_the_same(tmp_path, name):
    put(tmp_path, "sub/a.png")
    files = ["sub/a.png", "sub/b.png", None, str(tmp_path / "sub/a.png")]
    path = table(tmp_path / name, z=[0.1, 0.2, 0.3, 0.4], id=[9, 1, 5, 4], file=files, other=["x", "y", "z", "w"])
    (batch,) = read_batches(list_inputs(path), 10, size=4)
    assert batch["flag"].tolist() == [0, 2, 2, 0]
    assert batch["reason"][1] == f"no such file: {tmp_path}/sub/b.png"
    assert "names no file" in batch["reason"][2]
    with pytest.raises(UserError) as refused:
        list_inputs(path, id_column="ID", file_column="filename")
    message = str(refused.value)
    for text in (
        "no column 'ID' and 'filename'",
        "near 'ID': 'id'",
        "near 'filename': 'file'",
        "--id_column",
        "--file_c",
    ):
        assert text in message


def test_a_fits_table_may_stand_in_any_extension(tmp_path):
    path = tmp_path / "a.fits"
    image = fits.ImageHDU(np.zeros((50, 60), np.float32))
    good, other = binary_table(id=[1, 2], file=["a", "b"]), binary_table(ra=[0.1, 0.2])
    for units in ([other, good], [image, good], [good, image], [fits.CompImageHDU(np.zeros((50, 60))), good]):
        for pack, suffix in ((bytes, ""), (gzip.compress, ".gz"), (bz2.compress, ".bz2")):
            path = tmp_path / f"a.fits{suffix}"
            path.write_bytes(pack(as_fits(fits.PrimaryHDU(), *units)))
            assert list_inputs(path).ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    "units",
    [
        [fits.PrimaryHDU(np.zeros((50, 60), np.float32))],
        [fits.PrimaryHDU(), fits.ImageHDU(np.zeros((50, 60), np.float32))],
        [fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((50, 60), np.float32))],
        [fits.PrimaryHDU(np.zeros((50, 60), np.float32)), binary_table(ra=[0.1])],
        [fits.PrimaryHDU(), binary_table(ra=[0.1]), fits.ImageHDU(np.zeros((50, 60), np.float32))],
    ],
    ids=["primary", "extension", "compressed", "image and table", "table and image"],
)
def test_a_fits_image_stays_one_image(tmp_path, units):
    path = tmp_path / "5.fits"
    path.write_bytes(as_fits(*units))
    found = list_inputs(path)
    assert found.ids.tolist() == [5]
    assert found.read(0) == path
    path.write_bytes(path.read_bytes()[:3000])
    assert list_inputs(path).ids.tolist() == [5]  # damaged: a row with a reason
    path.write_bytes(b"")
    assert list_inputs(path).ids.tolist() == [5]


def test_a_fits_table_without_the_columns(tmp_path):
    path = table(tmp_path / "a.fits", OBJID=[1, 2], FILE=["a", "b"])
    with pytest.raises(UserError, match="no column 'id' and 'file'; it has OBJID, FILE; near 'id': 'OBJID'; near"):
        list_inputs(path)
    assert list_inputs(path, id_column="OBJID", file_column="FILE").ids.tolist() == [1, 2]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_a_truncated_or_endless_fits_table(tmp_path, monkeypatch, pack):
    path = tmp_path / "a.fits"
    data = as_fits(fits.PrimaryHDU(), binary_table(id=np.arange(2000), file=["abc"] * 2000))
    path.write_bytes(pack(data[:-9000]))
    with pytest.raises(UserError, match=r"truncated: \d+ of 2000 rows are there"):
        list_inputs(path)
    if pack is gzip.compress:
        path.write_bytes(pack(data)[:4000])
        with pytest.raises(UserError, match=r"cannot read .*a\.fits as a table"):
            list_inputs(path)
    path.write_bytes(pack(data.replace(b"                2000", b"          2000000000")))
    with pytest.raises(UserError, match="says it has 2000000000 rows; more than 100000000 are refused"):
        list_inputs(path)


def test_fits_rows_are_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("gz_jax.data.fits_table._AT_ONCE", 1000)
    ids, files = np.arange(2000) + SDSS[0], [f"{i}.png" for i in range(2000)]
    found = list_inputs(table(tmp_path / "a.fits", id=ids, file=files, z=np.zeros(2000)))
    np.testing.assert_array_equal(found.ids, ids)
    with pytest.raises(UserError, match=r"no such file: .*/1999\.png"):
        found.read(1999)


def card(name: str, value: object) -> bytes:
    return f"{name:8}= {value:>20}".encode().ljust(80)


def hostile_header(*cards: tuple[str, object], end: bool = True) -> bytes:
    first = (("XTENSION", "'BINTABLE'"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 10), ("NAXIS2", 5), ("PCOUNT", 0))
    data = b"".join(card(*pair) for pair in dict((*first, ("GCOUNT", 1), *cards)).items())
    data += b"END".ljust(80) * end
    return data + b" " * (-len(data) % 2880)


COLUMNS = (("TFIELDS", 2), ("TTYPE1", "'id'"), ("TFORM1", "'K'"), ("TTYPE2", "'file'"), ("TFORM2", "'2A'"))
LIES = {
    "no end": hostile_header(*((f"K{i}", i) for i in range(100_000)), end=False),
    "many extensions": hostile_header(("TFIELDS", 0), ("NAXIS", 0)) * 5_000,
    "negative": hostile_header(*COLUMNS, ("NAXIS2", -5)),
    "beyond 64 bits": hostile_header(*COLUMNS, ("NAXIS2", 10**30)),
    "wide": hostile_header(*COLUMNS, ("NAXIS1", 10**12)),
    "no number": hostile_header(*COLUMNS, ("NAXIS2", "'many'")),
    "many fields": hostile_header(*COLUMNS, ("TFIELDS", 10**9)),
    "odd format": hostile_header(*COLUMNS, ("TFORM1", "'%d'")) + bytes(2880),
    "wider than the row": hostile_header(*COLUMNS, ("TFORM2", "'900A'")) + bytes(2880),
    "not ASCII": hostile_header(*COLUMNS)[:-80] + b"\xff" * 80,
}


@pytest.mark.parametrize("kind", LIES)
def test_fits_tables_that_lie(tmp_path, kind):
    """Refused, or taken for one image, which then gets a flag and a reason."""
    path = tmp_path / "5.fits"
    for pack in (bytes, gzip.compress):
        path.write_bytes(pack(as_fits(fits.PrimaryHDU()) + LIES[kind]))
        try:
            found = list_inputs(path)
        except UserError:
            continue
        (batch,) = read_batches(found, 10, size=4)
        assert batch["flag"].tolist() == [2]
        assert batch["reason"][0]


def test_the_honest_fits_table_beside_them(tmp_path):
    rows = b"".join(i.to_bytes(8) + b"a " for i in range(5))
    (tmp_path / "5.fits").write_bytes(as_fits(fits.PrimaryHDU()) + hostile_header(*COLUMNS) + rows.ljust(2880))
    assert list_inputs(tmp_path / "5.fits").ids.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["2K", "PA(5)", "L", "2E"])
def test_fits_columns_that_are_no_scalars(tmp_path, kind):
    values = {"2K": np.zeros((1, 2)), "PA(5)": np.array(["a"], object), "L": [True], "2E": np.zeros((1, 2))}[kind]
    columns = [fits.Column("id", kind, array=values), fits.Column("file", "1A", array=["a"])]
    path = tmp_path / "a.fits"
    path.write_bytes(as_fits(fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)))
    with pytest.raises(UserError, match=r"column 'id' has the format .*: each row must have a text or one number"):
        list_inputs(path)


@pytest.mark.parametrize("name", FORMATS)
def test_three_files_per_galaxy(tmp_path, name):
    put(tmp_path, *(f"{i}{band}.png" for i in range(3) for band in "irg" if (i, band) != (1, "r")))
    bands = {band: [f"{i}{band}.png" if (i, band) != (2, "g") else None for i in range(3)] for band in "gri"}
    path = table(tmp_path / name, id=[4, 5, 6], **bands)
    found = list_inputs(path, file_columns=("i", "r", "g"))
    assert found.read(0) == tuple(tmp_path / f"0{band}.png" for band in "irg")
    (batch,) = read_batches(found, 10, size=4, start=1)
    assert batch["flag"].tolist() == [2, 2]
    assert batch["reason"].tolist() == [
        f"no such file: {tmp_path}/1r.png",
        "cannot be read: the table names no file in column 'g'",
    ]
    assert list_inputs(path, file_columns=("i", "r", "r")).read(0)[1:] == (tmp_path / "0r.png",) * 2
    with pytest.raises(UserError, match=r"no column 'z'.*--file_columns"):
        list_inputs(path, file_columns=("i", "r", "z"))
    with pytest.raises(UserError, match=r"2 columns of files \(i, r\): one, or three"):
        list_inputs(path, file_columns=("i", "r"))
    with pytest.raises(UserError, match="is not a table, so it has no columns i, r, g"):
        list_inputs(tmp_path / "0i.png", file_columns=("i", "r", "g"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_of_pixel_scales(tmp_path, name):
    """Numbers, or their texts; what is no positive number is null."""
    texts = ["0.262", " 5e-1 ", ".4", "1.", "nan", "-1", "", "wide", "inf", "0"]
    ids, files = list(range(10)), [f"{i}.png" for i in range(10)]
    numbers = [0.262, 0.5, 0.4, 1.0, np.nan, -1.0, np.nan, np.nan, np.inf, 0.0]
    path = table(tmp_path / name, id=ids, file=files, text=texts, number=numbers, whole=ids)
    for column in ("text", "number"):
        found = list_inputs(path, scale_column=column).scales
        assert found.to_pylist() == [0.262, 0.5, 0.4, 1.0, None, None, None, None, None, None]
    assert list_inputs(path, scale_column="whole").scales.to_pylist() == [None, *map(float, range(1, 10))]
    assert list_inputs(path, id_column="whole", scale_column="whole").ids.tolist() == ids
    assert list_inputs(path).scales is None
    with pytest.raises(UserError, match=r"no column 'none'; it has id, file.*Give --pixel_scale=NUMBER"):
        list_inputs(path, scale_column="none")
    with pytest.raises(UserError, match="column 'file' holds no pixel scale"):
        list_inputs(path, scale_column="file")


@pytest.mark.parametrize("name", FORMATS)
def test_one_column_may_be_both(tmp_path, name):
    found = list_inputs(table(tmp_path / name, file=["b.png", "a.png"]), id_column="file")
    assert found.ids.tolist() == ["b.png", "a.png"]


def test_columns_without_a_name_or_twice(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",id,file\n0,7,a.png\n")
    assert list_inputs(path).ids.tolist() == [7]
    with pytest.raises(UserError, match="has no column 'objid'; it has a column without a name, id, file"):
        list_inputs(path, id_column="objid")
    path.write_text("id,file,id\n7,a.png,8\n")
    with pytest.raises(UserError, match="has the column 'id' more than once"):
        list_inputs(path)


# Paths in tables


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("images/a.jpg", "t/images/a.jpg"),
        ("../images/a.jpg", "images/a.jpg"),
        ("images\\a.jpg", "t/images/a.jpg"),
        ("..\\images\\a b.jpg", "images/a b.jpg"),
        ("odd\\name.jpg", "t/odd\\name.jpg"),
        ("~/images/a.jpg", "home/images/a.jpg"),
        ("~\\images\\a.jpg", "home/images/a.jpg"),
        ("~/images/a.jpg", "t/~/images/a.jpg"),
        ("back~up/a.jpg", "t/back~up/a.jpg"),
        ("~a.jpg", "t/~a.jpg"),
        (" images/a.jpg ", "t/images/a.jpg"),
        ("file://{root}/images/a%20b.jpg", "images/a b.jpg"),
        ("file://localhost{root}/images/a.jpg", "images/a.jpg"),
        ("{root}/images/a.jpg", "images/a.jpg"),
    ],
)
def test_paths_as_people_write_them(tmp_path, home, written, there):
    put(tmp_path, there)
    (tmp_path / "t").mkdir(exist_ok=True)
    for name in ("a.csv", "a.parquet"):
        path = table(tmp_path / "t" / name, id=[1], file=[written.format(root=tmp_path)])
        found = list_inputs(path).read(0)
        assert found.samefile(tmp_path / there)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("b.jpg", "no such file: {root}/b.jpg"),
        ("x\\b.jpg", "no such file: {root}/x/b.jpg"),
        ("../b.jpg", "no such file: {parent}/b.jpg"),
        ("~/b.jpg", "no such file: {root}/home/b.jpg"),
        ("C:\\x\\b.jpg", "no such file: {root}/C:/x/b.jpg"),
        ("https://example.org/b.jpg", "a URL, but only files can be read: https://example.org/b.jpg"),
        ("s3://bucket/b.jpg", "a URL, but only files can be read: s3://bucket/b.jpg"),
        ("file:///none/b.jpg", "no such file: /none/b.jpg"),
    ],
)
def test_the_path_that_was_tried_is_shown(tmp_path, home, written, reason):
    path = table(tmp_path / "a.parquet", id=[1], file=[written])
    (batch,) = read_batches(list_inputs(path), 1, size=4)
    assert batch["reason"].tolist() == [reason.format(root=tmp_path, parent=tmp_path.parent)]


def test_of_a_long_path_its_end_is_shown(tmp_path):
    path = table(tmp_path / "a.csv", id=[1], file=["long/" * 60 + "b.jpg"])
    (batch,) = read_batches(list_inputs(path), 1, size=4)
    assert batch["reason"][0].startswith("no such file: ...")
    assert batch["reason"][0].endswith("long/b.jpg")


# Home folders


def test_home_in_what_is_listed(home):
    put(home, "images/1.png")
    table(home / "a.csv", id=[1], file=["images/1.png"])
    me = pwd.getpwuid(os.getuid())
    for spec in ("~/images", "~/images/*.png", "~/*/**/*.png", "~/a.csv", "~/images/1.png", pathlib.Path("~/images")):
        assert list_inputs(spec).read(0).samefile(home / "images/1.png")
    with pytest.raises(UserError, match=rf"no such input: {me.pw_dir}/none; "):
        list_inputs(f"~{me.pw_name}/none")
    assert not os.path.exists("~")
