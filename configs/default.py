"""Every field at its default: what the paper's models share. `gz_jax/fields.py` says what each means and may be."""

from gz_jax.fields import default as get_config

__all__ = ["get_config"]
