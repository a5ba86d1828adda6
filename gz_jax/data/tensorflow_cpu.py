"""TensorFlow as a reader of files only: quiet, and blind to GPUs."""

import functools
import logging
import os
from types import ModuleType


def quiet() -> None:
    """Hide TensorFlow's start-up chatter, before its first import. Values a user has set are kept."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # announces itself at any log level
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@functools.cache
def import_tensorflow() -> ModuleType:
    """Import TensorFlow quietly and blind to GPUs: everybody who needs it takes it from here."""
    quiet()
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.get_logger().setLevel(logging.ERROR)
    return tf
