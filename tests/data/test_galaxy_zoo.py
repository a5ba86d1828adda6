"""The prepared data set: the same galaxies from any layout, whole or not there, with every fault reported."""

import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import kaggle_like
import numpy as np
import pytest

from gz_jax import labels
from gz_jax.data import augment, galaxy_zoo, galaxy_zoo_builder, kaggle, kaggle_split, packed, synthetic
from gz_jax.runtime.errors import UserError

ROOT = pathlib.Path(galaxy_zoo.__file__).parents[2]
FILES = kaggle_like.galaxies(train=24)
IDS = [100_000 + 7 * i for i in range(24)]


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch, tmp_path):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "no_credentials"))


def everything(dataset) -> dict:
    """{split: {galaxy_id: (JPEG bytes, vote fractions)}}."""
    records = {name: split.read(np.arange(split.size)) for name, split in dataset.splits.items()}
    return {
        name: {
            i: (j, tuple(v)) for i, j, v in zip(r["galaxy_id"].tolist(), r["image"], r["vote_fractions"], strict=True)
        }
        for name, r in records.items()
    }


def prepared(store: pathlib.Path) -> list[str]:
    """The whole data sets in a store, and whatever lies about half-written."""
    return sorted(p.name for p in (store / "galaxy_zoo_challenge").glob("*/*") if p.name != ".lock")


def test_every_layout_gives_the_same_records(tmp_path):
    datasets = [
        galaxy_zoo.open_dataset(kaggle_like.write(tmp_path / layout, FILES, layout), store=tmp_path / f"store_{layout}")
        for layout in kaggle_like.LAYOUTS
    ]
    first = everything(datasets[0])
    validates = kaggle_split.side(np.array(IDS), 0, 0.2)
    votes = dict(zip(IDS, kaggle_like.fractions(24).astype(np.float32), strict=True))
    assert list(first["train"]) == [i for i, v in zip(IDS, validates, strict=True) if not v]
    assert list(first["validation"]) == [i for i, v in zip(IDS, validates, strict=True) if v]
    assert list(first["test"]) == [900_000, 900_001, 900_002]
    for name, folder in (("train", "training"), ("validation", "training"), ("test", "test")):
        for galaxy_id, (image, fractions) in first[name].items():
            assert image == FILES[f"images_{folder}_rev1/{galaxy_id}.jpg"]
            expected = votes.get(galaxy_id, np.full(37, np.nan))
            np.testing.assert_allclose(fractions, expected, atol=1e-7)
    for other in datasets[1:]:
        assert other.fingerprint == datasets[0].fingerprint
        assert other.statistics == datasets[0].statistics
        for name, galaxies in everything(other).items():
            assert {i: image for i, (image, _) in galaxies.items()} == {i: im for i, (im, _) in first[name].items()}


def test_second_opening_reads_what_the_first_prepared(tmp_path, monkeypatch):
    directory = kaggle_like.write(tmp_path / "data", FILES)
    before = galaxy_zoo.open_dataset(directory, store=tmp_path / "store")
    monkeypatch.setattr(galaxy_zoo.kaggle_check, "check_images", lambda *_: pytest.fail("checked again"))
    after = galaxy_zoo.open_dataset(directory, store=tmp_path / "store")
    assert after.statistics == before.statistics
    assert after.statistics["galaxies"] == {name: split.size for name, split in after.splits.items()}
    assert list(everything(after)["train"]) == list(everything(before)["train"])


def test_other_files_or_another_split_are_another_data_set(tmp_path):
    directory = kaggle_like.write(tmp_path / "data", FILES)
    arguments = [{}, {"seed": 1}, {"validation_fraction": 0.5}, {"on_bad": "skip"}]
    opened = [galaxy_zoo.open_dataset(directory, store=tmp_path / "store", **a) for a in arguments]
    fewer = {name: data for name, data in FILES.items() if "test" not in name}
    opened.append(galaxy_zoo.open_dataset(kaggle_like.write(tmp_path / "b", fewer), store=tmp_path / "store"))
    assert len({d.fingerprint for d in opened}) == 5
    assert prepared(tmp_path / "store") == ["1.0.0"] * 5
    assert set(opened[-1].splits) == {"train", "validation"}
    sides = kaggle_split.side(np.array(IDS), 1, 0.2)
    assert list(everything(opened[1])["validation"]) == np.array(IDS)[sides].tolist()


