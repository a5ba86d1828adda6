import csv
import pickle
import shutil
import sys

import h5py
import jax
import numpy as np
import pytest
from PIL import Image
from references import named, random_weights, same, write_h5, write_old_h5, write_safetensors

from gz_jax.models import imagenet
from gz_jax.models.imagenet_tables import TABLES, entries, shapes
from gz_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def keras_weights():
    return random_weights("keras")


@pytest.fixture(scope="module")
def torch_weights():
    return random_weights("torchvision")


@pytest.fixture(scope="module")
def keras_file(keras_weights, tmp_path_factory):
    return write_h5(named(keras_weights, 0), tmp_path_factory.mktemp("keras") / "keras.h5")


# Names copied from the sources themselves: Keras 3's and Keras 1's files, torchvision's state_dict.
@pytest.mark.parametrize(
    ("table", "key", "path", "shape"),
    [
        (0, "conv1_conv/bias", "params/body/stem_conv/bias", (64,)),
        (0, "conv3_block1_0_conv/kernel", "params/body/stage2_block1/shortcut_conv/kernel", (1, 1, 256, 512)),
        (0, "conv5_block3_2_bn/moving_variance", "batch_stats/body/stage4_block3/2_bn/var", (512,)),
        (0, "predictions/kernel", "params/head/kernel", (2048, 1000)),
        (1, "bn_conv1/gamma", "params/body/stem_bn/scale", (64,)),
        (1, "res2a_branch1/kernel", "params/body/stage1_block1/shortcut_conv/kernel", (1, 1, 64, 256)),
        (1, "res4f_branch2b/kernel", "params/body/stage3_block6/2_conv/kernel", (3, 3, 256, 256)),
        (1, "bn5c_branch2c/moving_mean", "batch_stats/body/stage4_block3/3_bn/mean", (2048,)),
        (1, "fc1000/bias", "params/head/bias", (1000,)),
        (2, "conv1.weight", "params/body/stem_conv/kernel", (64, 3, 7, 7)),
        (2, "layer1.0.downsample.1.running_var", "batch_stats/body/stage1_block1/shortcut_bn/var", (256,)),
        (2, "layer3.5.conv2.weight", "params/body/stage3_block6/2_conv/kernel", (256, 256, 3, 3)),
        (2, "fc.weight", "params/head/kernel", (1000, 2048)),
    ],
)
def test_names_and_shapes_of_the_sources(table, key, path, shape):
    entry = entries(TABLES[table])[key]
    assert (entry.path, entry.shape) == (path, shape)


@pytest.mark.parametrize(("table", "tensors"), [(0, 320), (1, 320), (2, 267)])
def test_tables_fill_every_variable_once(table, tensors):
    found = entries(TABLES[table])
    assert len(found) == tensors
    assert sorted(entry.path for entry in found.values()) == sorted(shapes(TABLES[table].variant))


def test_every_source_gives_the_same_variables(keras_weights, torch_weights, keras_file, tmp_path):
    files = {
        keras_file: keras_weights,
        write_old_h5(named(keras_weights, 1), tmp_path / "old.h5"): keras_weights,
        write_safetensors(named(torch_weights, 2), tmp_path / "torch.safetensors"): torch_weights,
    }
    for name, weights in (("keras", keras_weights), ("torchvision", torch_weights)):
        imagenet.save_safetensors(weights, tmp_path / f"ours-{name}.safetensors")
        files[tmp_path / f"ours-{name}.safetensors"] = weights
    for file, weights in files.items():
        read = imagenet.read_weights(file)
        assert same(read, weights), file
        assert (read.variant, read.fingerprint) == (weights.variant, weights.fingerprint), file
        assert read.preprocess == (weights.preprocess if file.name.startswith("ours") else None), file
    assert keras_weights.preprocess == "keras"
    assert torch_weights.preprocess == "torch"
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_weights_without_top(keras_weights, tmp_path):
    bare = keras_weights._replace(top=None)
    read = imagenet.read_weights(write_h5(named(bare, 0), tmp_path / "notop.h5"))
    assert same(read, bare)
    imagenet.save_safetensors(read, tmp_path / "notop.safetensors")
    assert same(imagenet.read_weights(tmp_path / "notop.safetensors"), bare)
    with pytest.raises(UserError, match=r"no classifier \(top\)"):
        imagenet.classifier(read)


