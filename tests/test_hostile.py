"""Files made to harm: refused, with memory and time in proportion to what is honest. Every one is a real file."""

import csv
import gzip
import io
import json
import os
import pathlib
import pickle
import stat
import subprocess
import sys
import textwrap
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from configs import default
from gz_jax import fields, labels
from gz_jax.analysis import page
from gz_jax.data import archive, augment, images, inputs, kaggle, kaggle_check, packed
from gz_jax.data.problems import report, write_skipped_csv
from gz_jax.data.split import Split, fraction_records
from gz_jax.inference import tables
from gz_jax.models import imagenet
from gz_jax.runtime import files
from gz_jax.runtime.errors import UserError
from gz_jax.training import workdir

ROOT = pathlib.Path(__file__).resolve().parents[1]
FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "'=1", "'", "plain", ""]


class Unwelcome:
    """Unpickling this runs code."""

    def __reduce__(self):
        return exec, ("import os; os.environ['UNPICKLED'] = 'yes'",)


@pytest.fixture(autouse=True)
def _nothing_unpickled():
    yield
    assert "UNPICKLED" not in os.environ


def growth(code: str, *arguments: os.PathLike) -> float:
    """MiB that a process of its own needs for `code` beyond its imports; `code` must refuse with UserError."""
    program = f"""
import resource, sys
from pathlib import Path
from gz_jax.data import archive, images, inputs, kaggle, kaggle_check
from gz_jax.runtime.errors import UserError
from tests.peak import peak_memory
paths = [Path(p) for p in sys.argv[1:]]
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
before = peak_memory()
try:
{textwrap.indent(textwrap.dedent(code), "    ")}
except UserError as error:
    print("refused", error, file=sys.stderr)
print((peak_memory() - before) / 2**20)
"""
    command = [sys.executable, "-c", program, *map(os.fspath, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stderr
    return float(done.stdout)


def zipped(path: pathlib.Path, contents: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return path


def jpeg(**how) -> bytes:
    pixels, buffer = np.random.default_rng(0).integers(0, 256, (424, 424, 3), np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **how)
    return buffer.getvalue()


def test_a_symbolic_link_in_a_zip_is_five_bytes_of_text(tmp_path):
    info = zipfile.ZipInfo("5.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, str(tmp_path / "secret.jpg"))
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    source = archive.from_zip(tmp_path / "a.zip", ".jpg")
    assert source.read("5.jpg") == os.fsencode(tmp_path / "secret.jpg")
    (problem,) = kaggle_check.check_images(kaggle._images(source))
    assert problem.kind == "image is not a JPEG"


@pytest.mark.faults
def test_an_entry_that_inflates_to_more_than_it_says(tmp_path):
    path = zipped(tmp_path / "a.zip", {"5.jpg": bytes(400 << 20)})
    honest, lie = (n.to_bytes(4, "little") for n in (400 << 20, 1000))
    assert path.read_bytes().count(honest) == 2
    path.write_bytes(path.read_bytes().replace(honest, lie))
    code = """
    source = archive.from_zip(paths[0], ".jpg")
    try:
        source.read("5.jpg")
    except archive.READ_ERRORS as error:
        raise UserError(error)
    """
    assert growth(code, path) < 50


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_inflate_without_a_limit_are_refused(tmp_path, how):
    with pytest.raises(UserError, match=rf"compressed by method {how}, only deflate is known"):
        archive.from_zip(zipped(tmp_path / "a.zip", {"5.jpg": bytes(1000)}, how), ".jpg")


def test_overlapping_entries_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0.jpg", np.random.default_rng(0).bytes(10_000))
        for number in range(1, 50):
            again = zipfile.ZipInfo(f"{number}.jpg")
            first = file.filelist[0]
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(again, name, getattr(first, name))
            file.filelist.append(again)
    with pytest.raises(UserError, match="its entries overlap: a zip bomb"):
        archive.from_zip(tmp_path / "a.zip", ".jpg")


def test_an_inner_zip_that_is_a_bomb_is_not_inflated(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"5.jpg": bytes(50 << 20)}, zipfile.ZIP_STORED).read_bytes()
    path = zipped(tmp_path / "a.zip", {f"{kaggle.TRAIN}.zip": inner})
    with pytest.raises(UserError, match=r"says it inflates to 5\d+ bytes: a zip bomb"):
        archive.from_zip(path, ".jpg", inner=kaggle.TRAIN)


@pytest.mark.faults
def test_a_directory_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "a.zip"
    size = (2 << 30) - 22
    with path.open("wb") as file:  # a hole in the file costs no disk
        file.write(b"PK\x01\x02")
        file.seek(size)
        file.write(b"PK\x05\x06" + bytes(4) + b"\1\0\1\0" + size.to_bytes(4, "little") + bytes(6))
    assert growth('archive.from_zip(paths[0], ".jpg")', path) < 50


def test_pipes_and_odd_names_in_a_folder(tmp_path):
    folder = tmp_path / kaggle.TRAIN
    folder.mkdir()
    os.mkfifo(folder / "1.jpg")
    (folder / "2.jpg").symlink_to("nowhere")
    odd = os.fsdecode(b"\xff\x1b[2J.jpg")
    (folder / "3.jpg").write_bytes(jpeg())
    (folder / odd).write_bytes(jpeg())
    source = archive.from_folder(folder, ".jpg")
    assert sorted(source.sizes) == [f"{kaggle.TRAIN}/3.jpg", f"{kaggle.TRAIN}/{odd}"]
    found = kaggle._images(source)
    labelled = archive.Source("x", {"a.csv": 1}, lambda _: b"x")
    assert len(kaggle.fingerprint(kaggle.KaggleFiles(tmp_path, labelled, found, None))) == 16
    problems = kaggle_check.check_images(found)
    message = str(UserError(report(problems, tmp_path)))
    assert "image name is not a GalaxyID: 1" in message
    assert "\\udcff\\x1b[2J" in message
    write_skipped_csv(tmp_path / "skipped.csv", [(p.galaxy_id, p.file, p.reason) for p in problems])
    assert b"\\udcff\x1b[2J.jpg" in (tmp_path / "skipped.csv").read_bytes()
    catalogue = inputs.list_inputs(folder)
    assert catalogue.ids.tolist() == ["3", "\\udcff\x1b[2J"]
    assert [images.read_cutout(catalogue.read(i), size=8)[1] for i in range(2)] == [images.GOOD] * 2


def test_a_jpeg_of_many_scans_is_not_decoded():
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 150 + data[-2:]
    assert kaggle_check.jpeg_fault(data, 424) is None
    assert kaggle_check.jpeg_fault(bomb, 424) == ("image has too many scans", "more than 100")
    assert images.read_cutout(data, size=68)[1] == images.GOOD
    assert images.read_cutout(bomb, size=68)[1:] == (images.BAD, "more than 100 scans")


def card(name: str, value: object) -> bytes:
    return f"{name:8}= {value:>20}".encode().ljust(80)


def header(*cards: tuple[str, object], end: bool = True) -> bytes:
    data = b"".join(card(*pair) for pair in (("SIMPLE", "T"), *cards)) + b"END".ljust(80) * end
    return data + b" " * (-len(data) % 2880)


def image_header(width: object, height: object, **more: object) -> bytes:
    return header(("BITPIX", 16), ("NAXIS", 2), ("NAXIS1", width), ("NAXIS2", height), *more.items())


PIXELS = bytes(range(250)) * 20  # 50 x 50 of 16 bits
EXTENSION = b"XTENSION= 'IMAGE   '".ljust(80) + header(("BITPIX", 8), ("NAXIS", 0), ("PCOUNT", 0), ("GCOUNT", 1))[80:]
LIES = {
    "NAXIS of 999": header(("BITPIX", 8), ("NAXIS", 999), *((f"NAXIS{i}", 10**9) for i in range(1, 1000))),
    "huge": image_header(10**9, 10**9),
    "beyond 64 bits": image_header(10**30, 10**30),
    "negative": image_header(-50, -(10**12)) + PIXELS,
    "no number": image_header("'many'", "T") + PIXELS,
    "truncated": image_header(50, 50) + PIXELS[:-100],
    "wrong BITPIX": header(("BITPIX", 7), ("NAXIS", 2), ("NAXIS1", 50), ("NAXIS2", 50)) + PIXELS,
    "BSCALE is NaN": image_header(50, 50, BSCALE="nan") + PIXELS,
    "BSCALE overflows": image_header(50, 50, BSCALE="1E300", BZERO="-1E300") + PIXELS,
    "BSCALE is text": image_header(50, 50, BSCALE="'x'") + PIXELS,
    "BSCALE is 0": image_header(50, 50, BSCALE=0) + PIXELS,
    "header without end": header(*((f"K{i}", i) for i in range(150_000)), end=False),
    "many extensions": header(("BITPIX", 8), ("NAXIS", 0), ("EXTEND", "T")) + EXTENSION * 5_000,
}


@pytest.mark.parametrize("kind", LIES)
def test_fits_with_a_lying_header(kind):
    image, flag, reason = images.read_cutout(LIES[kind], size=8)
    assert (flag, image.any()) == (images.BAD, False)
    assert reason


def test_the_honest_fits_beside_them_is_read():
    assert images.read_cutout(image_header(50, 50, BSCALE=2, BZERO=7) + PIXELS, size=8)[1] != images.BAD


@pytest.mark.faults
def test_images_that_explode_stay_small(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.fits.gz", "c.fits.gz", "d.fits")]
    Image.new("1", (12_000, 12_000)).save(paths[0])
    paths[1].write_bytes(gzip.compress(bytes(300 << 20), 1))
    paths[2].write_bytes(gzip.compress(header(("BITPIX", 8), ("NAXIS", 0), end=False) + b"COMMENT ".ljust(80) * 10**6))
    paths[3].write_bytes(LIES["many extensions"])
    code = """
    for path in paths:
        _, flag, reason = images.read_cutout(path, size=68)
        assert flag == images.BAD, path
    raise UserError(reason)
    """
    assert growth(code, *paths) < 700  # 256 MiB are unzipped before they are too many


def wide(count: int) -> bytes:
    return b",".join(b"c%d" % i for i in range(count)) + b"\n" + b",".join([b"1"] * count) + b"\n"


def test_a_hundred_thousand_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(wide(100_000))
    for read in (lambda: inputs.list_inputs(path), lambda: labels_of(wide(100_000))):
        with pytest.raises(UserError, match=r"c19.* and 99\d+ more") as refused:
            read()
        assert len(str(refused.value)) < 5_000
    path.write_bytes(b"id,file," + wide(100_000).replace(b"\n", b"\n7,a.jpg,", 1))
    assert inputs.list_inputs(path).ids.tolist() == [7]


def labels_of(data: bytes) -> kaggle_check.Solutions:
    return kaggle_check.read_solutions(archive.Source("here", {"a.csv": len(data)}, lambda _: data))


@pytest.mark.faults
def test_endless_lines(tmp_path):
    names = ("a.csv", "b.csv", "c.csv", "d.csv")
    paths = [tmp_path / name for name in names]
    paths[0].write_bytes(b"id,file\n1,")
    with paths[1].open("wb"):
        pass
    for path in paths[:2]:
        os.truncate(path, 1 << 30)  # a field, and a header, of a gigabyte
    row = ",".join(["GalaxyID", *labels.GALAXY_ZOO_2.columns]).encode() + b"\n"
    paths[2].write_bytes(row + b"11," * (10 << 20))
    paths[3].write_bytes(row + b'"1\n",' * (5 << 20))
    for path in paths[:2]:
        assert growth("inputs.list_inputs(paths[0])", path) < 100
    for path in paths[2:]:
        code = """
        data = paths[0].read_bytes()
        kaggle_check.read_solutions(archive.Source("here", {"a.csv": len(data)}, lambda _: data))
        """
        assert growth(code, path) < 200


def test_a_csv_of_faults_alone_ends_early():
    row = ",".join(["GalaxyID", *labels.GALAXY_ZOO_2.columns]).encode() + b"\n"
    with pytest.raises(UserError, match="after line 100002: this is not Kaggle's CSV") as refused:
        labels_of(row + b"x\n" * 300_000)
    assert len(str(refused.value)) < 10_000


@pytest.mark.faults
def test_ids_and_rows_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,file\n" + b"x" * 500_000 + b",a.jpg\n" + b"".join(b"%d,b\n" % i for i in range(50_000)))
    assert growth("inputs.list_inputs(paths[0])", path) < 100
    repeated = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 10**6])
    parquet.write_table(pa.table({"id": np.arange(100_000), "file": repeated}), tmp_path / "b.parquet")
    assert (tmp_path / "b.parquet").stat().st_size < 2**20
    assert growth("inputs.list_inputs(paths[0])", tmp_path / "b.parquet") < 300


def test_a_catalogue_may_name_any_file_and_shows_none(tmp_path):
    """Absolute paths and '..' are allowed: the user's own tables have them. What is not an image gives a reason."""
    (tmp_path / "secret").write_text("the password is swordfish")
    os.mkfifo(tmp_path / "pipe")
    names = ["secret", f"../{tmp_path.name}/secret", "/etc/passwd", "/dev/zero", "/proc/self/mem", "pipe", ".", "a\0b"]
    parquet.write_table(pa.table({"id": np.arange(len(names)), "file": names}), tmp_path / "a.parquet")
    (batch,) = inputs.read_batches(inputs.list_inputs(tmp_path / "a.parquet"), 100, size=8)
    assert batch["flag"].tolist() == [images.BAD] * len(names)
    assert not batch["image"].any()
    assert all(batch["reason"])
    assert not any("swordfish" in reason or "root:" in reason for reason in batch["reason"])


@given(st.one_of(st.sampled_from(FORMULAS), st.text()))
def test_no_text_is_a_formula_and_all_come_back(text):
    written = files.harmless(text)
    assert files.original(written) == text
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_no_csv_of_ours_holds_a_formula(tmp_path):
    rows = [(text, f"{text}.jpg", text) for text in FORMULAS]
    write_skipped_csv(tmp_path / "skipped.csv", rows)
    page.write_table(tmp_path / "table.csv", [{"id": text, "n": -1} for text in FORMULAS])
    n = len(FORMULAS)
    some = np.full((n, 37), 0.5, np.float32)
    predicted = tables.Predicted(some, some, None, np.zeros(n, np.uint8), np.array(FORMULAS, object))
    manifest = {"catalogue": {"shards": 1}, "models": {}, "settings": {}, "versions": {}}
    files.write_json(tmp_path / tables.MANIFEST, manifest)
    table = tables.to_table(np.array(FORMULAS), predicted, labels.GALAXY_ZOO_2, files=pa.array(FORMULAS))
    tables.write_shard(tables.shard(tmp_path, 0), table)
    tables.export(tmp_path, ["csv"])
    for name, columns in {"skipped": (0, 1, 2), "table": (0,), "predictions": (0, 1, -1)}.items():
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            _, *found = csv.reader(file)
        for column in columns:
            texts = [row[column] for row in found]
            assert not any(text.startswith(tuple("=+-@\t\r\n")) for text in texts)
            expected = [f"{text}.jpg" if (name, column) == ("skipped", 1) else text for text in FORMULAS]
            assert [files.original(text) for text in texts] == expected
    arrow_csv.read_csv(tmp_path / "predictions.csv")


def absurd_safetensors(shape: list[int], length: int | None = None) -> bytes:
    end = 4 * int(np.prod(shape, dtype=object))
    text = json.dumps({"conv1.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return (length or len(text)).to_bytes(8, "little") + text + bytes(100)


@pytest.mark.parametrize(
    "data",
    [
        absurd_safetensors([10**5, 10**5, 10**5]),
        absurd_safetensors([2**40, 2**40]),
        absurd_safetensors([-1, 5]),
        absurd_safetensors([5], length=2**60),
        pickle.dumps(Unwelcome()),
        b"\x80\x04PK" * 9,
    ],
    ids=["10^15 elements", "beyond 64 bits", "negative", "long header", "pickle", "noise"],
)
@pytest.mark.parametrize("suffix", ["safetensors", "h5"])
def test_weights_with_absurd_headers(data, suffix, tmp_path):
    (tmp_path / f"a.{suffix}").write_bytes(data)
    with pytest.raises(UserError, match="truncated, damaged or not"):
        imagenet.read_weights(tmp_path / f"a.{suffix}")


def _external(group, folder):
    os.mkfifo(folder / "pipe")  # reading it would never end
    group.create_dataset("kernel:0", (7, 7, 3, 64), "f4", external=[(folder / "pipe", 0, h5py.h5f.UNLIMITED)])


def _virtual(group, folder):
    layout = h5py.VirtualLayout((7, 7, 3, 64), "f4")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "x", (7, 7, 3, 64))
    group.create_virtual_dataset("kernel:0", layout)


def _huge_chunks(group, folder):
    shape = (7, 7, 3, 64)
    group.create_dataset("kernel:0", shape, "f4", chunks=(700, 700, 30, 64), maxshape=(None,) * 4, compression="gzip")


def _objects(group, folder):
    group.create_dataset("kernel:0", (7, 7, 3, 64), h5py.string_dtype())


def _long_texts(group, folder):
    group.create_dataset("kernel:0", (7, 7, 3, 64), "S1000000000", chunks=(1, 1, 1, 1))


@pytest.mark.parametrize("make", [_external, _virtual, _huge_chunks, _objects, _long_texts])
def test_hdf5_that_is_more_than_numbers_in_a_file(make, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file.create_group("conv1_conv/conv1_conv"), tmp_path)
    with pytest.raises(UserError, match=r"conv1_conv/kernel:0 is not an array of floating-point numbers in this file"):
        imagenet.read_weights(tmp_path / "a.h5")


def test_hdf5_that_is_a_link_to_another_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink(tmp_path / "other.h5", "/")
    with pytest.raises(UserError, match="model_weights is a link to another place"):
        imagenet.read_weights(tmp_path / "a.h5")


@pytest.mark.peers
@pytest.mark.parametrize("zipped", [False, True])
def test_pth_that_would_run_code(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"conv1.weight": Unwelcome()}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"a\.pth is truncated, damaged or not a \.pth file"):
        imagenet.read_weights(tmp_path / "a.pth")


def test_a_cache_that_is_a_pickle_or_of_other_images(tmp_path):
    split = Split(3, lambda index: {"image": np.empty(1, object), "vote_fractions": np.empty((len(index), 37))})
    view, path = augment.view(8, 8, 8), tmp_path / "a.npy"
    of_three = fraction_records(np.zeros((3, 37), np.float32))
    np.savez(path.with_suffix(".labels.npz"), **of_three, galaxy_id=np.arange(3))
    for array, message in (
        (np.array([Unwelcome()] * 3), r"a\.npy is damaged \("),
        (np.zeros((2, 8, 8, 3), np.uint8), "belongs to other images"),
    ):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(UserError, match=message):
            packed.pack(split, view, final=True, path=path)
    path.write_bytes(path.read_bytes().replace(b"(2, 8, 8, 3)", b"(9999999999)"))
    with pytest.raises(UserError, match=r"a\.npy is damaged \("):
        packed.pack(split, view, final=True, path=path)
    np.save(path, np.zeros((3, 8, 8, 3), np.uint8))
    few = {"votes": np.zeros((3, 36), np.float32)}
    for votes, message in (({}, r"a\.npy is damaged \("), (few, "belongs to other images")):
        named = {"vote_fractions": of_three["vote_fractions"], **votes}
        np.savez(path.with_suffix(".labels.npz"), **named, galaxy_id=np.arange(3))
        with pytest.raises(UserError, match=message):
            packed.pack(split, view, final=True, path=path)


WHOLE = fields.flatten(default.get_config())


def _record(config):
    return json.dumps({"config": config, "tree": labels.as_dict(labels.GALAXY_ZOO_2)})


CONFIGS = {
    "wrong type": _record(WHOLE | {"batch_size": "many"}),
    "list for number": _record(WHOLE | {"learning_rate": [1]}),
    "NaN": _record(WHOLE | {"augment.zoom": float("nan")}),
    "bool for number": _record(WHOLE | {"num_epochs": True}),
    "huge picture": _record(WHOLE | {"data.size": 10**9}),
    "huge layer": _record(WHOLE | {"model.hidden": [10**12]}),
    "field and group": _record(WHOLE | {"model": 1}),
    "missing field": _record({k: v for k, v in WHOLE.items() if k != "data.size"}),
    "list": "[]",
    "no config": '{"config": 5}',
    "nested": '{"config": ' + "[" * 200_000,
    "nested value": '{"config": {"seed": ' + '{"a":' * 200_000 + "1" + "}" * 200_002,
    "long number": '{"config": {"seed": ' + "9" * 100_000 + "}}",
    "large": _record(WHOLE) + " " * (8 << 20),
    "no tree": json.dumps({"config": WHOLE}),
    "tree of another kind": json.dumps({"config": WHOLE, "tree": {"questions": [{"name": 5}]}}),
    "bytes": "\udcff",
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_json_of_another_kind(kind, tmp_path):
    (tmp_path / "config.json").write_bytes(CONFIGS[kind].encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"config\.json") as refused:
        workdir.read(tmp_path)
    assert len(str(refused.value)) < 10_000
    (tmp_path / "checkpoints" / "latest" / "1").mkdir(parents=True)  # else any run may take the workdir over
    with pytest.raises(UserError):
        workdir.claim(tmp_path, workdir.Record(default.get_config(), labels.GALAXY_ZOO_2, "x", None))


@pytest.mark.parametrize("shards", [10**15, -1, "many", [1], None])
def test_a_manifest_of_another_kind(shards, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"catalogue": {"shards": shards}}))
    with pytest.raises(UserError):
        tables.read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"catalogue": ' + "[" * 200_000)
    with pytest.raises(UserError):
        tables.read(tmp_path)


def test_a_message_does_not_command_the_terminal():
    text = str(UserError("\x1b[2Jred\r\nnext \u202e line\udcff" + "x" * 10**6))
    assert text.startswith("\\x1b[2Jred\\r\nnext \\u202e line\\udcff")
    assert len(text) < 9_000
    assert text.endswith("characters more")