def _one_question(*columns, after=(), name="mine"):
    """A tree of these columns, and their answers 0, 1, ..."""
    answers = tuple(map(str, range(len(columns))))
    return labels.Tree(name, (labels.Question("shape", "shape?", answers, answers, columns, after),))


@pytest.mark.parametrize("is_prepared", [True, False])
def test_a_tree_of_one_question(tmp_path, is_prepared):
    synthetic.write_kaggle_files(tmp_path / "data", 30, seed=0, num_test=3, size=48)
    options = {"store": tmp_path / "store", "image_size": 48, "prepared": is_prepared}
    whole = galaxy_zoo.open_dataset(tmp_path / "data", **options)
    tree = _one_question("Class1.2", "Class1.1", "Class1.3")
    for _ in range(2):
        some = galaxy_zoo.open_dataset(tmp_path / "data", tree=tree, **options)
        assert some.tree == tree
        for name, split in whole.splits.items():
            one, other = (s.read(np.arange(s.size)) for s in (split, some.splits[name]))
            np.testing.assert_array_equal(other["vote_fractions"], one["vote_fractions"][:, [1, 0, 2]])
            assert (other["galaxy_id"].tolist(), other["image"].tolist()) == (
                one["galaxy_id"].tolist(),
                one["image"].tolist(),
            )
        assert list(some.statistics["train_mean"]) == list(tree.columns)
        assert some.statistics["galaxies"] == whole.statistics["galaxies"]
        assert some.splits["test"].read(np.arange(0))["vote_fractions"].shape == (0, 3)
    if is_prepared:
        assert prepared(tmp_path / "store") == ["1.0.0"]
    others = [_one_question("Class1.1", "Class1.2", "Class1.3"), _one_question("Class6.1", "Class6.2")]
    opened = [whole, some, *(galaxy_zoo.open_dataset(tmp_path / "data", tree=t, **options) for t in others)]
    assert len({d.fingerprint for d in opened}) == len({d.labelled for d in opened}) == 4
    renamed = labels.from_dict(labels.as_dict(labels.GALAXY_ZOO_2) | {"name": "mine"})
    assert galaxy_zoo.open_dataset(tmp_path / "data", tree=renamed, **options).fingerprint == whole.fingerprint


def test_kept_cutouts_do_not_mix_trees(tmp_path):
    synthetic.write_kaggle_files(tmp_path / "data", 20, seed=0, num_test=0, size=48)
    view = augment.view(16, 32, 48)
    for tree in (labels.GALAXY_ZOO_2, _one_question("Class1.1", "Class1.2", "Class1.3")) * 2:
        dataset = galaxy_zoo.open_dataset(
            tmp_path / "data", tree=tree, store=tmp_path / "store", image_size=48, prepared=False
        )
        path = galaxy_zoo.cache_dir(tmp_path / "store", dataset.fingerprint) / "train.npy"
        kept = packed.pack(dataset.splits["train"], view, final=True, path=path)
        expected = dataset.splits["train"].read(np.arange(dataset.splits["train"].size))
        np.testing.assert_array_equal(kept.vote_fractions, expected["vote_fractions"])
    whole = galaxy_zoo.open_dataset(tmp_path / "data", store=tmp_path / "store", image_size=48, prepared=False)
    with pytest.raises(UserError, match="belongs to other images"):  # of three answers, for a split of 37
        packed.pack(whole.splits["train"], view, final=True, path=path)


