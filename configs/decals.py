"""Another survey's questions, with no data: synthetic galaxies answer those of Galaxy Zoo DECaLS 5, in two minutes."""

from gz_jax.fields import default


def get_config():
    config = default()
    config.tree = "galaxy_zoo_decals"
    config.data.source = "synthetic"
    config.data.merger_fraction = 0.1  # enough of them to learn from 3,000 galaxies
    config.data.size = 40  # small, for many epochs in little time
    config.num_epochs = 16
    config.batch_size = 64
    config.learning_rate = 2e-3
    config.schedule = "cosine"
    config.warmup_epochs = 1.0
    config.loss = "multinomial"
    config.model.activation = "softmax"
    config.model.momentum = 0.9  # with Keras' 0.99 the running statistics need a thousand steps to settle
    config.augment.rotate = True
    config.augment.flip = True
    return config
