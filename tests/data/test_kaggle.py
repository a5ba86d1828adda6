"""Kaggle's files in every layout, and everything that can be wrong with them."""

import concurrent.futures
import csv
import io
import json
import random
import zipfile

import kaggle_like
import numpy as np
import pytest
from marks import no_warnings
from PIL import Image
from scipy import stats

from gz_jax import labels
from gz_jax.data import archive, kaggle, kaggle_check, kaggle_split
from gz_jax.data.problems import Problem, report, write_skipped_csv
from gz_jax.modes import summary
from gz_jax.runtime.errors import UserError
from gz_jax.training import log

FILES = kaggle_like.galaxies()
IDS = [100_000 + 7 * i for i in range(12)]
CSV = "training_solutions_rev1.csv"


def rows():
    return {i: list(v) for i, v in zip(IDS, kaggle_like.fractions(12), strict=True)}


def read_csv(content: bytes) -> kaggle_check.Solutions:
    return kaggle_check.read_solutions(archive.Source("here", {CSV: len(content)}, lambda _: content))


def images(files: dict[str, bytes]) -> kaggle.Images:
    sizes = {name: len(data) for name, data in files.items()}
    return kaggle._images(archive.Source("here", sizes, files.__getitem__))


@pytest.mark.parametrize("layout", kaggle_like.LAYOUTS)
def test_every_layout_gives_the_same_galaxies(tmp_path, layout):
    found = kaggle.find(kaggle_like.write(tmp_path / layout, FILES, layout))
    reference = kaggle.find(kaggle_like.write(tmp_path / "reference", FILES, "folders"))
    assert kaggle.fingerprint(found) == kaggle.fingerprint(reference)
    for side, count in (("train", 12), ("test", 3)):
        a, b = getattr(found, side), getattr(reference, side)
        assert list(a.names) == list(b.names)
        assert len(a.names) == count
        assert a.sizes == b.sizes
        assert all(a.read(i) == b.read(i) for i in a.names)
    assert kaggle.csv_bytes(found.solutions)[1] == FILES[CSV]


def test_the_big_zip_itself_may_be_named_and_the_test_set_may_be_absent(tmp_path):
    files = {name: data for name, data in FILES.items() if "test" not in name}
    kaggle_like.write(tmp_path, files, "big_stored")
    found = kaggle.find(tmp_path / f"{kaggle.COMPETITION}.zip")
    assert found.test is None
    assert len(found.train.names) == 12


def test_big_zip_with_folders_instead_of_zips(tmp_path):
    (tmp_path / f"{kaggle.COMPETITION}.zip").write_bytes(kaggle_like._zip(FILES))
    found = kaggle.find(tmp_path)
    assert found.train.read(IDS[0]) == FILES[f"images_training_rev1/{IDS[0]}.jpg"]
    assert len(found.test.names) == 3


def test_fingerprint_changes_with_labels_and_images(tmp_path):
    def of(name, changes):
        return kaggle.fingerprint(kaggle.find(kaggle_like.write(tmp_path / name, {**FILES, **changes})))

    other = {IDS[0]: kaggle_like.fractions(1, seed=1)[0]}
    marks = {
        of("same", {}),
        of("labels", {CSV: kaggle_like.solutions({**rows(), **other})}),
        of("bytes", {f"images_training_rev1/{IDS[0]}.jpg": kaggle_like.jpeg(1) + b"0"}),
        of("more", {"images_training_rev1/5.jpg": kaggle_like.jpeg(5)}),
    }
    assert len(marks) == 4
    assert of("again", {}) in marks


@pytest.mark.parametrize("block", [1000, 7919, 4 << 20])
def test_deflated_inner_zip_reads_in_any_order_from_threads(tmp_path, monkeypatch, block):
    monkeypatch.setattr(archive, "_BLOCK", block)
    rng = np.random.default_rng(0)
    texts = {
        f"images_training_rev1/{i}.jpg": rng.integers(0, 4, rng.integers(0, 9000), np.uint8).tobytes()
        for i in range(60)
    }
    inner = {"images_training_rev1.zip": kaggle_like._zip(texts)}
    path = tmp_path / "big.zip"
    path.write_bytes(kaggle_like._zip(inner, zipfile.ZIP_DEFLATED))
    source = archive.from_zip(path, ".jpg", inner="images_training_rev1")
    names = list(texts) * 3
    random.Random(0).shuffle(names)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, names)) == [texts[name] for name in names]


