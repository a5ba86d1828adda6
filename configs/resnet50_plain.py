"""The paper's out-of-the-box ResNet50 (section 5.2): flatten and one dense layer with sigmoids, no augmentation."""

from gz_jax.fields import default


def get_config():
    config = default()
    config.model.name = "resnet50"
    config.model.pretrained = "imagenet-keras"  # without: --config.model.pretrained=''
    config.data.pipeline = "memory"  # decode once, since nothing is augmented
    return config
