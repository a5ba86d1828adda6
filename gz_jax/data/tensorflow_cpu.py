"""TensorFlow, used only to read and warp images: its messages are hidden, and it does not see GPUs."""

import functools
import logging
import os
from types import ModuleType


def quiet() -> None:
    """Hide TensorFlow's messages at start. Call it before the first import. Values that a user has set are kept."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # announces itself at any log level
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@functools.cache
def import_tensorflow() -> ModuleType:
    """Import TensorFlow without messages and without GPUs. All of the package imports it through this function."""
    quiet()
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.get_logger().setLevel(logging.ERROR)
    return tf
