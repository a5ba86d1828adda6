"""The paper's optimised ResNet50 (section 5.3): rotation, dense layers of 200 and 100, rescaling down the tree."""

from gz_jax.fields import default


def get_config():
    config = default()
    config.model.name = "resnet50"
    config.model.pretrained = "imagenet-keras"  # without: --config.model.pretrained=''
    config.model.hidden = (200, 100)
    config.model.dropout = 0.1
    config.model.activation = "divisive"
    config.augment.rotate = True
    config.plateau.patience = 4
    config.plateau.factor = 0.4
    config.early_stop_patience = 15
    return config