def test_half_precision_becomes_float32(torch_weights, tmp_path):
    half = {key: value.astype(np.float16) for key, value in named(torch_weights, 2).items()}
    read = imagenet.read_weights(write_safetensors(half, tmp_path / "half.safetensors"))
    assert {leaf.dtype for leaf in jax.tree.leaves(read.body)} == {np.dtype(np.float32)}
    kernel = read.body["params"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(kernel, np.float16(torch_weights.body["params"]["stem_conv"]["kernel"]))


def test_every_mismatch_is_named_at_once(keras_file, tmp_path):
    file = shutil.copy(keras_file, tmp_path / "broken.h5")
    with h5py.File(file, "r+") as h5:
        h5.move("conv1_bn/conv1_bn/gamma:0", "conv1_bn/conv1_bn/gain:0")
        del h5["conv2_block1_1_conv/conv2_block1_1_conv/bias:0"]
        name = "conv3_block1_1_conv/conv3_block1_1_conv/kernel:0"
        transposed = np.swapaxes(h5[name][()], 2, 3)
        del h5[name]
        h5[name] = transposed
        h5["extra/extra/kernel:0"] = np.zeros(3)
    with pytest.raises(UserError) as raised:
        imagenet.read_weights(file)
    message = str(raised.value)
    for part in (
        "broken.h5",
        "missing conv1_bn/gamma (64,)",
        "unused conv1_bn/conv1_bn/gain:0",
        "missing conv2_block1_1_conv/bias (64,)",
        "conv3_block1_1_conv/kernel:0 has shape (1, 1, 128, 256), not (1, 1, 256, 128)",
        "unused extra/extra/kernel:0",
    ):
        assert part in message
    assert "\n" not in message


def _renamed(arrays):
    arrays["layer2.0.conv1.wait"] = arrays.pop("layer2.0.conv1.weight")


def _missing(arrays):
    del arrays["layer2.0.conv1.weight"]


def _transposed(arrays):
    arrays["layer2.0.conv1.weight"] = arrays["layer2.0.conv1.weight"].transpose(1, 0, 2, 3)


def _half_a_top(arrays):
    del arrays["fc.bias"]


def _not_finite(arrays):
    arrays["layer2.0.conv1.weight"] = np.full_like(arrays["layer2.0.conv1.weight"], np.nan)


def _integers(arrays):
    arrays["layer2.0.conv1.weight"] = arrays["layer2.0.conv1.weight"].astype(np.int32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_renamed, r"missing layer2\.0\.conv1\.weight .*unused layer2\.0\.conv1\.wait$"),
        (_missing, r"missing layer2\.0\.conv1\.weight \(128, 256, 1, 1\)$"),
        (_transposed, r"layer2\.0\.conv1\.weight has shape \(256, 128, 1, 1\), not \(128, 256, 1, 1\)$"),
        (_half_a_top, r"missing fc\.bias \(1000,\)$"),
        (_not_finite, r"layer2\.0\.conv1\.weight is not made of finite"),
        (_integers, r"layer2\.0\.conv1\.weight is not made of finite floating-point"),
    ],
)
def test_damaged_safetensors_name_the_key(torch_weights, tmp_path, damage, message):
    arrays = named(torch_weights, 2) | {"bn1.num_batches_tracked": np.zeros((), np.int64)}
    damage(arrays)
    with pytest.raises(UserError, match=message):
        imagenet.read_weights(write_safetensors(arrays, tmp_path / "damaged.safetensors"))


def test_absurd_shapes_are_refused_without_reading(keras_file, tmp_path):
    file = shutil.copy(keras_file, tmp_path / "huge.h5")
    with h5py.File(file, "r+") as h5:
        del h5["conv1_conv/conv1_conv/kernel:0"]
        h5.create_dataset("conv1_conv/conv1_conv/kernel:0", (10**6, 10**6, 10**3), "f4", chunks=(64, 64, 64))
    with pytest.raises(UserError, match=r"conv1_conv/kernel:0 has shape \(1000000, 1000000, 1000\)"):
        imagenet.read_weights(file)


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_truncated_files_are_refused(keras_weights, keras_file, tmp_path, suffix):
    whole = keras_file
    if suffix == ".safetensors":
        whole = tmp_path / "whole.safetensors"
        imagenet.save_safetensors(keras_weights, whole)
    (tmp_path / f"cut{suffix}").write_bytes(whole.read_bytes()[:50_000_000])
    with pytest.raises(UserError, match=rf"cut\{suffix} is truncated, damaged or not a \{suffix} file"):
        imagenet.read_weights(tmp_path / f"cut{suffix}")


