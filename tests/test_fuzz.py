"""Whatever the bytes, a reader gives a result or a refusal: never another exception, a hang, or the machine's memory.

`FUZZ_SHARE=1 pytest -m faults tests/test_fuzz.py` makes all cases and ends with a table of them; without `FUZZ_SHARE`
it makes a tenth of them, and the default run one in 500.
A case is a function of its reader's name and its number alone.
"""

import bz2
import collections
import faulthandler
import gzip
import io
import json
import math
import os
import pathlib
import random
import resource
import sys
import types
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pytest
from absl import flags
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import csv, parquet
from safetensors.numpy import save
from test_predict import make_workdir

from configs import default
from gz_jax import fields, labels, resolve
from gz_jax.data import archive, catalogue, catalogue_labels, images, inputs, kaggle, kaggle_check, synthetic
from gz_jax.data.sight import Sight
from gz_jax.inference import card, trained
from gz_jax.models import imagenet_tables
from gz_jax.modes import command
from gz_jax.modes.export import export
from gz_jax.runtime.errors import UserError
from gz_jax.training import workdir
from tests.peak import forget_peak, peak_memory

MEMORY = 1 << 30  # bytes that a reader may add
SECONDS = 120  # for one case, on a busy machine; most take a thousandth
WORDS = rb"""0 -1 1 1e400 nan inf 4294967296 9223372036854775807 99999999999999999999 000 , ; " ' \n \r\n = : { [ ( \0
../ / \\ \xff \xc3\xa9 PK\x01\x02 PK\x03\x04 PK\x05\x06 SIMPLE BITPIX NAXIS 999 BSCALE END T F XTENSION ZNAXIS1 ZTILE1
\xff\xda \xff\xd8 \xff\xc2 IHDR IDAT iCCP PAR1 dtype shape data_offsets F32 \x89HDF OHDR FRHP TREE HEAP SNOD"""
WORDS = [word.decode("unicode_escape").encode("latin-1") for word in WORDS.split()]


