"""The benchmark's arithmetic, on values computed by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gz_jax.benchmark import report, roofline, timing
from gz_jax.benchmark.roofline import Ceilings, Cost
from gz_jax.benchmark.timing import Stage
from gz_jax.training import state


def cost_of(function, *arguments):
    lowered = jax.jit(function).lower(*arguments)
    return roofline.cost(lowered, lowered.compile())


def test_cost_of_a_matrix_product():
    cost = cost_of(jnp.matmul, jnp.ones((64, 32)), jnp.ones((32, 128)))
    assert cost.flops == 2 * 64 * 32 * 128
    assert cost.bytes == 4 * (64 * 32 + 32 * 128 + 64 * 128)


def test_cost_of_a_convolution_and_of_one_split_over_devices():
    """Each output of a 3x3 convolution of 8 channels takes 72 products and sums; four devices share them."""

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, kernel = jnp.ones((4, 10, 10, 8)), jnp.ones((3, 3, 8, 16))
    flops = 2 * 4 * 8 * 8 * 16 * 72
    assert cost_of(convolve, x, kernel).flops == flops
    mesh = state.make_mesh(jax.devices()[:4])
    shared = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    kernel = jax.device_put(kernel, state.replicated(mesh))
    assert cost_of(convolve, shared, kernel).flops == flops / 4


def test_a_backend_without_analysis_has_no_cost():
    class Silent:
        def cost_analysis(self):
            raise NotImplementedError

    class Empty:
        def cost_analysis(self):
            return [{}]

    assert roofline.cost(Silent(), Silent()) is None
    assert roofline.cost(Empty(), Empty()) is None


def test_fraction_of_the_roofline():
    ceilings = Ceilings(flops=100e9, bytes=10e9)
    # 20 GFLOP take 0.2 s at least, 1 GB takes 0.1 s.
    assert roofline.fraction(Cost(20e9, 1e9), 0.8, ceilings) == (pytest.approx(0.25), "operations")
    assert roofline.fraction(Cost(20e9, 4e9), 0.8, ceilings) == (pytest.approx(0.5), "bytes")


def test_ceilings_are_rates_of_this_device():
    small, large = (roofline.ceilings("float32", side=side, megabytes=1, repeats=2) for side in (8, 256))
    assert 0 < small.flops < large.flops  # eight by eight never fills the machine
    assert small.bytes > 0


def test_median_and_quartiles():
    assert timing.middle([5.0, 1.0, 3.0, 2.0, 4.0]) == (3, 2, 4)
    assert timing.middle([1.0, 2.0]) == (1.5, 1.25, 1.75)
    assert timing.middle([7.0]) == (7, 7, 7)


def test_ratios_are_taken_round_by_round():
    # A burst of noise that doubles both times of a round does not reach the ratio.
    assert timing.ratio([1.0, 2.0, 1.0], [2.0, 4.0, 3.0]) == (2, 2, 3)


def test_stages_take_turns():
    calls = []
    stages = [Stage(name, 1, lambda n, name=name: calls.append((name, n))) for name in "ABC"]
    timed = timing.measure(stages, 3, at_least=0)
    assert calls == [(name, 1) for name in "AABBCC" + 3 * "ABC"]  # twice to warm up, then in turns
    assert [(stage.name, len(samples)) for stage, samples in timed] == [("A", 3), ("B", 3), ("C", 3)]


def test_rows_and_tables():
    ceilings = Ceilings(100e9, 10e9)
    ours = report.row(Stage("forward", 10, print, Cost(20e9, 1e9)), [0.4, 0.5, 0.8], ceilings)
    theirs = report.row(Stage("forward, torch", 10, print), [0.8, 0.5, 0.4], ceilings)
    assert (ours["median_seconds"], ours["images_per_second"]) == (0.5, 20)
    assert ours["quartiles"] == pytest.approx([0.45, 0.65])
    assert (ours["roofline_fraction"], ours["bound_by"]) == (pytest.approx(0.4), "operations")
    assert "roofline_fraction" not in theirs
    [peer] = report.peer_rows([ours, theirs], ["torch"])
    assert (peer["ours"], peer["theirs"], peer["ratio"], peer["range"]) == (20, 20, 1, [0.5, 2])
    header, _, *lines = report.stage_table([ours, theirs]).splitlines()
    assert len({line.count("|") for line in (header, *lines)}) == 1
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        *("forward", "10", "500", "450 to 650", "20", "20", "1,000", "40% (operations)")
    ]
    assert "1.00" in report.peer_table([peer])


def test_peers_without_a_train_step_and_the_best_batch_of_each():
    """Ours is fastest in batches of 40, the peer in batches of 10."""
    names = {"forward": 10, "forward (40)": 40, "train step": 10, "forward, onnx": 10, "forward (40), onnx": 40}
    seconds = {name: [1.0, 2.0, 1.0] for name in names} | {"forward (40)": [2.0, 4.0, 1.0]}
    seconds["forward (40), onnx"] = [8.0, 8.0, 8.0]
    rows = [report.row(Stage(n, images, print), seconds[n], Ceilings(1, 1)) for n, images in names.items()]
    found = {row["name"]: row for row in report.peer_rows(rows, ["onnx"])}
    assert list(found) == ["forward", "forward (40)", "forward, best of each"]
    assert (found["forward"]["ratio"], found["forward (40)"]["ratio"]) == (1, 4)
    best = found["forward, best of each"]
    assert (best["images"], best["ours"], best["theirs"]) == ([40, 10], 20, 10)
    # Seconds of an image: ours 0.05, 0.1, 0.025, theirs 0.1, 0.2, 0.1.
    assert (best["ratio"], best["range"]) == (2, [2, 4])
    assert "40 and 10" in report.peer_table([best])
    header, _, *lines = report.batch_table(rows).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, *lines)]
    assert cells == [["forward, images/s at batch", "10", "40"], ["gz_jax", "10", "20"], ["onnx", "10", "5"]]