class Unwelcome:
    """Unpickling this would run code."""

    def __reduce__(self):
        return exec, ("raise AssertionError('unpickled')",)


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
@pytest.mark.parametrize("content", [b"", pickle.dumps(Unwelcome()), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_files_of_another_kind_are_refused(tmp_path, suffix, content):
    (tmp_path / f"odd{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=rf"odd\{suffix} is truncated, damaged or not"):
        imagenet.read_weights(tmp_path / f"odd{suffix}")


def test_other_networks_and_paths_are_refused(tmp_path):
    vgg = write_safetensors({"features.0.weight": np.zeros((64, 3, 3, 3))}, tmp_path / "vgg.safetensors")
    with pytest.raises(UserError, match="holds no ResNet50"):
        imagenet.read_weights(vgg)
    with pytest.raises(UserError, match="'imagenet-keras', 'imagenet-torchvision'"):
        imagenet.load("imagenet-kears")
    (tmp_path / "weights.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"\.safetensors, \.h5"):
        imagenet.read_weights(tmp_path / "weights.npy")


def test_pth_without_torch_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "resnet50.pth").write_bytes(b"PK")
    with pytest.raises(UserError, match="needs PyTorch"):
        imagenet.read_weights(tmp_path / "resnet50.pth")


def test_offline_fetch_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError) as raised:
        imagenet.load("imagenet-keras")
    assert imagenet.DOWNLOADS["imagenet-keras"].url in str(raised.value)
    assert "resnet50_weights_tf_dim_ordering_tf_kernels.h5, or give the path" in str(raised.value)


def test_photos_are_resized_and_cropped_at_the_centre(tmp_path):
    ramp = np.uint8(np.arange(512) / 2)[None, :, None].repeat(256, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    np.testing.assert_array_equal(imagenet.read_photo(tmp_path / "ramp.png"), ramp[16:240, 144:368])
    Image.fromarray(ramp[::2, ::2]).save(tmp_path / "half.png")
    assert imagenet.read_photo(tmp_path / "half.png").shape == (224, 224, 3)
    Image.fromarray(ramp[..., 0]).save(tmp_path / "grey.png")
    assert imagenet.read_photo(tmp_path / "grey.png").shape == (224, 224, 3)


def test_user_errors_of_the_command_line(keras_file, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "index.json").write_text("[1, 2]")
    for arguments, message in [
        ([tmp_path / "none.h5", "x.jpg"], "no weights file"),
        ([keras_file, "x.jpg"], "say --preprocess=unit, keras or torch"),
        ([keras_file, tmp_path / "text.jpg", "--preprocess=keras"], "cannot read the image"),
        ([keras_file, tmp_path / "none.jpg", "--preprocess=keras"], "cannot read the image"),
        ([keras_file, "x.jpg", f"--class_index={tmp_path / 'index.json'}"], "is not a class index"),
        ([keras_file, "x.jpg", f"--class_index={tmp_path / 'none.json'}"], "no class index"),
    ]:
        assert imagenet.main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.slow
def test_command_line_names_the_classes(resnet50_imagenet, imagenet_photos, capsys):
    photo = imagenet_photos / "n01806143_peacock.jpg"
    assert imagenet.main([str(resnet50_imagenet), str(photo)]) == 0
    name, best, *others = capsys.readouterr().out.splitlines()
    assert name == photo.name
    assert best.split()[1:] == ["84", "peacock"]
    assert len(others) == 4
    assert imagenet.main([str(resnet50_imagenet), str(photo), "--class_index=/dev/null/x"]) == 2


@pytest.mark.slow
def test_real_weights_recognise_photographs(resnet50_imagenet, imagenet_photos):
    weights = imagenet.read_weights(resnet50_imagenet)
    assert weights.fingerprint == imagenet.DOWNLOADS["imagenet-keras"].fingerprint
    with open(imagenet_photos / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    photos = np.stack([imagenet.read_photo(imagenet_photos / row["file"]) for row in rows])
    truth = np.array([int(row["class_index"]) for row in rows])
    model, variables = imagenet.classifier(weights)
    apply = jax.jit(model.apply)
    logits = np.concatenate([apply(variables, photos[i : i + 20]) for i in range(0, 100, 20)])
    best = np.argsort(-logits, -1)
    assert (best[:, 0] == truth).mean() == 0.92
    assert (best[:, :5] == truth[:, None]).any(-1).mean() == 0.98
