"""Every field, with its default: the paper's common ground. The other configs say only what they change."""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # decides the initial weights, the order, the augmentation and the dropout
    config.num_epochs = 100  # at most; early stopping usually ends sooner
    config.batch_size = 128  # over all devices together
    config.learning_rate = 1e-3  # of Adam, at the start

    config.weight_decay = 0.0  # of kernels, times the rate (AdamW)
    config.loss = (
        "mse"  # 'mse', or the likelihood of the votes: 'binomial', 'multinomial' (of outputs that obey the tree)
    )
    config.average = 0.0  # weight of the old value in a moving average of the weights, which then predicts; 0: none

    config.schedule = "plateau"  # or 'cosine': down to 0 over num_epochs, without plateaus and early stopping
    config.warmup_epochs = 0.0  # of 'cosine'
    config.plateau = ConfigDict()  # Keras' ReduceLROnPlateau on the validation MSE
    config.plateau.patience = 6  # epochs without an improvement of min_delta, then ...
    config.plateau.factor = 0.5  # ... the rate is multiplied by this
    config.plateau.cooldown = 0
    config.plateau.min_delta = 1e-4  # absolute, in MSE
    config.plateau.min_rate = 0.0
    config.early_stop_patience = 20  # epochs without a new best validation loss, then stop

    config.data = ConfigDict()
    config.data.source = "galaxy_zoo"  # 'galaxy_zoo': Kaggle's files; 'synthetic': galaxies drawn from known truth
    config.data.dir = config_dict.placeholder(str)  # where Kaggle's files are: one zip, its inner zips, or extracted
    config.data.store = config_dict.placeholder(str)  # where the prepared data set goes; None: TFDS' own folder
    config.data.seed = 0  # decides the split, and which synthetic galaxies there are
    config.data.validation_fraction = 0.2  # split by a hash of the GalaxyID and data.seed
    config.data.on_bad = "fail"  # 'fail' or 'skip' (and list in skipped.csv) images and rows that are broken
    config.data.image_size = 424  # side of the images in pixels
    config.data.crop = 204  # side of the central square that is looked at, in pixels of the image ...
    config.data.size = 68  # ... and what it is brought to for the network
    # 'stream': tf.data decodes and augments as the steps go; 'memory': Pillow decodes once into a memory-mapped file
    # (unaugmented 68 px cutouts of all of Kaggle's training galaxies: 0.9 GB); 'device': that file lies in the memory
    # of the devices, which augment, and TensorFlow is not needed.
    config.data.pipeline = "stream"
    config.data.steps_per_dispatch = 0  # of 'device', for one command of the host; 0: 1 on CPU, 32 elsewhere
    config.data.num_galaxies = 3_000  # how many synthetic galaxies
    config.data.merger_fraction = 0.04  # of the synthetic galaxies

    config.augment = ConfigDict()  # of the training galaxies; all off in the paper's first two models
    config.augment.rotate = False  # any angle, before downsizing (paper section 4.2)
    config.augment.flip = False
    config.augment.zoom = 1.0  # log-uniform in 1/zoom..zoom, at most 4
    config.augment.shift = 0.0  # up to so many pixels of the image (of the cutout, where galaxies are synthetic)

    config.model = ConfigDict()
    config.model.name = "cnn"  # 'cnn' or 'resnet50'
    config.model.activation = "sigmoid"  # 'sigmoid', or 'divisive' / 'softmax': rescaled down the tree
    config.model.dtype = "float32"  # what is computed in: 'float32' or 'bfloat16'; parameters stay float32
    config.model.momentum = config_dict.placeholder(float)  # of batch normalisation; None: 0.99, v1.5 0.9
    config.model.variant = "keras"  # of ResNet50: 'keras' (v1, the paper's) or 'torchvision' (v1.5)
    config.model.hidden = ()  # widths of dense layers before the last one
    config.model.dropout = 0.1  # after each of them
    config.model.pooling = "flatten"  # 'flatten' (the paper's) or 'average'
    # None, a weights file, 'imagenet-keras' or 'imagenet-torchvision'; the weights decide the variant
    config.model.pretrained = config_dict.placeholder(str)
    config.model.body_rate = 1.0  # learning rate of ResNet50's body, relative to that of its head
    # Keep the body's weights as they are for so many epochs; its normalisation still follows the batches, and a step
    # takes as long as any other (see frozen_statistics for the former).
    config.model.frozen_epochs = 0
    config.model.frozen_statistics = False  # normalise by the body's running statistics in training too

    config.checkpoint = ConfigDict()  # of the latest state; the best epoch is always kept
    config.checkpoint.every_seconds = 60.0
    config.checkpoint.every_steps = 0  # 0: by time alone
    config.tensorboard = False  # also write TensorBoard events
    return config
