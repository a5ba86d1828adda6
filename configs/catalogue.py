"""Your own galaxies: a ResNet50 with ImageNet's weights on a table of images and labels (see gz_jax/data/README.md).

gz-jax --config=catalogue --config.data.catalogue=galaxies.csv --config.tree=questions.toml \
    --config.data.labels=counts
"""

from gz_jax.fields import default


def get_config():
    config = default()
    config.data.source = "catalogue"
    config.data.pipeline = "memory"  # decode once, into a file; if this file is too large for the disk: 'stream'
    config.data.size = 64
    config.model.name = "resnet50"
    config.model.pretrained = "imagenet-keras"  # or a file of weights; without: --config.model.pretrained=''
    config.model.activation = "softmax"
    config.model.pooling = "average"
    config.model.momentum = 0.9  # with 0.99 the running statistics of so few steps are out of date
    config.loss = "multinomial"  # the likelihood of the votes
    config.num_epochs = 10
    config.batch_size = 64
    config.learning_rate = 3e-4
    config.schedule = "cosine"
    config.warmup_epochs = 0.5
    config.augment.rotate = True
    config.augment.flip = True
    config.augment.zoom = 1.1
    return config
