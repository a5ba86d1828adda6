"""A strict session: four CPU devices, rank promotion raises, real data only where it is."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("same each time", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same each time")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


def _shared(name: str) -> pathlib.Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name}, real data that are not part of the repository")
    return path


@pytest.fixture(scope="session")
def galaxy_zoo_sample() -> pathlib.Path:
    """Folder with Kaggle's own files for a sample of galaxies."""
    return _shared("galaxy_zoo_sample")


@pytest.fixture(scope="session")
def resnet50_imagenet() -> pathlib.Path:
    """Keras' ImageNet ResNet50 weights (.h5, with top)."""
    return _shared("resnet50_imagenet") / "resnet50_keras_imagenet.h5"


@pytest.fixture(scope="session")
def imagenet_photos() -> pathlib.Path:
    """Folder of 100 photographs with `labels.csv`."""
    return _shared("imagenet_photos")