@pytest.mark.parametrize("is_prepared", [True, False])
def test_rows_that_break_the_chosen_tree(tmp_path, is_prepared):
    rows = dict(zip(IDS, kaggle_like.fractions(24), strict=True))
    for i in IDS[3:]:
        rows[i][13:15], rows[i][18:25] = [1, 0], rows[i][18:25] / rows[i][18:25].sum()
    files = {**FILES, "training_solutions_rev1.csv": kaggle_like.solutions(rows)}
    options = {"store": tmp_path / "store", "prepared": is_prepared}
    directory = kaggle_like.write(tmp_path / "data", files)
    odd = _one_question(*(f"Class8.{i}" for i in range(1, 8)), name="kinds of odd")  # three galaxies are not odd
    with pytest.raises(UserError) as caught:
        galaxy_zoo.open_dataset(directory, tree=odd, **options)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"3 problems in Kaggle's files at {directory}:"
    broken = ", ".join(f"{i} (line {n}, question shape)" for n, i in enumerate(IDS[:3], 2))
    assert lines[1] == f"  vote fractions break the decision tree kinds of odd: 3: {broken}"
    assert not any((tmp_path / "store").rglob("*.array_record*"))
    whole = galaxy_zoo.open_dataset(directory, on_bad="skip", **options)
    for _ in range(2):
        some = galaxy_zoo.open_dataset(directory, tree=odd, on_bad="skip", **options)
        assert [i for i, *_ in some.skipped] == list(map(str, IDS[:3]))
        seen, left = everything(whole), everything(some)
        for name in ("train", "validation"):
            assert list(left[name]) == [i for i in seen[name] if i not in IDS[:3]]
            for galaxy_id, (image, votes) in left[name].items():
                assert image == FILES[f"images_training_rev1/{galaxy_id}.jpg"]
                assert votes == seen[name][galaxy_id][1][18:25]
    assert galaxy_zoo.open_dataset(directory, **options).skipped == ()


def test_a_tree_with_other_columns_is_refused(tmp_path):
    directory = kaggle_like.write(tmp_path / "data", FILES)
    decals = labels.load("galaxy_zoo_decals")
    with pytest.raises(UserError, match=r"lack the columns smooth-or-featured-dr5_smooth, .*source=synthetic has them"):
        galaxy_zoo.open_dataset(directory, tree=decals, store=tmp_path / "store")
    with pytest.raises(UserError, match=r"lack the columns ring of .*'mine': name a tree of Kaggle's columns"):
        galaxy_zoo.open_dataset(directory, tree=_one_question("Class1.1", "ring"), store=tmp_path / "store")


