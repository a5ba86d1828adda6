"""How fast each stage is, beside the hardware's limits and beside PyTorch and Keras; used by `--mode=benchmark`."""
