"""A trained network as an ONNX model (https://onnx.ai): one graph from pixels to vote fractions, for other runtimes.

The input `images` is uint8 [batch, S, S, 3], RGB, any batch; the output `vote_fractions` is float32 [batch, answers],
joint. The graph computes in float32, whatever `model.dtype` is. Batch normalisation and the linear part of the
preprocessing are folded into the convolutions before and after them. The same network gives the same bytes.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gz_jax import labels, resolve
from gz_jax.inference.shared import Network
from gz_jax.labels import Activation, Tree
from gz_jax.models import folding
from gz_jax.models.cnn import CNN
from gz_jax.models.layers import Preprocess, preprocess
from gz_jax.models.resnet import PREPROCESS, STAGES, ResNet50Classifier
from gz_jax.runtime.errors import UserError

MODEL = "model.onnx"
INPUT, OUTPUT = "images", "vote_fractions"
_OPSET, _IR = 17, 8  # from 2022, so that all current runtimes can read them
_MOST = 2**31 - 2**20  # bytes of a model in a single file; protobuf's limit
_NOWHERE = np.float32(-1e30)  # the logit of an answer that a question does not have


class _Graph(NamedTuple):
    """What a graph consists of so far."""

    nodes: list[Any]
    constants: dict[str, np.ndarray]


def model(network: Network, fingerprint: str) -> bytes:
    """The ONNX file of a network. Its metadata name the columns, the tree and the fingerprint, and say what it sees.

    Raises:
      UserError: the package onnx is not installed; the network is too large.
    """
    config, tree = network.record.config, network.record.tree
    seen, size = resolve.seen(config), config.data.size
    metadata = {
        "columns": json.dumps(tree.columns),
        "fingerprint": fingerprint,
        "run": network.run,
        "sees": f"The central square, {seen.text}, brought to {size} x {size} pixels; RGB, 0..255.",
        "sight": json.dumps(seen.values),
        "tree": json.dumps(labels.as_dict(tree)),
    }
    module = resolve.parts(config, tree).module
    return build(module, network.variables, size, config.model.activation, tree, metadata)


def build(
    module: Any,
    variables: Mapping[str, Any],
    size: int,
    activation: Activation,
    tree: Tree,
    metadata: Mapping[str, str],
) -> bytes:
    """The ONNX file of a module (a `CNN` or a `ResNet50Classifier`) with its variables {'params', 'batch_stats'}.

    Args:
      size: pixels of a side of the images; metadata: texts by name, stored in the file.

    Raises:
      UserError: the package onnx is not installed; the network is too large.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise UserError("--formats=onnx needs the package onnx: pip install onnx") from error
    graph, exact = _Graph([], {}), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(variables))
    params = folding.fold(module, exact)[1]["params"]
    _fractions(graph, (_cnn if isinstance(module, CNN) else _resnet50)(graph, module, params), activation, tree)
    if (total := sum(value.nbytes for value in graph.constants.values())) > _MOST:
        raise UserError(f"the network has {total / 2**30:.1f} GiB of weights; a file of ONNX holds less than 2.")
    made = helper.make_graph(
        [helper.make_node(op, inputs, [name], name=name, **values) for op, inputs, name, values in graph.nodes],
        "gz_jax",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", len(tree.columns)])],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    whole = helper.make_model(made, opset_imports=[opset], ir_version=_IR, producer_name="gz_jax")
    helper.set_model_props(whole, dict(metadata))
    return whole.SerializeToString(deterministic=True)


def _add(graph: _Graph, op: str, name: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
    """Append a node, and return its name, which is also its output's. Inputs that are arrays become constants."""
    names = [value if isinstance(value, str) else f"{name}/{i}" for i, value in enumerate(inputs)]
    arrays = {key: value for key, value in zip(names, inputs, strict=True) if not isinstance(value, str)}
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int32): np.int64}
    for key, value in arrays.items():
        graph.constants[key] = np.ascontiguousarray(value, narrow.get(value.dtype, value.dtype))
    graph.nodes.append((op, names, name, attributes))
    return name


def _pixels(graph: _Graph, how: Preprocess) -> tuple[str, np.ndarray]:
    """The images as float32 [batch, 3, S, S] minus the colour that is 0 for the network, and the matrix that follows.

    `layers.preprocess` is affine in a pixel's colour: (colour - zero) @ matrix, with `matrix` [3, 3]. The subtraction
    is a node of its own, because the first convolution pads its result with 0. The matrix becomes part of that
    convolution's kernel.
    """
    colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype(np.uint8).reshape(4, 1, 1, 3)
    black, *bright = np.asarray(preprocess(jnp.asarray(colours), how), np.float64).reshape(4, 3)
    matrix = (np.stack(bright) - black) / 255
    zero = -black @ np.linalg.inv(matrix)
    x = _add(graph, "Transpose", "channels_first", INPUT, perm=[0, 3, 1, 2])
    x = _add(graph, "Cast", "pixels", x, to=1)  # float32
    return _add(graph, "Sub", "centred", x, zero.reshape(1, 3, 1, 1)) if zero.any() else x, matrix


def _conv(
    graph: _Graph,
    x: str,
    name: str,
    layer: Mapping[str, np.ndarray],
    *,
    stride: int = 1,
    padding: int = 0,
    matrix: np.ndarray | None = None,
) -> str:
    """A convolution; before it, each pixel is multiplied by `matrix`."""
    kernel = layer["kernel"] if matrix is None else np.einsum("ic,hwco->hwio", matrix, layer["kernel"])
    sides = {"kernel_shape": kernel.shape[:2], "strides": [stride] * 2, "pads": [padding] * 4}
    return _add(graph, "Conv", name, x, kernel.transpose(3, 2, 0, 1), layer["bias"], **sides)


