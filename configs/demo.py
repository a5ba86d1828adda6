"""See it work in two minutes on a laptop, with no data: the paper's CNN on synthetic galaxies."""

from gz_jax.fields import default


def get_config():
    config = default()
    config.data.source = "synthetic"
    config.model.activation = "divisive"
    config.num_epochs = 5
    config.batch_size = 64
    config.model.momentum = 0.9  # with Keras' 0.99 the running statistics need a thousand steps to settle
    return config
