"""Galaxies on the devices: the same training as from the stream."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gz_jax.data import augment, pipeline
from gz_jax.data.augment import Augmentation, View
from gz_jax.data.packed import Packed
from gz_jax.labels import GALAXY_ZOO_2
from gz_jax.training import dispatch, resident, state, step
from gz_jax.training.losses import LOSSES

TURNED = Augmentation(rotate=True, flip=True, zoom=1.2, shift=2.0)
SIZE, CROP, SIDE, BATCH = 8, 16, 40, 8


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = images.astype(np.float32) / 255
        return nn.Dense(37)(nn.relu(nn.Dense(16)(x.reshape(len(x), -1))))


def galaxies(side, count=45):
    rng = np.random.default_rng(side)
    smooth = np.kron(rng.integers(0, 256, (count, side // 4, side // 4, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    return Packed(smooth, *labels_of(rng, count), 1000 + 7 * np.arange(count))


def labels_of(rng, count):
    """Vote fractions, a third of them unknown, and the votes of 1 to 50 volunteers."""
    fractions = rng.random((count, 37), np.float32)
    fractions[:, 1:][rng.random((count, 36)) < 0.3] = np.nan
    return fractions, np.nan_to_num(fractions) * rng.integers(1, 51, (count, 1)).astype(np.float32)


def view(augmentation):
    found = augment.view(SIZE, CROP, SIDE, augmentation)
    return found._replace(cutout=SIDE) if augmentation.rotate else found._replace(cutout=SIZE)


def trained(pipe, augmentation, devices=1, steps=1, first_step=0, loss="binomial"):
    """Losses of the dispatches of an epoch and of the validation, and the parameters."""
    mesh, optimizer, module = state.make_mesh(jax.devices()[:devices]), state.adam(), Tiny()
    packs = [galaxies(view(augmentation).cutout), galaxies(SIZE, 21)]
    options = {"batch_size": BATCH, "seed": 3, "epoch": 1, "first_step": first_step}
    activation = "dirichlet" if loss == "dirichlet" else "divisive"
    how = (step.Recipe(module.apply, optimizer, activation, GALAXY_ZOO_2, LOSSES[loss]), 0, mesh)
    if pipe == "device":
        there = [resident.put(p, mesh) for p in packs]
        compiled = resident.compile_steps(*there, view(augmentation), *how)
        train = resident.train_plans(packs[0].galaxy_id, augmentation, steps=steps, **options)
        validation = resident.eval_plans(21, BATCH, steps)
    else:
        compiled = dispatch.compile_steps(*how)
        batches = pipeline.train_batches(packs[0].split(), view(augmentation), augmentation, **options)
        train = ((1, batch) for batch in batches)
        validation = pipeline.eval_batches(packs[1].split(), view(Augmentation()), batch_size=BATCH)
    variables = state.initial_variables(module, SIZE, jax.random.key(0))
    train_state = state.with_rate(state.start(variables, optimizer, mesh), 1e-3)
    losses, counts = [], []
    for count, item in train:
        train_state, loss = compiled.train(train_state, compiled.put(item))
        losses.append(float(loss))
        counts.append(count)
    metrics = dispatch.evaluate(compiled, train_state.params, {}, validation)
    return np.array(losses), counts, [*metrics.values()], train_state


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("augmentation", [Augmentation(), TURNED], ids=["plain", "turned"])
def test_trains_as_the_stream_does(augmentation, loss):
    streamed, _, metrics, _ = trained("stream", augmentation, loss=loss)
    losses, counts, found, train_state = trained("device", augmentation, loss=loss)
    assert counts == [1] * 6
    np.testing.assert_allclose(
        losses, streamed, rtol=1e-5, atol=2e-5
    )  # the warps may differ by 1 of 255 here and there
    np.testing.assert_allclose(found, metrics, atol=2e-5)
    assert float(train_state.sums.count) == 6 * BATCH


@pytest.mark.parametrize(("devices", "steps"), [(1, 4), (4, 1), (4, 4)])
def test_neither_devices_nor_steps_of_a_dispatch_change_the_numbers(devices, steps):
    one, _, metrics, state_one = trained("device", TURNED)
    losses, counts, found, state_many = trained("device", TURNED, devices, steps)
    last = np.cumsum(counts) - 1
    assert sum(counts) == 6
    np.testing.assert_allclose(losses, one[last], rtol=1e-6)
    np.testing.assert_allclose(found, metrics, atol=1e-6)
    for a, b in zip(jax.tree.leaves(state_one.params), jax.tree.leaves(state_many.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_compiled_step_reads_no_neighbouring_pixel():
    """Of 444,000 pixels of noise, gathered and warped as one program."""
    rng, seen_through, n = np.random.default_rng(0), View(68, 204, 292), 32
    there = Packed(rng.integers(0, 256, (n, 292, 292, 3), np.uint8), *labels_of(rng, n), np.arange(n))
    mesh = state.make_mesh(jax.devices()[:1])
    (_, plan), *_ = resident.train_plans(
        there.galaxy_id, Augmentation(rotate=True), batch_size=n, seed=0, epoch=0, first_step=0, steps=1
    )
    galaxies = resident.put(there, mesh)
    both = jax.jit(lambda g, p: resident.look(g, p, 0, seen_through)["image"])
    one_by_one = resident.look(galaxies, jax.tree.map(jnp.asarray, plan), 0, seen_through)["image"]
    difference = np.abs(np.asarray(both(galaxies, plan)).astype(int) - np.asarray(one_by_one))
    assert difference.max() <= 1


def test_an_epoch_goes_on_in_its_middle():
    whole, *_ = trained("device", TURNED)
    plans = {"augmentation": TURNED, "batch_size": BATCH, "seed": 3, "epoch": 1}
    ids = galaxies(SIDE).galaxy_id
    all_of = [plan for _, plan in resident.train_plans(ids, first_step=0, steps=1, **plans)]
    rest = [plan for _, plan in resident.train_plans(ids, first_step=2, steps=3, **plans)]
    assert [int(plan.count) for plan in rest] == [3, 1]
    found = np.concatenate([plan.index[: plan.count] for plan in rest])
    np.testing.assert_array_equal(found, np.concatenate([plan.index for plan in all_of[2:]]))
    assert len(whole) == 6


def test_each_device_holds_its_share_of_the_images_alone():
    mesh = state.make_mesh(jax.devices()[:4])
    packed = galaxies(SIDE)
    there = resident.put(packed, mesh)
    assert [s.data.shape[0] for s in there.image.addressable_shards] == [12] * 4
    np.testing.assert_array_equal(np.asarray(there.image)[:45], packed.image)


def test_more_than_the_devices_hold_is_refused_with_a_word(capsys):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 10_000_000_000}

    class Mesh:
        size, local_devices = 2, [Device()]

    assert resident.fits(13_900_000_000, Mesh())
    assert not capsys.readouterr().out
    assert not resident.fits(14_100_000_000, Mesh())
    assert "14.1 GB" in capsys.readouterr().out
    assert resident.fits(10**15, state.make_mesh(jax.devices()[:1])), "CPU devices do not tell their memory"
