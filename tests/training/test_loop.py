"""The training loop's promises about what lies on disk."""

from configs import default
from gz_jax.modes import training
from gz_jax.training import checkpoint
from gz_jax.training.state import TrainState


def test_the_latest_state_is_never_older_than_the_best(tmp_path, monkeypatch):
    """Else a killed run, which goes on from the latest, would have to throw away its best epoch."""
    saved, save = {"latest": set(), "best": set()}, checkpoint.save

    def note(manager, step, tree, info):
        saved["latest" if isinstance(tree, TrainState) else "best"].add(step)
        save(manager, step, tree, info)

    monkeypatch.setattr(checkpoint, "save", note)
    config = default.get_config()
    config.data.source, config.data.num_galaxies, config.data.size = "synthetic", 60, 30
    config.batch_size, config.num_epochs, config.model.momentum = 16, 4, 0.9
    config.schedule, config.checkpoint.every_seconds = "cosine", 1e9
    assert training.train(config, str(tmp_path / "run")) == 0
    assert saved["best"] <= saved["latest"]
    assert saved["best"] - {max(saved["latest"])}, "only the last epoch was a best one: nothing was tested"
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("learning_rate")
    rates = [float(row.split(",")[column]) for row in rows[1:]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]