def test_missing_directory_and_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        kaggle.find(tmp_path / "nowhere")
    with pytest.raises(kaggle.NoKaggleFilesError, match="none of Kaggle's files"):
        kaggle.find(tmp_path)
    kaggle_like.write(tmp_path, {CSV: FILES[CSV]})
    with pytest.raises(UserError, match="lacks images_training_rev1"):
        kaggle.find(tmp_path)


@pytest.mark.parametrize("damage", [lambda d: d[:-200], lambda d: d[: len(d) // 2], lambda d: b"hello", lambda d: b""])
@pytest.mark.parametrize("layout", ["zips", "big_stored", "big_deflated"])
def test_truncated_zip_or_none(tmp_path, layout, damage):
    kaggle_like.write(tmp_path, FILES, layout)
    path = tmp_path / ("images_training_rev1.zip" if layout == "zips" else f"{kaggle.COMPETITION}.zip")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"{path.name} is not a zip file or is truncated .*download it again"):
        kaggle.find(tmp_path)


@pytest.mark.parametrize("layout", ["big_stored", "big_deflated"])
def test_inner_zip_that_is_truncated(tmp_path, layout):
    compression = zipfile.ZIP_DEFLATED if layout == "big_deflated" else zipfile.ZIP_STORED
    inner = {f"{kaggle.TRAIN}.zip": kaggle_like._zip(FILES)[:-5000], CSV: FILES[CSV]}
    (tmp_path / f"{kaggle.COMPETITION}.zip").write_bytes(kaggle_like._zip(inner, compression))
    with pytest.raises(UserError, match=r"challenge.zip/images_training_rev1.zip is not a zip file or is trunc"):
        kaggle.find(tmp_path)


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "C:\\evil.jpg", "..\\evil.jpg"])
def test_unsafe_path_in_a_zip(tmp_path, name):
    kaggle_like.write(tmp_path, FILES)
    (tmp_path / "images_test_rev1.zip").write_bytes(kaggle_like._zip({name: b"x"}))
    with pytest.raises(UserError, match="unsafe path"):
        kaggle.find(tmp_path)


def test_bombs_are_refused_unread(tmp_path, monkeypatch):
    bomb = {"images_training_rev1/5.jpg": bytes(65 << 20)}
    (tmp_path / "bomb.zip").write_bytes(kaggle_like._zip(bomb, zipfile.ZIP_DEFLATED))
    source = archive.from_zip(tmp_path / "bomb.zip", ".jpg")
    unread = source._replace(read=lambda name: pytest.fail("was read"))
    (problem,) = kaggle_check.check_images(kaggle._images(unread))
    assert (problem.galaxy_id, problem.kind) == ("5", "image is too large")
    monkeypatch.setattr(kaggle, "_MAX_CSV", 1000)
    with pytest.raises(UserError, match="more than 1000 is refused"):
        read_csv(FILES[CSV])


def test_solutions_read_exactly_in_any_column_order():
    expected = kaggle_like.fractions(12)
    order = np.random.default_rng(0).permutation(37)
    shuffled = {i: [v[j] for j in order] for i, v in reversed(rows().items())}
    columns = ["GalaxyID", *(labels.GALAXY_ZOO_2.columns[j] for j in order)]
    for content in (
        FILES[CSV],
        b"\xef\xbb\xbf" + FILES[CSV].replace(b"\n", b"\r\n"),
        kaggle_like.solutions(shuffled, columns),
    ):
        solutions = read_csv(content)
        assert solutions.problems == ()
        assert solutions.galaxy_id.dtype == np.int64
        assert solutions.vote_fractions.dtype == np.float32
        np.testing.assert_array_equal(solutions.galaxy_id, IDS)
        np.testing.assert_allclose(solutions.vote_fractions, expected, atol=6e-8 + 5e-10)


