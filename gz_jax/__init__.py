"""Galaxy shapes from images: Galaxy Zoo vote fractions with JAX and Flax."""
