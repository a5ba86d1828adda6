"""The speed of each stage, compared with the hardware's limits and with other programs; for `--mode=benchmark`."""