def _relu(graph: _Graph, x: str) -> str:
    return _add(graph, "Relu", f"{x}_relu", x)


def _pool(graph: _Graph, x: str, size: int, padding: int = 0) -> str:
    return _add(graph, "MaxPool", f"{x}_pool", x, kernel_shape=[size] * 2, strides=[2, 2], pads=[padding] * 4)


def _dense(graph: _Graph, x: str, name: str, layer: Mapping[str, np.ndarray], channels: int = 0) -> str:
    """A dense layer. After a flattened map, `channels` is its number of channels: our last axis, the first in ONNX."""
    kernel = layer["kernel"]
    if channels:
        side = math.isqrt(len(kernel) // channels)
        kernel = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    return _add(graph, "Gemm", name, x, kernel, layer["bias"])


def _cnn(graph: _Graph, module: CNN, params: Mapping[str, Any]) -> str:
    """The logits of `cnn.CNN`, folded."""
    channels = module.features[-1]
    x, matrix = _pixels(graph, module.preprocess)
    x = _pool(graph, _relu(graph, _conv(graph, x, "conv1", params["conv1"], matrix=matrix)), 2)
    x = _pool(graph, _relu(graph, _conv(graph, x, "conv2", params["conv2"])), 2)
    x = _add(graph, "Flatten", "features", _relu(graph, _conv(graph, x, "conv3", params["conv3"])))
    for i, _ in enumerate(module.hidden, 1):
        x, channels = _relu(graph, _dense(graph, x, f"dense{i}", params[f"dense{i}"], channels)), 0
    return _dense(graph, x, "head", params["head"], channels)


def _resnet50(graph: _Graph, module: ResNet50Classifier, params: Mapping[str, Any]) -> str:
    """The logits of `resnet.ResNet50Classifier`, folded."""
    body, keras = params["body"], module.variant == "keras"
    x, matrix = _pixels(graph, module.preprocess or PREPROCESS[module.variant])
    x = _conv(graph, x, "stem", body["stem_conv"], stride=2, padding=3, matrix=matrix)
    x = _pool(graph, _relu(graph, x), 3, 1)
    for stage, blocks in enumerate(STAGES, 1):
        for block in range(1, blocks + 1):
            of, stride = f"stage{stage}_block{block}", 2 if block == 1 and stage > 1 else 1

            def conv(x: str, name: str, stride: int = 1, padding: int = 0, of: str = of) -> str:
                return _conv(graph, x, f"{of}/{name}", body[of][f"{name}_conv"], stride=stride, padding=padding)

            shortcut = conv(x, "shortcut", stride) if block == 1 else x
            x = _relu(graph, conv(x, "1", stride if keras else 1))
            x = _relu(graph, conv(x, "2", 1 if keras else stride, 1))
            x = _relu(graph, _add(graph, "Add", f"{of}/sum", conv(x, "3"), shortcut))
    average = module.pooling == "average"
    x = _add(graph, "Flatten", "features", _add(graph, "GlobalAveragePool", "average", x) if average else x)
    channels = 0 if average else body[of]["3_conv"]["kernel"].shape[-1]
    for i, _ in enumerate(module.hidden):
        x, channels = _relu(graph, _dense(graph, x, f"dense_{i}", params[f"dense_{i}"], channels)), 0
    return _dense(graph, x, "head", params["head"], channels)


def _fractions(graph: _Graph, logits: str, activation: Activation, tree: Tree) -> str:
    """Vote fractions of logits, as `labels.activate` and `labels.joint` compute them."""
    if activation == "sigmoid":
        return _add(graph, "Sigmoid", OUTPUT, logits)
    x = logits
    if activation == "divisive":  # log(sigmoid(x)) = -log(1 + exp(-x))
        x = _add(graph, "Neg", "log_sigmoid", _add(graph, "Softplus", "softplus", _add(graph, "Neg", "negative", x)))
    elif activation == "dirichlet":  # see labels.log_concentrations
        nine = np.full((), 9, np.float32)
        tanh = _add(graph, "Tanh", "tanh", _add(graph, "Div", "part", x, nine))
        x = _add(graph, "Mul", "log_concentrations", tanh, nine)
    x = _add(graph, "Gather", "by_question", x, tree.rows, axis=1)
    x = _add(graph, "Where", "asked", tree.mask[None], x, _NOWHERE.reshape(1, 1, 1))
    x = _add(graph, "Flatten", "shares", _add(graph, "Softmax", "softmax", x, axis=2))
    x = _add(graph, "Gather", "conditional", x, np.flatnonzero(tree.mask), axis=1)
    x = _add(graph, "Pad", "with_one", x, np.array([0, 0, 0, 1]), np.ones((), np.float32))
    for question in tree.joined:
        name = f"question{question}"
        parents = _add(graph, "Gather", f"{name}/parents", x, tree.chains[:, list(tree.parents[question])], axis=1)
        parents = _add(graph, "ReduceProd", f"{name}/joint", parents, axes=[1], keepdims=0)
        share = _add(graph, "ReduceSum", f"{name}/share", parents, np.array([1]), keepdims=1)
        x = _add(graph, "Concat", f"{name}/with_share", x, share, axis=1)
    x = _add(graph, "Gather", "chains", x, tree.chains, axis=1)
    return _add(graph, "ReduceProd", OUTPUT, x, axes=[1], keepdims=0)
