"""`gz-jax`, `python -m gz_jax` and `python launch.py`: one command."""

from gz_jax.runtime import interrupts, memory


def main() -> None:
    """Carry out the command line."""
    memory.use_one_arena()  # before the first thread, which `install` starts
    interrupts.install()  # before what takes seconds to load
    from gz_jax.modes import command

    command.run()


if __name__ == "__main__":
    main()
