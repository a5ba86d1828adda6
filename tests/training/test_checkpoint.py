import jax
import numpy as np
import pytest

from gz_jax.runtime.errors import UserError
from gz_jax.training import checkpoint
from gz_jax.training.checkpoint import Progress
from gz_jax.training.schedule import EarlyStop, Plateau

TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"step": np.int32(7)}}


def open_(path, keep=2):
    return checkpoint.open_manager(path / "latest", keep)


def test_progress_survives_json_to_the_last_bit(tmp_path):
    progress = Progress(
        3, 17, Plateau(float(np.float32(1e-3)), 1 / 3, 2, 1), EarlyStop(0.1 + 0.2, 2, 1), ({"loss": 1e-17 / 3},), 1.25
    )
    manager = open_(tmp_path)
    checkpoint.save(manager, 1, TREE, progress.to_json())
    manager.close()
    step, tree, info = checkpoint.load(open_(tmp_path), TREE)
    assert step == 1
    assert Progress.from_json(info) == progress
    jax.tree.map(np.testing.assert_array_equal, tree, TREE)
    assert checkpoint.load(open_(tmp_path / "elsewhere"), TREE) is None


def test_the_newest_are_kept_and_a_step_may_be_written_again(tmp_path):
    manager = open_(tmp_path)
    for step in (1, 2, 3, 3):
        checkpoint.save(manager, step, TREE, {"step": step})
    manager.wait_until_finished()
    assert sorted(manager.all_steps()) == [2, 3]


@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    manager = open_(tmp_path)
    for step in (1, 2):
        checkpoint.save(manager, step, {**TREE, "a": TREE["a"] + step}, {"step": step})
    manager.close()
    files = [f for f in (tmp_path / "latest" / "2" / "tree").rglob("*") if f.is_file() and f.stat().st_size]
    for file in files:
        data = file.read_bytes()
        if damage == "missing":
            file.unlink()
        elif damage == "truncated":
            file.write_bytes(data[: len(data) // 2])
        else:
            middle = len(data) // 2
            file.write_bytes(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])
    step, tree, info = checkpoint.load(open_(tmp_path), TREE)
    assert (step, info) == (1, {"step": 1})
    np.testing.assert_array_equal(tree["a"], TREE["a"] + 1)


def test_one_flipped_bit_of_an_array_is_seen(tmp_path):
    """Tensorstore does not see it."""
    tree = {"a": np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)}
    manager = open_(tmp_path)
    for step in (1, 2):
        checkpoint.save(manager, step, tree, {"step": step})
    checkpoint.close(manager)
    file = max((tmp_path / "latest" / "2").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert checkpoint.load(open_(tmp_path), tree)[0] == 1


def test_nothing_readable_is_said(tmp_path):
    manager = open_(tmp_path)
    checkpoint.save(manager, 1, TREE, {})
    manager.close()
    for file in (tmp_path / "latest" / "1").rglob("*"):
        if file.is_file() and "commit" not in file.name and "CHECKPOINT" not in file.name:
            file.unlink()
    with pytest.raises(UserError, match="none of the checkpoints"):
        checkpoint.load(open_(tmp_path), TREE)
