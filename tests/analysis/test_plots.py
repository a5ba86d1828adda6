"""Every figure on tiny arrays: the right panels, something in each, finite limits, and a file that opens."""

import io

import numpy as np
import pytest
from galaxies import history, images, pair
from PIL import Image

from gz_jax.analysis import compare, evaluate, explore, mergers, plots, plots_labels, plots_predictions

N = 12
TRUTH, PREDICTED = pair(N)
IDS = np.arange(N)
SUMMARY = explore.summarise([(IDS, TRUTH)])
SUMS = evaluate.galaxy_sums(TRUTH, PREDICTED)
FOUND = evaluate.bootstrap(SUMS, evaluate.scores, resamples=20)
LOG = compare.columns(history(6))
STEPS = np.linspace(0.01, 0.99, 9)

FIGURES = {
    "mosaic": (lambda: plots.mosaic(images(IDS), [str(i) for i in IDS]), 12),
    "mosaic of one": (lambda: plots.mosaic(images(IDS[:1]), ["a\nb"]), 1),
    "loss curve": (lambda: plots.loss_curve(LOG, "CNN"), 1),
    "loss curve of one epoch": (lambda: plots.loss_curve(compare.columns(history(1)), "CNN"), 1),
    "loss curve, training alone": (lambda: plots.loss_curve({"loss": LOG["loss"]}), 1),
    "loss curve with a gap": (lambda: plots.loss_curve({**LOG, "val_loss": np.full(6, np.nan)}), 1),
    "runs, loss": (lambda: plots.run_curves({"a": LOG, "b": LOG}, "val_loss", "MSE", log=True), 1),
    "runs, accuracy": (lambda: plots.run_curves({f"run {i}": LOG for i in range(9)}, "val_accuracy", "accuracy"), 1),
    "histograms": (lambda: plots_labels.label_histograms(explore.histograms(SUMMARY), explore.histograms(SUMMARY)), 37),
    "histograms of one side": (lambda: plots_labels.label_histograms(explore.histograms(SUMMARY)), 37),
    "answers' images": (lambda: plots_labels.answer_images(images(np.arange(37)), SUMMARY.high), 37),
    "correlation": (lambda: plots_labels.correlation_matrix(explore.correlation(SUMMARY)), 2),
    "pipeline": (
        lambda: plots_labels.pipeline_examples(
            images(IDS[:2]), images(IDS[:2]) / 255.0, np.stack([images(IDS[:3])] * 2), ["a", "b"]
        ),
        10,
    ),
    "predicted against true": (
        lambda: plots_predictions.predicted_vs_true(evaluate.density(TRUTH, PREDICTED), FOUND["answer_rmse"].value),
        38,
    ),
    "reliability": (lambda: plots_predictions.reliability_diagrams(evaluate.reliability(TRUTH, PREDICTED)), 37),
    "answer scores": (
        lambda: plots_predictions.answer_scores(*FOUND["answer_rmse"], FOUND["answer_std"].value),
        1,
    ),
    "question scores": (
        lambda: plots_predictions.question_scores(
            *FOUND["question_accuracy"], FOUND["question_majority"].value, SUMS["asked"].sum(0)
        ),
        1,
    ),
    "purity": (
        lambda: plots_predictions.purity_completeness(STEPS, mergers.merger_curve(TRUTH, PREDICTED, STEPS), 0.3),
        1,
    ),
    "failures": (
        lambda: plots_predictions.failures(images(IDS[:3]), TRUTH[:3], PREDICTED[:3], ["a", "b", "c"]),
        6,
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure(name):
    draw, panels = FIGURES[name]
    figure = draw()
    assert len(figure.axes) == panels
    for ax in figure.axes:
        assert ax.has_data(), f"an empty panel: {ax.get_title()}"
        assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
        assert ax.get_xlim()[0] != ax.get_xlim()[1]
    png = plots.save(figure, "png", dpi=60)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    np.testing.assert_allclose(pixels.shape, 60 * figure.get_size_inches()[::-1], atol=1)
    assert 0.001 < (pixels < 200).mean() < 0.95


def test_texts_stay_inside_the_figure():
    for name in ("correlation", "answer scores", "question scores", "histograms", "predicted against true"):
        figure = FIGURES[name][0]()
        figure.draw_without_rendering()
        box, page = figure.get_tightbbox(), figure.bbox_inches
        assert box.x0 > -0.02, name
        assert box.y0 > -0.02, name
        assert box.x1 < page.x1 + 0.02, name
        assert box.y1 < page.y1 + 0.02, name


def test_panels_are_titled_in_the_order_of_the_answers():
    from gz_jax.labels import ANSWERS

    figure, axes = plots.answer_panels()
    assert [ax.get_title() for ax in axes] == list(ANSWERS)
    boxes = [ax.get_position() for ax in axes]
    size = figure.get_size_inches()
    for box in boxes:
        assert box.width * size[0] == pytest.approx(box.height * size[1])
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
    overlaps = [a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(overlaps)


def test_the_density_panel_holds_the_galaxies_it_was_given():
    figure = plots_predictions.predicted_vs_true(evaluate.density(TRUTH, PREDICTED), FOUND["answer_rmse"].value)
    drawn = [ax.get_images()[0].get_array() for ax in figure.axes[:37]]
    assert [int(cells.sum()) for cells in drawn] == [N] * 37


def test_a_figure_gives_the_same_bytes_twice():
    first, second = (plots.save(FIGURES["loss curve"][0](), kind) for kind in ("pdf", "pdf"))
    assert first == second


def test_labels_of_lines_do_not_overlap():
    heights = np.array([0.5, 0.5, 0.52, 0.9])
    moved = plots._spread(heights, 0.065)
    gaps = np.diff(np.sort(moved))
    assert (gaps > 0.0649).all()
    assert np.argsort(moved, kind="stable")[-1] == 3