def watch() -> None:
    """End the session, with a traceback, if this case hangs."""
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds with a few bytes changed; in every other case also moved, doubled, or from another seed."""
    data = bytearray(rng.choice(seeds))
    kinds = rng.choice((4, 8))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 8, 64, 1000))
        match rng.randrange(kinds):
            case 0 | 1:
                data[at : at + 1] = [rng.randrange(256)] * len(data[at : at + 1])
            case 2:
                word = rng.choice(WORDS)[: len(data) - at]
                data[at : at + len(word)] = word
            case 3:
                length = min(length, len(data) - at)
                data[at : at + length] = rng.choice((rng.randbytes(length), b"\0" * length, b"\xff" * length))
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
            case 6:
                data[at:at] = rng.choice(WORDS)
            case 7:
                other = rng.choice(seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :] if rng.random() < 0.5 else b""
    return bytes(data)


def picture(kind: str, **how) -> bytes:
    pixels, buffer = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def fits_file(*units) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(units)).writeto(buffer)
    return buffer.getvalue()


def labels_csv(folder: pathlib.Path):
    synthetic.write_kaggle_files(folder / "kaggle", 6, seed=0, num_test=1, size=64)
    source = kaggle.find(folder / "kaggle").solutions
    name = next(iter(source.sizes))
    seeds = [source.read(name), source.read(name).replace(b"\n", b"\r\n")]

    def use(data: bytes) -> bool:
        source = archive.Source("here", {"a.csv": len(data)}, lambda _: data)
        return not kaggle_check.read_solutions(source).problems

    return seeds, use


def fits_table(table: pa.Table, path: pathlib.Path) -> None:
    kinds = {pa.int64(): "K", pa.string(): "12A", pa.float64(): "D"}
    columns = [
        fits.Column(f.name, kinds[f.type], array=[x or "" for x in table[f.name].to_pylist()]) for f in table.schema
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path, overwrite=True)


TABLES = {"csv": csv.write_csv, "parquet": parquet.write_table, "fits": fits_table}


def table(kind: str):
    def prepare(folder: pathlib.Path):
        path, write = folder / f"a.{kind}", TABLES[kind]
        seeds = []
        for ids in ([1, 2, 3, 4], ["a", "=b", "007", "é" if kind != "fits" else "e"]):
            write(pa.table({"id": ids, "file": ["x.jpg", "/etc/passwd", "../y.png", None], "z": [0.1, 2, 3, 4]}), path)
            seeds.append(path.read_bytes())

        def use(data: bytes) -> bool:
            path.write_bytes(data)
            listed = inputs.list_inputs(path)
            (batch,) = inputs.read_batches(listed, 10**4, size=4, stop=5, workers=1)
            return len(batch["flag"]) > 0

        return seeds, use

    return prepare


def labelled(kind: str):
    """A table of galaxies with labels: a data set of rows that can be used."""

    def prepare(folder: pathlib.Path):
        path, names = folder / f"b.{kind}", [f"{i}.png" for i in range(4)]
        for name in names:
            (folder / name).write_bytes(picture("PNG"))
        plain = {"file": names * 3, "split": ["train", "train", "validation", "test"] * 3}
        seeds = []
        texts = ["a", "=b", "007", *"cdefghijk"]
        for ids, votes in ((list(range(1, 13)), [3, 9, 5, 7]), (texts, [0.5, 2.25, 1, 3])):
            TABLES[kind](pa.table({**plain, "id": ids, "ring_yes": votes * 3, "ring_no": [1, 2, 3, 4] * 3}), path)
            seeds.append(path.read_bytes())

        def use(data: bytes) -> bool:
            path.write_bytes(data)
            return is_whole(catalogue.open_dataset(path, store=folder / "store", on_bad="skip", **RINGS))

        return seeds, use

    return prepare


RINGS = {"tree": labels.load("rings"), "labels": "counts", "sight": Sight(share=1.0), "size": 8, "workers": 1}


def is_whole(dataset) -> bool:
    """Whether every galaxy of a data set can be used as the contract of `split.Split` has it."""
    for name, split in dataset.splits.items():
        records = split.read(np.arange(split.size))
        known = np.isfinite(records["vote_fractions"])
        assert name == "test" or known.any(1).all()
        assert ((records["vote_fractions"][known] >= 0) & (records["vote_fractions"][known] <= 1.0001)).all()
        assert (np.isfinite(records["votes"]) & (records["votes"] >= 0)).all()
        assert len(np.unique(records["galaxy_id"] if split.names is None else split.names)) == split.size > 0
        assert all(image.see(size=8).shape == (8, 8, 3) for image in records["image"])
    return True


def mapping(folder: pathlib.Path):
    """What a person says of the columns, of labels of each kind."""
    path, _ = folder / "c.csv", labelled("csv")(folder)
    columns = {"id": [1, 2, 3, 4], "file": [f"{i}.png" for i in range(4)], "split": ["train", "val", "val", "test"]}
    columns |= {"a=b": [3, 0, 5, 7], "no": [1, 2, 3, 4], "p": [0.25, 0, 1, 0.5], "word": ["yes", "no", "ring", ""]}
    csv.write_csv(pa.table(columns), path)
    seeds = [
        b"yes=a=b,no=no",
        b"ring_yes = a=b , ring_no = no",
        b"no=p, yes=rest, votes=no",
        b"ring.total=no,yes=p,no=rest",
    ]
    seeds.append(b"ring=word")

    def use(data: bytes) -> bool:
        how = {**RINGS, "columns": data.decode("latin-1"), "on_bad": "skip", "store": folder / "store"}
        good, reasons = 0, []
        for kind in catalogue_labels.KINDS:
            try:
                good += is_whole(catalogue.open_dataset(path, **{**how, "labels": kind}))
            except UserError as error:
                reasons.append(error)
        if not good:
            raise reasons[0]
        return True

    return seeds, use


def zip_file(folder: pathlib.Path):
    jpegs = {f"{kaggle.TRAIN}/{i}.jpg": picture("JPEG", quality=10 + i) for i in range(3)}

    def packed(files: dict[str, bytes], how: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", how) as file:
            for name, data in files.items():
                file.writestr(name, data)
        return buffer.getvalue()

    inner = packed(jpegs, zipfile.ZIP_DEFLATED)
    seeds = [packed(jpegs, zipfile.ZIP_STORED), inner]
    seeds += [packed({f"{kaggle.TRAIN}.zip": inner}, how) for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
    path = folder / "a.zip"

    def use(data: bytes) -> bool:
        path.write_bytes(data)
        nested = f"{kaggle.TRAIN}.zip".encode() in data
        source = archive.from_zip(path, ".jpg", inner=kaggle.TRAIN if nested else None)
        found = kaggle._images(source)
        return not kaggle_check.check_images(found, 24, workers=1)

    return seeds, use


def weights(kind: str):
    def prepare(folder: pathlib.Path):
        path, arrays = folder / f"a.{kind}", {"conv1.weight": np.ones((2, 3), np.float32), "fc.bias": np.ones(4, "f2")}
        seeds = [save(arrays, {"format": "gz_jax resnet50", "variant": "keras"}), save({"conv1.weight": np.ones(8)})]
        if kind == "h5":
            seeds = []
            for how in ({}, {"chunks": (1, 2), "compression": "gzip", "shuffle": True}):
                with h5py.File(path, "w") as file:
                    file.create_dataset("model_weights/conv1/conv1_W:0", data=np.ones((2, 3), np.float32), **how)
                    file.create_dataset("model_weights/fc/fc/bias:0", data=np.ones(4, np.float32))
                seeds.append(path.read_bytes())

        def use(data: bytes) -> bool:
            path.write_bytes(data)
            with imagenet_tables.open_tensors(path) as (tensors, _):
                values = [t.read() for t in tensors.values() if math.prod(t.shape) < 10**6]
            return len(values) > 0

        return seeds, use

    return prepare


def cutout(folder: pathlib.Path):
    plane = np.random.default_rng(0).normal(50, 5, (30, 30)).astype(np.float32)
    scaled = fits.ImageHDU((plane * 10).astype(np.int16))
    scaled.header["BSCALE"], scaled.header["BZERO"], scaled.header["BLANK"] = 2.0, 7.0, 3
    seeds = [picture("JPEG"), picture("JPEG", progressive=True), picture("PNG"), picture("PNG", optimize=True)]
    seeds += [fits_file(fits.PrimaryHDU(plane)), fits_file(fits.PrimaryHDU(), scaled)]
    packed = fits.CompImageHDU(plane, compression_type="RICE_1", quantize_level=16)
    seeds += [fits_file(fits.PrimaryHDU(), packed), gzip.compress(seeds[4]), bz2.compress(seeds[4])]
    seeds += [picture("TIFF"), picture("TIFF", compression="tiff_lzw"), picture("TIFF", compression="jpeg")]

    def use(data: bytes) -> bool:
        image, flag, reason = images.read_cutout(data, size=8)
        assert image.shape == (8, 8, 3)
        assert bool(reason) == (flag != images.GOOD)
        return flag != images.BAD

    return seeds, use


SHARED = ("config.json", "model.safetensors")


def shared_folder(folder: pathlib.Path) -> dict[str, bytes]:
    """The files of a shared network, the smallest there is; the fuzzed folder is beside it."""
    export(str(make_workdir(folder / "run")), types.SimpleNamespace(output=str(folder / "whole"), formats=[], hub=None))
    return {name: (folder / "whole" / name).read_bytes() for name in SHARED}


def use_shared(folder: pathlib.Path, files: dict[str, bytes]) -> bool:
    """The network of a shared folder with these files, and its page."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    network = trained.network_of(folder)
    return bool(card.text(network, trained.fingerprint(network)))


