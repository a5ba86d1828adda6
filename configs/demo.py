"""Try it in two minutes on a laptop, without data: the paper's CNN on synthetic galaxies.

The network is the paper's. Its training is different, so that it learns enough in this time: small images, the
likelihood of the votes (their probability by the predicted fractions) instead of the squared error, rotation and flips,
and a larger fraction of mergers than among real galaxies.
"""

from gz_jax.fields import default


def get_config():
    config = default()
    config.data.source = "synthetic"
    config.data.num_galaxies = 4_000
    config.data.merger_fraction = 0.1  # enough mergers to learn from
    config.data.size = 40  # small, for many epochs in little time
    config.data.pipeline = "device"  # without TensorFlow, which takes seconds to load
    config.num_epochs = 20
    config.batch_size = 32
    config.learning_rate = 2e-3
    config.schedule = "cosine"
    config.warmup_epochs = 1.0
    config.loss = "multinomial"
    config.model.activation = "softmax"
    config.model.momentum = 0.9  # with Keras' 0.99 the running statistics need a thousand steps to settle
    config.augment.rotate = True
    config.augment.flip = True
    return config