def _without_column(text: bytes) -> bytes:
    return b"\n".join(line.rsplit(b",", 2)[0] for line in text.splitlines())


def _with_index(text: bytes) -> bytes:
    header, *lines = text.splitlines(True)
    return b"".join([b"," + header, *(b"%d,%s" % pair for pair in enumerate(lines))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (FILES[CSV].splitlines()[0], "has a header but no galaxies"),
        (_without_column(FILES[CSV]), "lacks the column Class11.5, Class11.6"),
        (
            FILES[CSV].replace(b"Class3.1", b"Class3,1"),
            "lacks the column Class3.1 and has the unknown column Class3, 1",
        ),
        (FILES[CSV].replace(b"Class3.1", b"Class3.2"), "has more than once the column Class3.2"),
        (b"\xff\xfe\x00binary", "is not a CSV file in UTF-8"),
        (
            _with_index(FILES[CSV]),
            r"has a column without a name, number 1\. pandas writes its index in this way.*index=False",
        ),
        (FILES[CSV].replace(b"\n", b",\n"), "has a column without a name, number 39"),
    ],
)
def test_csv_wrong_as_a_whole(content, message):
    with pytest.raises(UserError, match=message):
        read_csv(content)


def _changed(galaxy: int, column: str, value) -> bytes:
    changed = rows()
    changed[IDS[galaxy]][labels.GALAXY_ZOO_2.columns.index(column)] = value
    return kaggle_like.solutions(changed)


@pytest.mark.parametrize(
    ("content", "kind", "detail"),
    [
        (_changed(2, "Class4.1", "many"), "text where a number belongs", "line 4, Class4.1 = 'many'"),
        (_changed(2, "Class4.1", ""), "text where a number belongs", "line 4, Class4.1 = ''"),
        (_changed(2, "Class4.1", "nan"), "vote fraction NaN or infinite", "line 4, Class4.1 = nan"),
        (_changed(2, "Class4.1", "inf"), "vote fraction NaN or infinite", "line 4, Class4.1 = inf"),
        (_changed(2, "Class1.1", 1.5), "vote fraction outside 0..1", "line 4, Class1.1 = 1.5"),
        (_changed(2, "Class1.1", -0.25), "vote fraction outside 0..1", "line 4, Class1.1 = -0.25"),
    ],
)
def test_bad_row_is_named_and_left_out(content, kind, detail):
    solutions = read_csv(content)
    assert solutions.problems == (Problem(str(IDS[2]), CSV, kind, detail),)
    assert solutions.galaxy_id.tolist() == IDS[:2] + IDS[3:]
    assert IDS[2] in solutions.seen


def test_broken_tree_names_the_questions():
    values = rows()
    value = values[IDS[5]][labels.GALAXY_ZOO_2.columns.index("Class7.1")]
    (problem,) = read_csv(_changed(5, "Class7.1", value + (0.002 if value < 0.5 else -0.002))).problems
    assert problem.kind == "vote fractions break the decision tree Galaxy Zoo 2"
    assert problem.detail == "line 7, question how-rounded"
    assert read_csv(_changed(5, "Class7.1", value + (5e-4 if value < 0.5 else -5e-4))).problems == ()


def test_duplicate_and_ragged_rows_and_wrong_ids():
    lines = FILES[CSV].decode().splitlines()
    lines += [lines[3], lines[4] + ",0.5", lines[5].replace(str(IDS[4]), "M31"), lines[6].rsplit(",", 1)[0]]
    solutions = read_csv("\n".join(lines).encode())
    problems = [(p.galaxy_id, p.reason) for p in solutions.problems]
    assert problems == [
        (str(IDS[3]), "row of the wrong length (line 15, 39 fields instead of 38)"),
        ("M31", "GalaxyID is not a whole number (line 16, 'M31')"),
        (str(IDS[5]), "row of the wrong length (line 17, 37 fields instead of 38)"),
        (str(IDS[2]), "duplicate GalaxyID (line 4)"),
        (str(IDS[3]), "duplicate GalaxyID (line 5)"),
        (str(IDS[5]), "duplicate GalaxyID (line 7)"),
        (str(IDS[2]), "duplicate GalaxyID (line 14)"),
    ]
    assert solutions.galaxy_id.tolist() == [i for n, i in enumerate(IDS) if n not in (2, 3, 5)]