def shared_network(name: str):
    def prepare(folder: pathlib.Path):
        files = shared_folder(folder)
        return [files[name]], lambda data: use_shared(folder / "fuzzed", files | {name: data})

    return prepare


READERS = {  # cases, and what makes (seeds, use); use(data) says whether all of it was usable
    "labels CSV": (20_000, labels_csv),
    "catalogue CSV": (14_000, table("csv")),
    "catalogue Parquet": (8_000, table("parquet")),
    "catalogue FITS": (8_000, table("fits")),
    "labelled CSV": (10_000, labelled("csv")),
    "labelled Parquet": (8_000, labelled("parquet")),
    "labelled FITS": (8_000, labelled("fits")),
    "mapping of columns": (4_000, mapping),
    "zip": (20_000, zip_file),
    "weights .h5": (10_000, weights("h5")),
    "weights .safetensors": (12_000, weights("safetensors")),
    "shared config.json": (4_000, shared_network("config.json")),
    "shared .safetensors": (2_000, shared_network("model.safetensors")),
    "JPEG, PNG, TIFF, FITS": (20_000, cutout),
}
SHARE = float(os.environ.get("FUZZ_SHARE", "0.1"))
SCALES = [pytest.param(1 / 500, id="few"), pytest.param(SHARE, id="many", marks=pytest.mark.faults)]