def test_what_is_written_is_announced_and_nothing_is_left_elsewhere(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    dataset = galaxy_zoo.open_dataset(kaggle_like.write(tmp_path / "data", FILES), store=tmp_path / "store")
    path = galaxy_zoo.cache_dir(tmp_path / "store", dataset.fingerprint) / "train.npy"
    packed.pack(dataset.splits["train"], augment.view(68, 204, 424), final=True, path=path)
    assert list((tmp_path / "temporary").iterdir()) == []
    said = capfd.readouterr().err
    assert re.search(rf"preparing 27 galaxies, once: [\d.e-]+ GB in {tmp_path}/store/galaxy_zoo_challenge", said)
    assert re.search(rf"decoding {dataset.splits['train'].size} images, once: [\d.e-]+ GB in {path.parent}", said)
    galaxy_zoo.open_dataset(tmp_path / "data", store=tmp_path / "store")  # nothing to write
    assert capfd.readouterr().err == ""


def test_random_access_in_any_order_over_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(galaxy_zoo_builder, "_PER_SHARD", 5)
    dataset = galaxy_zoo.open_dataset(kaggle_like.write(tmp_path / "data", FILES), store=tmp_path / "store")
    train = dataset.splits["train"]
    assert len(list((tmp_path / "store").rglob("*train*array_record*"))) == -(-train.size // 5) > 2
    whole = train.read(np.arange(train.size))
    indices = np.random.default_rng(0).integers(0, train.size, 50)
    some = train.read(indices)
    np.testing.assert_array_equal(some["galaxy_id"], whole["galaxy_id"][indices])
    np.testing.assert_array_equal(some["vote_fractions"], whole["vote_fractions"][indices])
    assert some["image"].tolist() == whole["image"][indices].tolist()
    assert (some["galaxy_id"].dtype, some["vote_fractions"].dtype, some["image"].dtype) == (
        np.int64,
        np.float32,
        object,
    )
    assert train.read(np.empty(0, np.int64))["vote_fractions"].shape == (0, 37)


def test_tfds_reads_it_too(tmp_path):
    import tensorflow_datasets as tfds
    from PIL import Image

    dataset = galaxy_zoo.open_dataset(kaggle_like.write(tmp_path / "data", FILES), store=tmp_path / "store")
    config = tfds.core.BuilderConfig(name=dataset.fingerprint)
    builder = galaxy_zoo_builder.builder_class()(data_dir=tmp_path / "store", config=config)
    assert builder.name == "galaxy_zoo_challenge"
    example = builder.as_data_source("validation")[1]
    ours = dataset.splits["validation"].read(np.array([1]))
    assert example["galaxy_id"] == ours["galaxy_id"][0]
    np.testing.assert_array_equal(example["vote_fractions"], ours["vote_fractions"][0])
    np.testing.assert_array_equal(example["image"], np.asarray(Image.open(io.BytesIO(ours["image"][0]))))


def faulty_files() -> dict[str, bytes]:
    rows = {i: list(v) for i, v in zip(IDS, kaggle_like.fractions(24), strict=True)}
    rows[IDS[0]][3] = "nan"
    rows[IDS[1]][0] = "oops"
    rows[123] = rows[IDS[5]]
    return {
        **FILES,
        "training_solutions_rev1.csv": kaggle_like.solutions(rows),
        "images_training_rev1/77.jpg": kaggle_like.jpeg(77),
        f"images_training_rev1/{IDS[2]}.jpg": FILES[f"images_training_rev1/{IDS[2]}.jpg"][:3000],
        f"images_training_rev1/{IDS[3]}.jpg": b"",
        "images_test_rev1/900001.jpg": kaggle_like.jpeg(1, mode="CMYK"),
    }


EXPECTED_FAULTS = {
    str(IDS[0]): "vote fraction NaN or infinite",
    str(IDS[1]): "text where a number belongs",
    str(IDS[2]): "image is truncated or damaged",
    str(IDS[3]): "image of 0 bytes",
    "123": "row without an image",
    "77": "image without a row",
    "900001": "image is CMYK, not RGB",
}


@pytest.mark.parametrize("layout", ["folders", "big_deflated"])
def test_all_faults_are_reported_together_and_nothing_is_written(tmp_path, layout):
    directory = kaggle_like.write(tmp_path / "data", faulty_files(), layout)
    with pytest.raises(UserError) as caught:
        galaxy_zoo.open_dataset(directory, store=tmp_path / "store")
    message = str(caught.value)
    assert message.startswith(f"7 problems in Kaggle's files at {directory}:")
    for galaxy_id, kind in EXPECTED_FAULTS.items():
        assert re.search(rf"^  {kind}: 1: {galaxy_id}\b", message, re.MULTILINE), (galaxy_id, message)
    assert message.endswith("--config.data.on_bad=skip")
    assert prepared(tmp_path / "store") == []


def test_skip_leaves_out_the_faulty_and_remembers_them(tmp_path):
    directory = kaggle_like.write(tmp_path / "data", faulty_files())
    for _ in ("prepared", "opened"):
        dataset = galaxy_zoo.open_dataset(directory, store=tmp_path / "store", on_bad="skip")
        assert {galaxy_id: reason.split(" (")[0] for galaxy_id, _, reason in dataset.skipped} == EXPECTED_FAULTS
        records = everything(dataset)
        assert sorted([*records["train"], *records["validation"]]) == IDS[4:]
        assert list(records["test"]) == [900_000, 900_002]
    assert (str(IDS[3]), f"images_training_rev1/{IDS[3]}.jpg", "image of 0 bytes") in dataset.skipped


def test_a_split_without_galaxies(tmp_path):
    few = kaggle_like.galaxies(train=3)
    directory = kaggle_like.write(tmp_path / "data", few)
    with pytest.raises(UserError, match=r"no galaxy is left for validation: .* has 3 valid galaxies"):
        galaxy_zoo.open_dataset(directory, store=tmp_path / "store", validation_fraction=1e-6)
    assert prepared(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"on_bad": "ignore"}, "on_bad is 'ignore'; it must be 'fail' or 'skip'"),
        ({"validation_fraction": 0.0}, "validation fraction is 0.0; it must lie between 0 and 1"),
        ({"validation_fraction": 1.0}, "must lie between 0 and 1"),
    ],
)
def test_wrong_arguments(tmp_path, argument, message):
    with pytest.raises(UserError, match=message):
        galaxy_zoo.open_dataset(tmp_path, store=tmp_path / "store", **argument)


