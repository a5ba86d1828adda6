"""The same networks in PyTorch, with the settings that make PyTorch fast."""

import functools
import shutil
from typing import Any

import flax.linen as flax_nn
import numpy as np
import torch
from torch import nn

from gz_jax.benchmark.peers import Task, forward_batches
from gz_jax.benchmark.timing import Stage
from gz_jax.models.resnet import PREPROCESS, STAGES, Variant

HALF = ".bfloat16"
MODES = {"torch": None, "torch.compile": "default", "torch.max-autotune": "max-autotune"}


class Bottleneck(nn.Module):
    """torchvision's Bottleneck; 'keras' has its stride in the first convolution, and biases."""

    def __init__(self, inputs: int, width: int, stride: int, variant: Variant) -> None:
        super().__init__()
        keras = variant == "keras"
        first, second = (stride, 1) if keras else (1, stride)
        conv, norm = functools.partial(nn.Conv2d, bias=keras), _norm(variant)
        self.conv1, self.bn1 = conv(inputs, width, 1, first), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3, second, padding=1), norm(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), norm(4 * width)
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(conv(inputs, 4 * width, 1, stride), norm(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def _norm(variant: Variant) -> Any:
    return functools.partial(nn.BatchNorm2d, eps=1.001e-5, momentum=0.01) if variant == "keras" else nn.BatchNorm2d


class ResNet50(nn.Module):
    """Both variants, with torchvision's names; `fc` is applied to the last feature map, flattened or averaged."""

    def __init__(self, variant: Variant, fc: nn.Module, pooling: str = "average") -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=variant == "keras"), _norm(variant)(64)
        self.maxpool, inputs = nn.MaxPool2d(3, 2, padding=1), 64
        for stage, blocks in enumerate(STAGES):
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(inputs, 64 * 2**stage, 2 if stage and not block else 1, variant))
                inputs = 256 * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.pool = nn.Flatten() if pooling == "flatten" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.pool(self.layer4(self.layer3(self.layer2(self.layer1(x))))))


def _dense(module: Any, dropout: float) -> nn.Sequential:
    layers = [layer for width in module.hidden for layer in (nn.LazyLinear(width), nn.ReLU(), nn.Dropout(dropout))]
    return nn.Sequential(*layers, nn.LazyLinear(module.num_outputs))


def _cnn(module: Any) -> nn.Sequential:
    a, b, c = module.features
    early, late = module.dropout
    return nn.Sequential(
        *(nn.Conv2d(3, a, 3), nn.BatchNorm2d(a, 1e-3, 1 - module.momentum), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Dropout(early), nn.Conv2d(a, b, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(early)),
        *(nn.Conv2d(b, c, 6), nn.ReLU(), nn.Dropout(early), nn.Flatten(), _dense(module, late)),
    )


class Network(nn.Module):
    """uint8 images [B, S, S, 3] to vote fractions [B, answers], preprocessing included; the outputs are sigmoids."""

    def __init__(self, module: flax_nn.Module) -> None:
        super().__init__()
        if resnet := hasattr(module, "variant"):
            self.body = ResNet50(module.variant, _dense(module, module.dropout), module.pooling)
        else:
            self.body = _cnn(module)
        how = module.preprocess or (PREPROCESS[module.variant] if resnet else "unit")
        mean, std = {
            "unit": ((0.0,) * 3, (255.0,) * 3),
            "keras": ((123.68, 116.779, 103.939), (1.0,) * 3),
            "torch": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        }[how]
        self.flip = how == "keras"
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (images.float() - self.mean) / self.std
        x = (x.flip(-1) if self.flip else x).permute(0, 3, 1, 2)  # NHWC in memory is channels_last
        return torch.sigmoid(self.body(x).float())


def build(module: flax_nn.Module, size: int) -> Network:
    """The network like `module`, for images of `size` x `size` pixels."""
    network = Network(module).eval()
    with torch.no_grad():
        network(torch.zeros((1, size, size, 3), dtype=torch.uint8))  # gives the lazy layers their sizes
    return network


def stages(name: str, task: Task) -> tuple[int | Stage, ...]:
    """PyTorch's number of parameters, forward passes and train step (Adam, mean squared error).

    Args:
      name: one of `MODES`, with '.bfloat16' at its end for autocast to bfloat16, which `task.module.dtype` also sets.
    """
    torch.set_float32_matmul_precision("high")  # TF32 where there is any, as JAX does
    torch.backends.cudnn.benchmark = True  # the shapes are fixed; XLA tries algorithms, too
    device, mode = _device(task.backend), MODES[name.removesuffix(HALF)]
    images, votes = (torch.from_numpy(task.batch[key]).to(device) for key in ("image", "vote_fractions"))
    network = build(task.module, images.shape[1]).to(device, memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in network.parameters())
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, eps=1e-7, fused=True)
    # Each batch size is compiled separately. With fullgraph, too many sizes are an error instead of uncompiled code.
    run = network if mode is None else torch.compile(network, mode=mode, dynamic=False, fullgraph=True)
    half = name.endswith(HALF) or np.dtype(task.module.dtype).name == "bfloat16"
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=half)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward(images: torch.Tensor, n: int) -> torch.Tensor:
        network.eval()
        with torch.inference_mode(), autocast():
            for _ in range(n):
                predicted = run(images)
        wait()
        return predicted

    def train(n: int) -> None:
        network.train()
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            with autocast():
                loss = nn.functional.mse_loss(run(images), votes)
            loss.backward()
            optimizer.step()
        wait()

    found = [
        Stage(f"{stage}, {name}", len(batch), functools.partial(forward, torch.from_numpy(batch).to(device)))
        for stage, batch in forward_batches(task.batch["image"], task.sizes).items()
    ]
    return parameters, *found, Stage(f"train step, {name}", len(images), train)


def _device(backend: str) -> str:
    return {"gpu": "cuda"}.get(backend, backend)


def check(name: str, backend: str) -> None:
    """See `peers.check`."""
    torch.empty(1, device=_device(backend))  # fails if this PyTorch was built without the device
    if backend == "cpu" and MODES[name.removesuffix(HALF)]:
        from torch._inductor import config

        compilers = [config.cpp.cxx] if isinstance(config.cpp.cxx, str) else config.cpp.cxx
        if not any(shutil.which(compiler) for compiler in compilers if compiler):
            raise RuntimeError(f"torch.compile needs a C++ compiler: {' or '.join(filter(None, compilers))}")
