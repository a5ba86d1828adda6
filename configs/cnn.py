"""The paper's CNN (section 3): no augmentation, sigmoid outputs, Adam at 0.001, plateau 6 / 0.5, early stop 20."""

from gz_jax.fields import default


def get_config():
    config = default()
    config.model.name = "cnn"
    config.data.pipeline = "memory"  # nothing is augmented: decode once
    return config
