"""Every figure on tiny arrays: the right panels, something in each, finite limits, and a file that opens."""

import io

import numpy as np
import pytest
from galaxies import ONE_QUESTION, history, holes, images, pair, wide_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from gz_jax.analysis import (
    compare,
    evaluate,
    explore,
    mergers,
    noise,
    plots,
    plots_labels,
    plots_mergers,
    plots_noise,
    plots_predictions,
    plots_words,
)
from gz_jax.analysis.merger_report import merger_report
from gz_jax.inference.words import beside
from gz_jax.labels import GALAXY_ZOO_2

N = 12
IDS = np.arange(N)
LOG = compare.columns(history(6))
STEPS = np.linspace(0.01, 0.99, 9)
TREES = {
    "Galaxy Zoo 2": GALAXY_ZOO_2,
    "one question": ONE_QUESTION,
    "45 answers": wide_tree(),
}
UNKNOWN = {f"{name} partly known": tree for name, tree in TREES.items()}

FIGURES = {
    "mosaic": (lambda: plots.mosaic(images(IDS), [str(i) for i in IDS]), 12),
    "mosaic of one": (lambda: plots.mosaic(images(IDS[:1]), ["a\nb"]), 1),
    "loss curve": (lambda: plots.loss_curve(LOG, "CNN"), 1),
    "loss curve of one epoch": (lambda: plots.loss_curve(compare.columns(history(1)), "CNN"), 1),
    "loss curve, training alone": (lambda: plots.loss_curve({"loss": LOG["loss"]}), 1),
    "loss curve with a gap": (lambda: plots.loss_curve({**LOG, "val_loss": np.full(6, np.nan)}), 1),
    "runs, loss": (lambda: plots.run_curves({"a": LOG, "b": LOG}, "val_loss", "MSE", log=True), 1),
    "runs, accuracy": (lambda: plots.run_curves({f"run {i}": LOG for i in range(9)}, "val_accuracy", "accuracy"), 1),
    "pipeline": (
        lambda: plots_labels.pipeline_examples(
            images(IDS[:2]), images(IDS[:2]) / 255.0, np.stack([images(IDS[:3])] * 2), ["a", "b"]
        ),
        10,
    ),
    "purity": (
        lambda: plots_predictions.purity_completeness(
            STEPS, mergers.merger_curve(*np.stack(pair(N))[:, :, 23], STEPS), 0.3, "Class8.6"
        ),
        1,
    ),
}


def figures_of(tree, unknown=False):
    """The figures that follow a tree: name -> (draw, panels). `unknown`: the first answer is known nowhere."""
    truth, predicted = pair(N, tree=tree)
    if unknown:
        truth = holes(truth, tree) if len(tree.questions) > 1 else truth
        truth[:, 0] = np.nan
        truth[np.isnan(truth).all(1), 1] = 0.5
    k, sums = len(tree.columns), evaluate.galaxy_sums(truth, predicted, tree)
    found = evaluate.bootstrap(sums, lambda s: evaluate.scores(s, tree), resamples=20)
    summary = explore.summarise([(IDS, truth)], tree)
    shares, asked = explore.histograms(summary), sums["asked"].sum(0)
    density, diagrams = evaluate.density(truth, predicted), evaluate.reliability(truth, predicted)
    spread, majority = found["answer_std"].value, found["question_majority"].value
    titles, drawn = ["a", "b", "c"], images(IDS[:5])
    said = [beside(one, true, tree) for one, true in zip(predicted[:5], truth[:5], strict=True)]
    budget = noise.budget(truth, predicted, np.full(N, 44), tree, groups=4)
    certain = {} if budget is None else {"error budget": (lambda: plots_noise.error_budget(budget, tree), 2)}
    return certain | {
        "galaxies in words": (lambda: plots_words.galaxies_in_words(drawn, said), 10),
        "histograms": (lambda: plots_labels.label_histograms(shares, shares, tree), k),
        "histograms of one side": (lambda: plots_labels.label_histograms(shares, None, tree), k),
        "answers' images": (lambda: plots_labels.answer_images(images(np.arange(k)), summary.high, tree), k),
        "correlation": (lambda: plots_labels.correlation_matrix(explore.correlation(summary), tree), 2),
        "densities": (lambda: plots_predictions.predicted_vs_true(density, found["answer_rmse"].value, tree), k + 1),
        "reliability": (lambda: plots_predictions.reliability_diagrams(diagrams, tree), k),
        "answer scores": (lambda: plots_predictions.answer_scores(*found["answer_rmse"], spread, tree), 1),
        "question scores": (
            lambda: plots_predictions.question_scores(*found["question_accuracy"], majority, asked, tree),
            1,
        ),
        "failures": (
            lambda: plots_predictions.failures(images(IDS[:3]), truth[:3], predicted[:3], titles, tree),
            6,
        ),
    }


FIGURES |= {f"{figure}, {name}": drawn for name, tree in TREES.items() for figure, drawn in figures_of(tree).items()}
FIGURES |= {f"{f}, {name}": drawn for name, tree in UNKNOWN.items() for f, drawn in figures_of(tree, True).items()}


@pytest.mark.parametrize("name", FIGURES)
def test_figure(name):
    draw, panels = FIGURES[name]
    figure = draw()
    assert len(figure.axes) == panels
    for ax in figure.axes:
        said = "no labels" in [text.get_text() for text in ax.texts]
        assert ax.has_data() or (said and "known" in name), f"an empty panel: {ax.get_title()}"
        assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
        assert ax.get_xlim()[0] != ax.get_xlim()[1]
    png = plots.save(figure, "png", dpi=60)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    np.testing.assert_allclose(pixels.shape, 60 * figure.get_size_inches()[::-1], atol=1)
    assert 0.001 < (pixels < 200).mean() < 0.95
    if name.split(", ")[-1] in TREES | UNKNOWN:
        check_texts(figure)