def test_a_shift_between_the_sides_is_warned_of(tmp_path, caplog, monkeypatch):
    ids = np.arange(500)
    validates = kaggle_split.side(ids, 0, 0.5)
    fractions = kaggle_like.fractions(500)
    fractions[validates, 15:18] = fractions[validates, 15:18].sum(1, keepdims=True) * [1, 0, 0]
    files = {"training_solutions_rev1.csv": kaggle_like.solutions(dict(zip(ids.tolist(), fractions, strict=True)))}
    image = kaggle_like.jpeg(1, size=(16, 16))
    files |= {f"images_training_rev1/{i}.jpg": image for i in ids}
    dataset = galaxy_zoo.open_dataset(
        kaggle_like.write(tmp_path / "data", files), store=tmp_path / "store", validation_fraction=0.5, image_size=16
    )
    assert dataset.statistics["ks_exceeded"] == ["Class7.1", "Class7.2", "Class7.3"]
    assert "train and validation differ more than chance allows" in caplog.text
    assert "Class7.3" in caplog.text
    assert dataset.statistics["majority_column"] in labels.GALAXY_ZOO_2.columns


def test_nothing_there_says_what_to_do(tmp_path):
    (tmp_path / "data").mkdir()
    for data_dir in (None, tmp_path / "data"):
        with pytest.raises(UserError) as caught:
            galaxy_zoo.open_dataset(data_dir, store=tmp_path / "store")
        message = str(caught.value)
        steps = ["accept the competition's rules", *(f"{n}.zip" for n in (kaggle.TRAIN, kaggle.SOLUTIONS, kaggle.TEST))]
        page = f"https://www.kaggle.com/c/{kaggle.COMPETITION}"
        for part in (page, *steps, "--config.data.dir", "--config.data.source=synthetic"):
            assert part in message
    assert not (tmp_path / "store").exists()


def _credentials(tmp_path, monkeypatch, script: str | None) -> None:
    """Kaggle credentials, and a `kaggle` command that does what `script` says."""
    monkeypatch.setenv("KAGGLE_USERNAME", "caroline")
    monkeypatch.setenv("KAGGLE_KEY", "herschel")
    (tmp_path / "bin").mkdir()
    if script:
        (tmp_path / "bin" / "kaggle").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_a_mistyped_directory_never_starts_a_download(tmp_path, monkeypatch):
    _credentials(tmp_path, monkeypatch, "touch $0.ran")
    with pytest.raises(UserError, match="dtaa does not exist"):
        galaxy_zoo.open_dataset(tmp_path / "dtaa", store=tmp_path / "store")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other holds none of Kaggle's files"):
        galaxy_zoo.open_dataset(tmp_path / "other", store=tmp_path / "store")
    assert not (tmp_path / "bin" / "kaggle.ran").exists()


def test_credentials_without_the_kaggle_command(tmp_path, monkeypatch):
    _credentials(tmp_path, monkeypatch, None)
    with pytest.raises(UserError, match="pip install kaggle"):
        galaxy_zoo.open_dataset(None, store=tmp_path / "store")


@pytest.mark.slow
def test_download_with_credentials(tmp_path, monkeypatch, caplog):
    big = kaggle_like.write(tmp_path / "kaggle", FILES, "big_deflated") / f"{kaggle.COMPETITION}.zip"
    _credentials(
        tmp_path, monkeypatch, f'[ "$*" = "competitions download --path $4 {kaggle.COMPETITION}" ] && cp {big} "$4"'
    )
    dataset = galaxy_zoo.open_dataset(None, store=tmp_path / "store")
    assert "with your Kaggle credentials, getting https://www.kaggle.com/c/" in caplog.text
    here = galaxy_zoo.open_dataset(big.parent, store=tmp_path / "store")
    assert here.fingerprint == dataset.fingerprint
    assert dataset.splits["train"].size + dataset.splits["validation"].size == 24


@pytest.mark.slow
def test_refused_download(tmp_path, monkeypatch):
    _credentials(tmp_path, monkeypatch, "echo 403 - Forbidden; exit 1")
    with pytest.raises(UserError, match=r"download failed; are the rules at https://www.kaggle.com/c/.* accepted"):
        galaxy_zoo.open_dataset(None, store=tmp_path / "store")
    assert not list((tmp_path / "store" / "downloads").glob("*galaxy*"))