@pytest.fixture(scope="module")
def counted(pytestconfig):
    """Rows of the table that is printed when all have run."""
    rows = []
    yield rows
    rows.append(("in all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))))
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{'reader':22}{'cases':>8}{'accepted':>10}{'refused':>9}")
        for name, cases, accepted in rows:
            print(f"{name:22}{cases:8}{accepted:10}{cases - accepted:9}")


@pytest.fixture
def bounded():
    """Memory and time for a test: its address space grows by 2 `MEMORY` at most, its resident set by one."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else None
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    forget_peak()
    before = peak_memory()
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2 * MEMORY, hard))
    yield
    faulthandler.cancel_dump_traceback_later()
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert peak_memory() - before < MEMORY


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reader", READERS)
def test_bytes(reader, scale, tmp_path, counted, bounded):
    cases, prepare = READERS[reader]
    seeds, use = prepare(tmp_path)
    assert all(use(seed) for seed in seeds)
    accepted = 0
    for number in range(int(cases * scale)):
        data = mutated(random.Random(f"{reader} {number}"), seeds)
        watch()
        try:
            accepted += use(data)
        except UserError:
            pass
        except BaseException as error:
            raise AssertionError(f"case {number} of {reader}, {len(data)} bytes: {data[:2000]!r}") from error
    counted.append((reader, int(cases * scale), accepted))


FIELDS = sorted(fields.FIELDS)
NUMBERS = st.sampled_from(["0", "-1", "1", "7", "0.5", "nan", "-inf", "1e400", "1e-400", "9" * 30, "9" * 5000, "1_0"])
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from(["None", "True", "maybe", "", "()", "(8,)", "(1, -5)", "[1,", "(" * 300, "'x'", "9**9**9", "cnn"]),
    st.sampled_from(["__import__('os').abort()", "resnet50", "softmax", "synthetic", "skip", "{1: 2}", "\0", "\ud800"]),
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
)
NAMES = st.one_of(
    st.sampled_from(FIELDS),
    st.sampled_from(["data", "model", "model.hidden[0]", "seed.x", "model.items", "", ".", "lock", "__class__", "-"]),
    st.text(max_size=8),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.sampled_from([1, 0.5])
)
JSONS = st.recursive(SCALARS, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=4))


def examples(count: float):
    return settings(
        max_examples=int(count), derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )


def checked(config) -> None:
    resolve.check(config, 1)
    resolve.parts(config, labels.GALAXY_ZOO_2)


@pytest.mark.parametrize("scale", SCALES)
def test_config_overrides(scale, counted, bounded, capsys, monkeypatch):
    """What the command line may say of a config: as launch.py takes it, without a process each."""
    count = collections.Counter()

    @examples(10_000 * scale)
    @given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=3))
    def hold(overrides):
        watch()
        count["cases"] += 1
        flags.FLAGS.unparse_flags()
        for name in [n for n in flags.FLAGS if n.startswith("config.")]:  # those of the case before
            delattr(flags.FLAGS, name)
        # ml_collections looks for overrides in sys.argv itself
        argv = ["launch.py", f"--config={default.__file__}", *(f"--config.{n}={v}" for n, v in overrides)]
        monkeypatch.setattr(sys, "argv", argv)
        try:
            command.parse(argv)
            checked(command.config_flag.value)
            count["accepted"] += 1
        except UserError:
            pass
        except SystemExit as end:
            if end.code != 2 or not capsys.readouterr().err.startswith("error: "):
                raise

    hold()
    assert count["accepted"] > 0
    counted.append(("config overrides", count["cases"], count["accepted"]))


@pytest.mark.parametrize("scale", SCALES)
def test_config_json(scale, tmp_path, counted, bounded):
    """A workdir's config.json, with fields of any kind and bytes of any kind."""
    count = collections.Counter()
    whole = fields.flatten(default.get_config())
    changes = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JSONS, max_size=3)

    @examples(10_000 * scale)
    @given(changes, st.sets(st.sampled_from(FIELDS), max_size=1), st.booleans(), st.integers(0, 2**32))
    def hold(new, gone, damaged, seed):
        watch()
        flat = {k: v for k, v in whole.items() if k not in gone} | new
        data = json.dumps(
            {"config": flat, "tree": labels.as_dict(labels.GALAXY_ZOO_2), "data_fingerprint": "x"}
        ).encode()
        (tmp_path / "config.json").write_bytes(mutated(random.Random(seed), [data]) if damaged else data)
        count["cases"] += 1
        try:
            checked(workdir.read(tmp_path).config)
            count["accepted"] += 1
        except UserError:
            pass

    hold()
    counted.append(("config.json", count["cases"], count["accepted"]))


@pytest.mark.parametrize("scale", SCALES)
def test_config_json_of_a_shared_network(scale, tmp_path, counted, bounded):
    """Its entries, and fields of its config, are of any kind."""
    count, files = collections.Counter(), shared_folder(tmp_path)
    whole = json.loads(files["config.json"])
    changes = st.dictionaries(st.sampled_from(sorted(whole)) | st.text(max_size=8), JSONS, max_size=2)
    inner = st.dictionaries(st.sampled_from(FIELDS), JSONS | st.sampled_from([10, 50, "resnet50", "unit"]), max_size=2)
    parts = st.dictionaries(st.sampled_from(["epoch", "val_loss", "galaxies", "mse"]), JSONS, max_size=2)

    @examples(4_000 * scale)
    @given(changes, inner, parts, parts, st.sets(st.sampled_from(sorted(whole)), max_size=1))
    def hold(new, config, log, scores, gone):
        watch()
        about = whole | {"config": whole["config"] | config, "log": whole["log"] | log, "scores": scores} | new
        count["cases"] += 1
        try:
            data = json.dumps({k: v for k, v in about.items() if k not in gone}).encode()
            count["accepted"] += use_shared(tmp_path / "fuzzed", files | {"config.json": data})
        except UserError:
            pass

    hold()
    assert count["accepted"] > 0
    counted.append(("shared network's entries", count["cases"], count["accepted"]))
