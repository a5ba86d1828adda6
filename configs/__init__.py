"""The configs that come with gz_jax. If gz_jax is installed, they are the package `gz_jax.configs`."""