@pytest.mark.parametrize("galaxy_id", [1237648720693755918, 2**63 - 1, -(2**63), 0, -5])
def test_every_whole_number_of_64_bits_is_a_galaxy_id(galaxy_id):
    values = {galaxy_id: kaggle_like.fractions(1)[0]}
    solutions = read_csv(kaggle_like.solutions(values))
    assert solutions.problems == ()
    assert solutions.galaxy_id.tolist() == [galaxy_id]
    found = images({f"images_training_rev1/{galaxy_id}.jpg": b""})
    assert (list(found.names), found.misnamed) == ([galaxy_id], ())
    assert kaggle_check.match(found, solutions) == []
    assert kaggle_split.side(solutions.galaxy_id, 0, 0.2).shape == (1,)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (str(2**63), "GalaxyID is too large for 64 bits (at most 9223372036854775807)"),
        ("1.237648720693755e+18", "GalaxyID is floating point, which loses digits"),
        ("100008.0", "GalaxyID is not a whole number"),
        ("M31", "GalaxyID is not a whole number"),
        ("", "GalaxyID is not a whole number"),
    ],
)
def test_other_ids_are_named_with_the_reason(text, kind):
    (problem,) = read_csv(kaggle_like.solutions({text: kaggle_like.fractions(1)[0]})).problems
    assert (problem.galaxy_id, problem.kind, problem.detail) == (text, kind, f"line 2, {text!r}")
    (problem,) = kaggle_check.check_images(images({f"{text or '_'}.jpg": b""}))
    assert problem.kind == "image name is not a GalaxyID"
    assert problem.detail == ("" if "whole" in kind else kind.replace("GalaxyID", "it"))


def test_report_counts_and_shortens():
    problems = [Problem(str(i), "f", "image of 0 bytes") for i in range(133)]
    problems.append(Problem("7", "g", "duplicate GalaxyID", "line 4"))
    lines = report(problems, "/data").splitlines()
    assert lines[0] == "134 problems in Kaggle's files at /data:"
    assert lines[1] == "  image of 0 bytes: 133: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 123 more"
    assert lines[2] == "  duplicate GalaxyID: 1: 7 (line 4)"


