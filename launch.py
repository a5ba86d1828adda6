"""`python launch.py --config=configs/demo.py`: the command `gz-jax`, where gz_jax need not be installed."""

from gz_jax.__main__ import main

if __name__ == "__main__":
    main()
