"""The configs that come with gz_jax: `gz_jax.configs` where it is installed."""
