"""The paper's CNN (section 3): no augmentation, sigmoid outputs, Adam at 0.001.

The rate is halved after 6 epochs in which the validation error does not fall (the plateau schedule), and training stops
after 20 epochs without a new best one.
"""

from gz_jax.fields import default


def get_config():
    config = default()
    config.model.name = "cnn"
    config.data.pipeline = "memory"  # decode once, since nothing is augmented
    return config
