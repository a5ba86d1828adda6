"""`gz-jax`, `python -m gz_jax` and `python launch.py`: one command."""

from gz_jax.runtime import interrupts


def main() -> None:
    """Carry out the command line."""
    interrupts.install()  # before what takes seconds to load
    from gz_jax.modes import command

    command.run()


if __name__ == "__main__":
    main()
