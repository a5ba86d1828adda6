"""Peers: programs that gz_jax is compared with, by name. A peer's packages are loaded only in its own process."""

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gz_jax.benchmark.timing import Stage

if TYPE_CHECKING:  # it loads JAX
    from gz_jax.inference.shared import Network


class Peer(NamedTuple):
    """A peer: its module in `gz_jax.benchmark`, the packages that it needs, and whether it has a train step."""

    module: str
    packages: tuple[str, ...]
    trains: bool = True


_TORCH = Peer("torch_peer", ("torch",))
_OPENVINO = Peer("onnx_peer", ("onnx", "openvino"), trains=False)
PEERS = {
    "torch": _TORCH,
    "torch.compile": _TORCH,
    "torch.max-autotune": _TORCH,
    "torch.bfloat16": _TORCH,
    "torch.compile.bfloat16": _TORCH,
    "keras": Peer("keras_peer", ("keras",)),
    "onnxruntime": Peer("onnx_peer", ("onnx", "onnxruntime"), trains=False),
    "openvino": _OPENVINO,
    "openvino.bfloat16": _OPENVINO,
}


class Task(NamedTuple):
    """What a peer has to run; picklable.

    Attributes:
      module: the network that the peer builds in its own way.
      network: the same with weights, for peers that read ONNX; the others have random weights of their own.
      batch: batch of a train step: image uint8 [B, S, S, 3] and vote_fractions float32 [B, answers].
      sizes: other batch sizes at which the forward pass is timed too.
      backend: JAX's name of the kind of device.
    """

    module: Any
    network: "Network"
    batch: dict[str, np.ndarray]
    sizes: Sequence[int] = ()
    backend: str = "cpu"


def forward_batches(images: np.ndarray, sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Images of the forward pass, by the name of the stage: 'forward' for all `images`, 'forward (64)' for 64 images.

    If `images` has fewer, they are repeated.
    """
    return {"forward": images} | {f"forward ({size})": np.resize(images, (size, *images.shape[1:])) for size in sizes}


def kind(stage: str) -> str:
    """The kind of a stage: 'forward' for 'forward', 'forward (64)' and 'forward (64), torch'."""
    return stage.split(", ")[0].split(" (")[0]


def check(name: str, backend: str) -> tuple[int]:
    """Load a peer's packages and see whether it can run here, before anything is timed. Returns (0,): no stages.

    Raises:
      ImportError: a package is not installed, or cannot be loaded.
      RuntimeError: this machine lacks what the peer needs.
    """
    peer = PEERS[name]
    if any(importlib.util.find_spec(package) is None for package in peer.packages):
        raise ImportError(f"not installed: pip install {' '.join(peer.packages)}")
    _module(name).check(name, backend)
    return (0,)


def stages(name: str, task: Task) -> tuple[int | Stage, ...]:
    """A peer's number of trainable parameters, and its stages: forward passes and, if it has one, a train step."""
    return _module(name).stages(name, task)


def versions(name: str) -> dict[str, str]:
    """Versions of a peer's packages, which must be installed."""
    return {package: importlib.metadata.version(package) for package in PEERS[name].packages}


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _module(name: str) -> Any:
    return importlib.import_module(f"gz_jax.benchmark.{PEERS[name].module}")