def bad_images() -> dict[str, tuple[bytes, str]]:
    good, bomb = kaggle_like.jpeg(1), io.BytesIO()
    Image.new("L", (20_000, 20_000)).save(bomb, "JPEG")
    return {
        "1": (good, ""),
        "2": (b"", "image of 0 bytes"),
        "3": (good[: len(good) // 2], "image is truncated or damaged"),
        "4": (good[:-1], "image is truncated or damaged"),
        "5": (good[:20], "image is truncated or damaged"),
        "6": (kaggle_like.jpeg(1, format="PNG"), "image is not a JPEG"),
        "7": (b"<html>Sign in</html>", "image is not a JPEG"),
        "8": (kaggle_like.jpeg(1, mode="L"), "image is greyscale, not RGB"),
        "9": (kaggle_like.jpeg(1, mode="CMYK"), "image is CMYK, not RGB"),
        "10": (kaggle_like.jpeg(1, size=(424, 400)), "image of the wrong size"),
        "11": (bomb.getvalue(), "image of the wrong size"),
        "M31": (good, "image name is not a GalaxyID"),
    }


def test_every_bad_image_is_found():
    cases = bad_images()
    problems = kaggle_check.check_images(
        images({f"images_training_rev1/{name}.jpg": data for name, (data, _) in cases.items()})
    )
    found = {p.galaxy_id.removeprefix("images_training_rev1/").removesuffix(".jpg"): p for p in problems}
    assert {name: p.kind for name, p in found.items()} == {n: kind for n, (_, kind) in cases.items() if kind}
    assert found["10"].detail == "424 x 400, expected 424 x 424"
    assert found["2"].file == "images_training_rev1/2.jpg"


def test_image_size_is_an_argument():
    small = images({"1.jpg": kaggle_like.jpeg(1, size=(64, 64))})
    assert kaggle_check.check_images(small, image_size=64) == []
    assert kaggle_check.check_images(small)[0].kind == "image of the wrong size"


def test_image_whose_zip_entry_is_damaged(tmp_path):
    kaggle_like.write(tmp_path, FILES)
    path = tmp_path / "images_training_rev1.zip"
    data = path.read_bytes()
    image = FILES[f"images_training_rev1/{IDS[1]}.jpg"]
    at = data.index(image) + len(image) // 2
    path.write_bytes(data[:at] + b"broken" + data[at + 6 :])
    (problem,) = kaggle_check.check_images(kaggle.find(tmp_path).train)
    assert (problem.galaxy_id, problem.kind) == (str(IDS[1]), "image cannot be read")


def test_image_without_row_and_row_without_image():
    have = images({f"{i}.jpg": b"" for i in [*IDS[1:], 5]})
    problems = kaggle_check.match(have, read_csv(FILES[CSV]))
    assert [(p.galaxy_id, p.kind) for p in problems] == [
        ("5", "image without a row"),
        (str(IDS[0]), "row without an image"),
    ]
    # A bad row is reported once, not again as an image without a row.
    assert kaggle_check.match(images({f"{i}.jpg": b"" for i in IDS}), read_csv(_changed(2, "Class1.1", "x"))) == []


def test_two_files_for_one_galaxy():
    with pytest.raises(UserError, match=r"two images of galaxy 7: 007.jpg and 7.jpg"):
        images({"7.jpg": b"", "007.jpg": b""})


def test_skipped_csv(tmp_path):
    skipped = [("5", "images/5.jpg", "image of 0 bytes"), ("M31", "a.csv", 'row, "odd"')]
    write_skipped_csv(tmp_path / "skipped.csv", skipped)
    with (tmp_path / "skipped.csv").open(newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("galaxy_id", "file", "reason"), *skipped]
    with pytest.raises(ValueError, match="stop"):
        write_skipped_csv(tmp_path / "skipped.csv", (_stop() for _ in range(1)))
    assert [path.name for path in tmp_path.iterdir()] == ["skipped.csv"]
    assert "M31" in (tmp_path / "skipped.csv").read_text()


def _stop():
    raise ValueError("stop")


def test_side_never_changes_and_depends_on_nothing_else():
    ids = np.arange(100_000, 200_000)
    first = kaggle_split.side(ids, 0, 0.2)
    assert np.nonzero(first)[0][:8].tolist() == [3, 6, 11, 19, 20, 26, 29, 31]
    assert np.nonzero(kaggle_split.side(ids, 1, 0.2))[0][:8].tolist() == [0, 9, 10, 12, 24, 33, 35, 39]
    assert abs(first.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / len(ids))
    some = np.random.default_rng(0).choice(ids, 1000, replace=False)
    np.testing.assert_array_equal(kaggle_split.side(some, 0, 0.2), first[some - 100_000])
    assert (kaggle_split.side(ids, 0, 0.3) >= first).all()
    both = (first & kaggle_split.side(ids, 1, 0.2)).mean()
    assert abs(both - 0.04) < 5 * np.sqrt(0.04 * 0.96 / len(ids))


def test_side_equals_splitmix64_in_plain_integers():
    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    for seed in (0, 42, -1, 2**63):
        key = mix((seed + golden) % 2**64)
        expected = [mix(((i ^ key) + golden) % 2**64) / 2**64 < 0.2 for i in IDS]
        assert kaggle_split.side(np.array(IDS), seed, 0.2).tolist() == expected


def test_compare_splits_by_hand():
    train, validation = np.zeros((4, 37)), np.zeros((2, 37))
    train[:, 0], validation[:, 0] = [0.1, 0.2, 0.3, 0.4], [0.35, 0.5]
    train[:, 14], validation[:, 14] = 0.5, [0.4, 0.4]
    result = kaggle_split.compare_splits(train, validation, labels.GALAXY_ZOO_2)
    assert result["ks_distance"]["Class1.1"] == pytest.approx(0.75)
    assert result["ks_distance"]["Class6.2"] == 1
    assert result["ks_distance"]["Class1.2"] == 0
    assert result["train_mean"]["Class1.1"] == pytest.approx(0.25)
    assert result["validation_mean"]["Class1.1"] == pytest.approx(0.425)
    assert result["guess_the_means_rmse"] == pytest.approx(np.sqrt((0.1**2 + 0.25**2 + 2 * 0.1**2) / 74))
    assert (result["majority_share"], result["majority_column"]) == (0.5, "Class1.1")
    assert result["ks_exceeded"] == []  # six galaxies prove nothing


@no_warnings
def test_compare_splits_uses_what_is_known():
    """An answer that one side never knows, one known to half, and galaxies without any label."""
    rng, tree = np.random.default_rng(0), labels.GALAXY_ZOO_2
    train, validation = kaggle_like.fractions(400), kaggle_like.fractions(300, seed=1)
    validation[:, 4] += 0.3
    for x in (train, validation):
        x[:, 14:17][rng.random(len(x)) < 0.5] = np.nan
        x[:10] = np.nan
    train[:, 3], validation[:, 7] = np.nan, np.nan
    result = kaggle_split.compare_splits(train, validation, tree)
    json.dumps(result, allow_nan=False)
    means = []
    for i, column in enumerate(tree.columns):
        a, b = (x[~np.isnan(x[:, i]), i] for x in (train, validation))
        means.append(a.mean() if len(a) else np.nan)
        assert result["train_mean"][column] == (pytest.approx(a.mean()) if len(a) else None)
        assert result["validation_mean"][column] == (pytest.approx(b.mean()) if len(b) else None)
        if not (len(a) and len(b)):
            assert (result["ks_distance"][column], result["ks_critical"][column]) == (None, None)
            continue
        found = stats.ks_2samp(a, b, method="asymp")
        assert result["ks_distance"][column] == pytest.approx(found.statistic)
        # The critical distance is where the asymptotic probability, of which scipy has the distribution, is 0.001 / 37.
        limit = stats.kstwobign.isf(0.001 / 37) * np.sqrt((len(a) + len(b)) / (len(a) * len(b)))
        assert result["ks_critical"][column] == pytest.approx(limit, rel=1e-6)
    assert result["ks_exceeded"] == ["Class2.2"]
    errors, largest = [], []
    for row in validation[10:]:
        squared = [(x - mean) ** 2 for x, mean in zip(row, means, strict=True) if not np.isnan(x - mean)]
        errors.append(np.mean(squared))
        largest.append(tree.columns[int(np.where(np.isnan(row), -1, row).argmax())])
    assert result["guess_the_means_rmse"] == pytest.approx(np.sqrt(np.mean(errors)))
    assert result["majority_share"] == largest.count(result["majority_column"]) / 290
    assert result["majority_share"] == max(map(largest.count, largest)) / 290


@no_warnings
def test_splits_that_know_other_answers_say_so():
    """No mean of training is of use for validation."""
    train, validation = np.full((2, 3, 37), np.nan)
    train[:, 0], validation[:, 1] = 0.5, 0.25
    result = kaggle_split.compare_splits(train, validation, labels.GALAXY_ZOO_2)
    assert (result["guess_the_means_rmse"], result["ks_exceeded"]) == (None, [])
    assert (result["majority_column"], result["majority_share"]) == ("Class1.2", 1)
    row = {"epoch": 1, "loss": 0.01, "val_loss": 0.1, "val_accuracy": 0.5}
    assert log.lag([row], result, 10) == ""
    assert "guess" not in summary.trained("gz-jax", "run", row, 1, 2, result, "page")


def test_compare_splits_warns_of_a_shift_only():
    values = kaggle_like.fractions(4000)
    assert kaggle_split.compare_splits(values[:3000], values[3000:], labels.GALAXY_ZOO_2)["ks_exceeded"] == []
    biased = values[3000:].copy()
    biased[:, 3] += 0.1
    result = kaggle_split.compare_splits(values[:3000], biased, labels.GALAXY_ZOO_2)
    assert result["ks_exceeded"] == ["Class2.1"]
    assert all(isinstance(v, float) for v in result["ks_distance"].values())
