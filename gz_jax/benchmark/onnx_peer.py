"""The network of gz_jax, exported to ONNX, in ONNX Runtime and OpenVINO: forward passes on all cores of the CPU."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gz_jax.benchmark.peers import Task, cores, forward_batches
from gz_jax.benchmark.timing import Stage
from gz_jax.inference import onnx_export

Run = Callable[[], np.ndarray]


def check(name: str, backend: str) -> None:
    """See `peers.check`."""
    if backend != "cpu":
        raise RuntimeError("it is timed on CPUs only")
    if name == "onnxruntime":
        import onnxruntime  # noqa: F401
    else:
        able = _import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if name.endswith("bfloat16") and "BF16" not in able:
            raise RuntimeError("OpenVINO does not compute in bfloat16 on this CPU")


def stages(name: str, task: Task) -> tuple[int | Stage, ...]:
    """The network's number of trainable parameters and the forward passes, one for each batch size.

    The number is that of the network before the export, which removes batch normalisation and with it parameters.
    """
    model = onnx_export.model(task.network, "")
    start = in_onnx_runtime if name == "onnxruntime" else functools.partial(in_openvino, half=name.endswith("bfloat16"))
    batches = forward_batches(task.batch["image"], task.sizes)
    found = [
        Stage(f"{stage}, {name}", len(images), functools.partial(_repeat, start(model, images)))
        for stage, images in batches.items()
    ]
    return sum(np.size(x) for x in jax.tree.leaves(task.network.variables["params"])), *found


def in_onnx_runtime(model: bytes, images: np.ndarray) -> Run:
    """The forward pass of these images, uint8 [B, S, S, 3] to vote fractions float32 [B, answers], in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.add_free_dimension_override_by_name("batch", len(images))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run([onnx_export.OUTPUT], {onnx_export.INPUT: images})[0]


def in_openvino(model: bytes, images: np.ndarray, *, half: bool) -> Run:
    """As `in_onnx_runtime`, in OpenVINO; `half` is bfloat16.

    Raises:
      RuntimeError: OpenVINO does not compute in the type that it was asked for.
    """
    core = _import_openvino().Core()
    network = core.read_model(model)
    network.reshape(images.shape)
    precision = "bf16" if half else "f32"  # by default OpenVINO uses bfloat16 on some CPUs
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": cores(),
        "ENABLE_HYPER_THREADING": True,
        "PERFORMANCE_HINT": "LATENCY",  # all threads work on one batch, as in the other peers
    }
    compiled = core.compile_model(network, "CPU", settings)
    if (found := compiled.get_property("INFERENCE_PRECISION_HINT").to_string()) != precision:
        raise RuntimeError(f"OpenVINO computes in {found} here, not in {precision}")
    request = compiled.create_infer_request()
    return lambda: request.infer({0: images}, share_inputs=True)[0]


def _import_openvino() -> Any:
    # Importing OpenVINO sends usage data from a forked process, unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _repeat(run: Run, times: int) -> np.ndarray:
    for _ in range(times):
        found = run()
    return found
