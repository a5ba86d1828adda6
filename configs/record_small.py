"""The recipe of record.py for a CPU: 96 pixels instead of 224, in float32."""

from gz_jax.fields import default


def get_config():
    config = default()
    config.data.size = 96
    config.model.name = "resnet50"
    config.model.pretrained = "imagenet-keras"  # without: --config.model.pretrained=''
    config.model.dropout = 0.1
    config.batch_size = 32
    config.num_epochs = 15
    config.learning_rate = 4.5e-4
    config.schedule = "cosine"
    config.warmup_epochs = 0.5
    config.loss = "multinomial"
    config.model.activation = "softmax"
    config.model.pooling = "average"
    config.model.momentum = 0.9  # with 0.99 the running statistics of so few steps are out of date
    config.augment.rotate = True
    config.augment.flip = True
    config.augment.zoom = 1.2
    config.augment.shift = 8.0
    return config