@pytest.mark.parametrize("figure", ["histograms", "answers' images", "densities", "reliability", "answer scores"])
def test_an_answer_known_nowhere_is_said_to_have_no_labels(figure):
    drawn = FIGURES[f"{figure}, Galaxy Zoo 2 partly known"][0]()
    said = [text.get_text() for ax in drawn.axes for text in ax.texts].count("no labels")
    assert said == 7  # the first answer, and the six of the last question


def check_texts(figure):
    """All inside the figure, and no words over others."""
    figure.draw_without_rendering()
    renderer, inches, found = FigureCanvasAgg(figure).get_renderer(), figure.dpi_scale_trans.inverted(), []
    box, page = figure.get_tightbbox(renderer), figure.bbox_inches
    assert -0.02 < box.x0 < box.x1 < page.x1 + 0.02
    assert -0.02 < box.y0 < box.y1 < page.y1 + 0.02
    for artist in figure.findobj(Text):
        text = artist.get_text()
        if artist.get_visible() and any(map(str.isalpha, text)):
            b = artist.get_window_extent(renderer).transformed(inches)
            for other, a in found:
                apart = max(a.x0 - b.x1, b.x0 - a.x1, a.y0 - b.y1, b.y0 - a.y1)
                assert apart > -0.03, (text, other)
            found.append((text, b))


@pytest.mark.parametrize("tree", TREES.values(), ids=list(TREES))
def test_panels_are_titled_in_the_order_of_the_answers(tree):
    figure, axes = plots.answer_panels(tree)
    for ax, text in zip(axes, tree.texts, strict=True):
        shown = ax.get_title().replace("\n", " ").replace(r"\$", "$").removesuffix("…")
        assert " ".join(text.split()).startswith(" ".join(shown.split()))
    boxes = [ax.get_position() for ax in axes]
    size = figure.get_size_inches()
    for box in boxes:
        assert box.width * size[0] == pytest.approx(box.height * size[1])
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
    overlaps = [a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(overlaps)
    assert max(box.x1 for box in boxes) * size[0] == pytest.approx(size[0] - 0.08)  # no empty space beside them


@given(st.text(st.characters(codec="latin-1", exclude_categories=["C"]), max_size=60), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_fitted_text_keeps_its_words_its_lines_and_its_width(text, lines):
    found = plots.fit(text, 1.0, 7, lines)
    assert found.count("\n") < lines
    kept = found.replace(r"\$", "$").replace("\n", "").replace(" ", "")
    assert text.replace(" ", "").startswith(kept.removesuffix("…"))
    assert plots.fit(text, 1000.0, 7) == text.rstrip().replace("$", r"\$")
    figure = Figure(dpi=720)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for line in found.split("\n"):
        assert figure.text(0, 0, line, fontsize=7).get_window_extent(renderer).width < 1.03 * 720


def test_the_density_panel_holds_the_galaxies_it_was_given():
    figure = FIGURES["densities, Galaxy Zoo 2"][0]()
    drawn = [ax.get_images()[0].get_array() for ax in figure.axes[:37]]
    assert [int(cells.sum()) for cells in drawn] == [N] * 37


NOTHING = np.stack([np.full(9, np.nan), np.zeros(9)])  # purity and completeness where no galaxy is selected


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("curve", [NOTHING, NOTHING[::-1], np.ones((2, 9)), np.stack([STEPS, 1 - STEPS])])
def test_no_words_lie_over_others_in_the_figure_of_purity(curve, threshold):
    check_texts(plots_predictions.purity_completeness(STEPS, curve, threshold, "merging_merger"))


@pytest.mark.parametrize("factor", [0.1, 0.5, 1, 3])
def test_no_words_lie_over_others_in_the_errors_of_good_and_bad_models(factor):
    """At 1 the model is as good as guessing."""
    spread = np.linspace(0.05, 0.3, 37)
    rmse = factor * spread
    check_texts(plots_predictions.answer_scores(rmse, 0.9 * rmse, 1.1 * rmse, spread, GALAXY_ZOO_2))


@pytest.mark.parametrize("answer", ["Class8.6", "Class7.2"])
@pytest.mark.parametrize("kind", ["finds some", "finds none"])
def test_figures_of_a_fraction(answer, kind):
    """Also where the network selects no galaxy; published values stand in the figure of mergers alone."""
    rng = np.random.default_rng(0)
    votes = rng.beta(0.3, 3, 900)
    guess = np.full(900, 0.05) if kind == "finds none" else np.clip(votes + rng.normal(0, 0.05, 900), 0, 1)
    found = merger_report(guess, guess, votes, votes, tree=GALAXY_ZOO_2, answer=answer)
    for name, draw in plots_mergers.FIGURES.items():
        figure = draw(found)
        check_texts(figure)
        words = " ".join(text.get_text() for text in figure.findobj(Text))
        assert ("Robotham" in words) == (name == "estimates" and answer == "Class8.6")
        assert ("cannot be measured" in words) == (name == "estimates" and kind == "finds none")


def test_a_figure_gives_the_same_bytes_twice():
    first, second = (plots.save(FIGURES["loss curve"][0](), kind) for kind in ("pdf", "pdf"))
    assert first == second


def test_labels_of_lines_do_not_overlap():
    heights = np.array([0.5, 0.5, 0.52, 0.9])
    moved = plots._spread(heights, 0.065)
    gaps = np.diff(np.sort(moved))
    assert (gaps > 0.0649).all()
    assert np.argsort(moved, kind="stable")[-1] == 3
