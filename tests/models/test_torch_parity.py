"""The v1.5 ResNet50 in PyTorch: every stage, the batch statistics and the gradients; and its files."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from references import named, random_weights, relative_error, relative_norm, same, write_safetensors

from gz_jax.models import imagenet
from gz_jax.models.imagenet_tables import TABLES, entries
from gz_jax.models.resnet import STAGES, ResNet50
from gz_jax.runtime.errors import UserError

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.peers


def _torch():
    from gz_jax.benchmark.torch_peer import ResNet50 as TorchResNet50

    return TorchResNet50("torchvision", nn.Linear(2048, 1000))


def _timm():
    return pytest.importorskip("timm", exc_type=ImportError).create_model("resnet50")


@pytest.fixture(scope="module", params=[_torch, _timm], ids=["torch", "timm"])
def network(request):
    """The reference with random weights in it (put in by PyTorch's own strict loader), and ours."""
    theirs, weights = request.param(), random_weights("torchvision")
    state = {key: torch.tensor(np.ascontiguousarray(value)) for key, value in named(weights, 2).items()}
    counters = {key: value for key, value in theirs.state_dict().items() if key.endswith("num_batches_tracked")}
    theirs.load_state_dict(state | counters, strict=True)
    return theirs, weights


def _images(size):
    # Blurred noise: neighbours correlate as in a photograph.
    noise = np.random.default_rng(size).normal(size=(4, size + 8, size + 8, 3))
    return (sum(noise[:, i : i + size, j : j + size] for i in range(8) for j in range(8)) / 8).astype(np.float32)


def _stages(model, images):
    """Outputs of the four stages, NHWC, and the logits."""
    outputs = []
    hooks = [
        getattr(model, f"layer{i}").register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for i in range(1, 5)
    ]
    logits = model(torch.tensor(images).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    return [output.permute(0, 2, 3, 1) for output in outputs], logits


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [68, 75, 224])
def test_every_stage_and_the_statistics(network, size, train):
    theirs, weights = network
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    images = _images(size)
    with torch.no_grad():
        expected, _ = _stages(theirs.train(train), images)
    after = theirs.state_dict()
    apply = jax.jit(
        lambda v, x: ResNet50("torchvision").apply(
            v, x, not train, capture_intermediates=True, mutable=["intermediates", "batch_stats"]
        )[1]
    )
    state = apply(weights.body, images)
    for stage, reference in enumerate(expected, 1):
        ours = state["intermediates"][f"stage{stage}_block{STAGES[stage - 1]}"]["__call__"][0]
        assert relative_error(ours, reference) < 1e-4, stage
    new = flatten_dict(state["batch_stats"], sep="/")
    old = flatten_dict(weights.body["batch_stats"], sep="/")
    for key, entry in entries(TABLES[2]).items():
        path = entry.path.removeprefix("batch_stats/body/")
        if path in new and train:
            assert relative_error(np.asarray(new[path]) - old[path], after[key] - before[key]) < 1e-3, path
        elif path in new:
            np.testing.assert_array_equal(new[path], old[path])
    theirs.load_state_dict(before)


@pytest.mark.slow
def test_gradients(network):
    """Against PyTorch in float64, lest its own rounding decide."""
    theirs, weights = network
    reference = copy.deepcopy(theirs).double().train()
    images = _images(68)
    weight = np.random.default_rng(1).normal(size=(4, 3, 3, 2048)).astype(np.float32)
    stages, _ = _stages(reference, images.astype(np.float64))
    (stages[-1] * torch.tensor(weight)).mean().backward()
    parameters = dict(reference.named_parameters())

    def loss(params):
        variables = {"params": params, "batch_stats": weights.body["batch_stats"]}
        features, _ = ResNet50("torchvision").apply(variables, images, False, mutable=["batch_stats"])
        return jnp.mean(features * weight)

    gradients = flatten_dict(jax.jit(jax.grad(loss))(weights.body["params"]), sep="/")
    errors = {}
    for key, entry in entries(TABLES[2]).items():
        path = entry.path.removeprefix("params/body/")
        if path in gradients:
            expected = parameters[key].grad
            expected = expected.permute(2, 3, 1, 0) if expected.ndim == 4 else expected
            errors[path] = relative_norm(gradients[path], expected)
    assert len(errors) == 159
    # Above the last block, a ReLU within rounding of zero may flip and reach 1e-2; a wrong formula gives 1.
    assert max(errors.values()) < 3e-2
    assert max(error for path, error in errors.items() if path.startswith("stage4_block3/3")) < 1e-4


def test_whole_network_and_its_files(network, tmp_path):
    """The logits from preprocessed bytes agree, and PyTorch's own file and a safetensors one give the same weights."""
    theirs, weights = network
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = _stages(theirs.eval(), (images / np.float32(255) - mean) / std)[1]
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    write_safetensors(state, tmp_path / "model.safetensors")
    for file in ("resnet50.pth", "old.pt", "model.safetensors"):
        read = imagenet.read_weights(tmp_path / file)
        assert same(read, weights)
        assert (read.variant, read.preprocess, read.fingerprint) == ("torchvision", None, weights.fingerprint)
    model, variables = imagenet.classifier(read._replace(preprocess="torch"))
    assert relative_error(jax.jit(model.apply)(variables, images), expected) < 1e-4


class Unwelcome:
    """Unpickling this would run code."""

    def __reduce__(self):
        return exec, ("raise AssertionError('unpickled')",)


def test_pth_that_runs_code_is_refused(tmp_path):
    torch.save({"conv1.weight": Unwelcome()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad\.pth"):
        imagenet.read_weights(tmp_path / "bad.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no state_dict"):
        imagenet.read_weights(tmp_path / "other.pth")