# Opens a data set in a process of its own; arguments: directory, store, seconds each image takes while preparing.
SCRIPT = """
import sys, time
from gz_jax.data import galaxy_zoo, galaxy_zoo_builder, kaggle
galaxy_zoo_builder._PER_SHARD = 4
read, reads = kaggle.Images.read, []
def slow(self, galaxy_id):
    reads.append(galaxy_id)
    time.sleep(float(sys.argv[3]) if len(reads) > 27 else 0)  # 27 were read for checking
    return read(self, galaxy_id)
kaggle.Images.read = slow
dataset = galaxy_zoo.open_dataset(sys.argv[1], store=sys.argv[2], workers=1)
print(dataset.splits["train"].size, "prepared" if len(reads) > 27 else "opened", "tensorflow" in sys.modules)
"""


def process(directory, store, seconds: float) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(directory), str(store), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return result


@pytest.mark.slow
def test_killed_while_preparing(tmp_path):
    directory, store = kaggle_like.write(tmp_path / "data", FILES), tmp_path / "store"
    victim = process(directory, store, 0.3)
    wait_for(lambda: list(store.rglob("incomplete.*/*train*-00001-of-*")))
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    (left,) = prepared(store)
    assert left.startswith("incomplete.")
    dataset = galaxy_zoo.open_dataset(directory, store=store)
    assert prepared(store) == ["1.0.0"]
    clean = galaxy_zoo.open_dataset(directory, store=tmp_path / "clean")
    assert {k: list(v) for k, v in everything(dataset).items()} == {k: list(v) for k, v in everything(clean).items()}
    assert sum(split.size for split in dataset.splits.values()) == 27


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
    directory, store = kaggle_like.write(tmp_path / "data", FILES), tmp_path / "store"
    first = process(directory, store, 0.1)
    wait_for(lambda: list(store.rglob("incomplete.*")))
    first.send_signal(signal.SIGSTOP)
    second = process(directory, store, 0)
    assert "another process is preparing" in second.stderr.readline()
    first.send_signal(signal.SIGCONT)
    outputs = [p.communicate(timeout=120) for p in (first, second)]
    train = 24 - kaggle_split.side(np.array(IDS), 0, 0.2).sum()
    assert [out for out, _ in outputs] == [f"{train} prepared False\n", f"{train} opened False\n"]
    assert prepared(store) == ["1.0.0"]
    assert re.search(r"^preparing 27 galaxies, once: .* in .*store", outputs[0][1], re.MULTILINE)


@pytest.mark.slow
def test_tensorflow_starts_quietly():
    code = "from gz_jax.data.tensorflow_cpu import import_tensorflow as i; tf = i(); print(tf.constant(3).numpy())"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "GRPC_"))}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (result.stdout, result.stderr) == ("3\n", "")


def test_unwritable_store(tmp_path):
    (tmp_path / "store").write_text("a file, not a directory")
    with pytest.raises(UserError, match="cannot write prepared data to"):
        galaxy_zoo.open_dataset(kaggle_like.write(tmp_path / "data", FILES), store=tmp_path / "store")


@pytest.mark.slow
def test_real_sample(galaxy_zoo_sample, tmp_path_factory):
    dataset = galaxy_zoo.open_dataset(galaxy_zoo_sample, store=tmp_path_factory.mktemp("store"))
    assert {name: split.size for name, split in dataset.splits.items()} == {
        "train": 5926,
        "validation": 1474,
        "test": 1197,
    }
    assert dataset.skipped == ()
    assert dataset.statistics["ks_exceeded"] == []
    assert dataset.statistics["guess_the_means_rmse"] == pytest.approx(0.1746, abs=2e-3)
    seen = {}
    for name, split in dataset.splits.items():
        records = split.read(np.random.default_rng(0).permutation(split.size))
        seen[name] = set(records["galaxy_id"].tolist())
        stem = kaggle.TEST if name == "test" else kaggle.TRAIN
        with zipfile.ZipFile(galaxy_zoo_sample / f"{stem}.zip") as archive:
            for galaxy_id, image in zip(records["galaxy_id"].tolist(), records["image"], strict=True):
                assert image == archive.read(f"{stem}/{galaxy_id}.jpg")
        if name == "test":
            assert np.isnan(records["vote_fractions"]).all()
        else:
            assert labels.tree_violation(records["vote_fractions"]).max() < 3e-6
    assert not seen["train"] & seen["validation"]
    assert len(seen["train"] | seen["validation"]) == 7400
    assert len(seen["test"]) == 1197
