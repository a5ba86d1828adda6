"""The text that a mode prints at its end: results, where the files are, and the next commands."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from gz_jax.analysis.evaluate import Estimate

MOST = 5  # rows of a table: a summary fits on a screen
FEW = 0.25  # completeness below which a fraction is not to be relied on


def trained(
    start: str,
    workdir: str,
    best: Mapping[str, float],
    epochs: int,
    galaxies: int,
    statistics: Mapping[str, Any],
    page: str | os.PathLike[str],
) -> str:
    """The text after training.

    Args:
      start: of a command, see `program`; best: the best epoch's row of the log; epochs: how many there were.
      galaxies: number that validate; statistics: of the data set (see `split.Dataset`).
    """
    rmse, share = statistics["guess_the_means_rmse"], statistics["majority_share"]
    guess = "" if rmse is None else f"; always answering the mean fractions: {rmse**2:.6f}"
    worse = rmse is not None and best["val_loss"] >= rmse**2
    return "\n".join(
        [
            f"scores of the best epoch ({int(best['epoch'])} of {epochs}) on {galaxies:,} validation galaxies, "
            "slightly too good since the epoch was chosen by them:",
            f"  mean squared error {best['val_loss']:.6f}{guess}",
            f"  accuracy {best['val_accuracy']:.1%}; always naming the commonest answer: {share:.1%}",
            *(["  This is worse than guessing: train for more epochs (--config.num_epochs)."] if worse else []),
            f"report: {page}",
            f"network: {workdir}",
            "next:",
            f"  {_command(start, 'evaluate', workdir, '--views=8')}  # the mean over 8 test-time views",
            f"  {_command(start, 'predict', workdir, '--input=IMAGES', '--output=predictions')}",
        ]
    )


def evaluated(
    start: str,
    workdir: str,
    numbers: Mapping[str, Any],
    views: Sequence[tuple[int, float, float]],
    own: bool,
    page: str | os.PathLike[str],
    tables: Sequence[str],
    merger: bool,
) -> str:
    """The text after `evaluate`.

    Args:
      numbers: result of `report.evaluation_report`; views: (test-time views, MSE, accuracy), by rising number of views.
      own: whether the galaxies are those by which the best epoch was chosen; tables: names of files beside the page.
      merger: whether the decision tree has an answer that means a merger.
    """
    why = ", slightly too good since the best epoch was chosen by them" if own else ""
    most, test = max(n for n, *_ in views), numbers.get("test scores")
    rows = [(f"{n} view{'s' * (n > 1)}", mse, accuracy) for n, mse, accuracy in views]
    rows.append(("guessing", numbers["guess_rmse"].value ** 2, numbers["majority_share"].value))
    many = () if most == 1 else (f"--views={most}",)
    again = (
        [f"  {_command(start, 'evaluate', workdir, '--views=8')}  # the mean over 8 test-time views"]
        if not many
        else []
    )
    fraction = [f"  {_command(start, 'mergers', workdir, '--input=predictions')}  # then the fraction of mergers"]
    return "\n".join(
        [
            f"scores on {numbers['galaxies']:,} validation galaxies{why}:",
            "            MSE       RMSE     accuracy",
            *(f"  {name:<9} {mse:.6f}  {mse**0.5:.5f}  {accuracy:.1%}" for name, mse, accuracy in rows),
            *([] if test is None else [_of_test(test)]),
            f"report: {page}",
            f"tables beside it: {', '.join(tables)}",
            "next:",
            *again,
            f"  {_command(start, 'predict', workdir, *many, '--input=IMAGES', '--output=predictions')}",
            *(fraction if merger else []),
        ]
    )


def _of_test(scores: Mapping[str, Any]) -> str:
    return (
        f"on {scores['galaxies']:,} test galaxies, which took no part in training: MSE {_interval(scores['mse'])}, "
        f"accuracy {_interval(scores['accuracy'])}"
    )


def predicted(
    start: str,
    workdir: str,
    output: str | os.PathLike[str],
    views: int,
    *,
    merger: bool,
    judged: bool,
    embeddings: bool,
) -> str:
    """The text after `predict`: the next commands.

    Args:
      merger: whether a fraction of mergers can be estimated; judged: whether there is a table of validation galaxies
        with as many views, which this needs; embeddings: whether the table has them.
    """
    folder = shlex.quote(os.fspath(output))
    lines = [f"  python -c \"from gz_jax.inference import tables; print(tables.read('{output}').to_pandas())\""]
    if merger and not judged:
        runs = workdir.split(",")
        lines += [f"  {_command(start, 'evaluate', run, f'--views={views}')}  # before mergers" for run in runs[:MOST]]
    if merger:
        lines.append(f"  {_command(start, 'mergers', workdir, f'--input={folder}')}  # the fraction of mergers")
    if embeddings:
        lines.append(
            f"  {start} --mode=similar --input={folder} --like=ID --output=similar  # galaxies like one of these"
        )
    return "\n".join(["next:", *lines])


def fraction(start: str, command: str, results: Mapping[str, Any], page: str | os.PathLike[str]) -> str:
    """The text after `mergers`: how many labelled ones are found, the estimates, and which estimate to use.

    Args:
      command: the flags of this command, to which more may be added; results: of `merger_report.merger_report`.
    """
    from gz_jax.analysis.merger_report import CAVEATS, OF_MERGERS
    from gz_jax.analysis.plots_mergers import ESTIMATES

    estimates, confusion = results["estimates"], results["confusion"]
    best = recommended(estimates, confusion)
    what = "mergers" if results["published"] else f"galaxies with {results['answer']} ({results['meaning']})"
    rows = [
        f"  {ESTIMATES[name]:<35} {_interval(e)}{'  <- use this one' if name == best else ''}"
        for name, e in estimates.items()
    ]
    rates = [
        f"  {ESTIMATES[name]}, per Gyr: {_interval(e)}" for name, e in results["rate_per_gyr"].items() if name == best
    ]
    warnings = [
        caveat
        for caveat in results["caveats"]
        if caveat not in (*CAVEATS, *OF_MERGERS) and not caveat.startswith("(e)")
    ]
    ahead = ["next:", f"  {start} {command} --observability=TIME,ERROR  # in Gyr, for a rate"]
    return "\n".join(
        [
            *_found(confusion, what),
            *(["do not rely on the fraction: too few are found or labelled; train a better network"] * (best is None)),
            f"fraction of {what}, vote fraction above {results['threshold']:g}, among "
            f"{results['catalogue']['galaxies']:,} galaxies, with {100 * results['confidence']:g} % intervals:",
            *rows,
            *rates,
            *warnings[:2],
            f"report: {page}",
            *(ahead if best and not rates else []),
        ]
    )


def _found(confusion: Mapping[str, Any], what: str) -> list[str]:
    """Completeness first, since without it no estimate can be relied on; then purity."""
    hits, missed, false = (confusion[name] for name in ("true_positive", "false_negative", "false_positive"))
    if not hits + missed:
        return [f"there are no labelled {what}, so it is not known how many are found"]
    found = [
        f"finds {hits:,} of {hits + missed:,} labelled {what} (completeness {_interval(confusion['completeness'])})"
    ]
    if hits + false:
        found.append(f"of {hits + false:,} labelled galaxies that it selects, {hits:,} are right")
    return found


def recommended(estimates: Mapping[str, Estimate], confusion: Mapping[str, Any]) -> str | None:
    """Name of the estimate to use; None if fewer than a quarter of the labelled ones are found, or neither is known.

    (d), calibrated probabilities, takes the network's mistakes into account and uses all scores. (c), the corrected
    count, takes them into account, too, and needs fewer labelled galaxies.
    """
    hits, missed = (confusion[name] for name in ("true_positive", "false_negative"))
    known = [name for name in ("calibrated", "corrected") if math.isfinite(estimates[name].value)]
    return known[0] if known and hits and hits >= FEW * (hits + missed) else None


def compared(start: str, folders: Mapping[str, str], result: Any, page: str | os.PathLike[str]) -> str:
    """The text after `compare`: the best runs, and whether the differences are significant.

    Args:
      folders: workdir of each run by its name; result: `compare.Comparison`.
    """
    rows = sorted(result.runs, key=lambda row: row["val. MSE"].value)
    best = rows[0]["run"]
    pairs = zip(result.differences, result.statements, strict=False)
    of_best = [words for row, words in pairs if best in (row["first"], row["second"])]
    of_seeds = result.statements[len(result.differences) :]
    width = max(len(row["run"]) for row in rows[:MOST])
    shown = [
        f"  {row['run']:<{width}}  MSE {_interval(row['val. MSE'])}, accuracy {_interval(row['val. accuracy'])}"
        for row in rows[:MOST]
    ]
    more = len(rows) - MOST
    return "\n".join(
        [
            f"{len(rows)} runs on {result.galaxies:,} validation galaxies, best first, with 95 % intervals:",
            *shown,
            *([f"  and {more} more on the page"] if more > 0 else []),
            "differences (a run is called better only where the 95 % interval of the difference is on one side of 0):",
            *(f"  {words}" for words in of_best[:MOST]),
            *of_seeds[:MOST],
            f"report: {page}",
            "next:",
            f"  {_command(start, 'predict', folders[best], '--input=IMAGES', '--output=predictions')}",
        ]
    )


def _command(start: str, mode: str, workdir: str, *flags: str) -> str:
    return " ".join([start, f"--mode={mode}", f"--workdir={shlex.quote(workdir)}", *flags])


def _interval(estimate: Estimate) -> str:
    from gz_jax.analysis.page import text  # matplotlib, which takes a second to load, is loaded by then

    return text(estimate)
