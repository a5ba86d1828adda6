"""`--mode=mergers`: from tables of predictions and of labelled galaxies to a folder with the fraction's report."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gz_jax import posterior
from gz_jax.analysis import merger_page
from gz_jax.analysis.merger_report import merger_report
from gz_jax.analysis.page import publish
from gz_jax.data.sight import SETTINGS
from gz_jax.inference import tables as table_files
from gz_jax.inference.manifest import described, networks_of, same_networks
from gz_jax.labels import GALAXY_ZOO_2, Tree, differences
from gz_jax.runtime.errors import UserError
from gz_jax.runtime.progress import Bar

Path = str | os.PathLike[str]
SYNTHETIC = (
    "The network was trained on synthetic galaxies, drawn by a computer, and it is judged by such galaxies. These "
    "numbers say nothing about real galaxies."
)


class _Scores(NamedTuple):
    """One answer of one table: ids and files as str [n], predicted and voted fraction [n], and how it was made.

    A fraction is NaN where it is unknown.
    """

    path: str
    ids: np.ndarray
    predicted: np.ndarray
    votes: np.ndarray | None
    files: np.ndarray | None = None
    networks: Sequence[dict[str, Any]] = ()
    settings: Mapping[str, Any] | None = None
    looked_at: str = ""  # where that is not what the network saw in training
    deviation: np.ndarray | None = None  # of the predicted fraction, where networks with Dirichlet outputs gave it


def merger_mode(
    predictions: Path | Sequence[Path],
    validation: Path | Sequence[Path],
    outdir: Path,
    *,
    answer: str | None = None,
    labels_csv: Path | None = None,
    context: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The fraction of galaxies with an answer: report.html, metrics.json, fractions.csv ... and figures in `outdir`.

    Args:
      predictions: folders or files of `predict_catalogue`, one per network (or ensemble), of the same images.
      validation: as many tables of labelled galaxies outside training, by the same networks in the same order: from
        `table_files.write_validation`, or predictions whose ids are GalaxyIDs of `labels_csv`. One table for each
        network of an ensemble that made the predictions will do too; they are averaged. Tables without a galaxy in
        common are folds (`config.data.folds`): each galaxy is judged by the network that held it out.
      labels_csv: volunteers' fractions (Kaggle's training_solutions_rev1.csv); its galaxies outside `validation` give
        the training labels' own fraction.
      answer: as its column or as '<question>_<answer>'; None: the one that means a merger.
      context: what the page should say of the run; config: of the run whose galaxies judge the network, flat.
      options: threshold, observability, merging, confidence: see `merger_report.merger_report`.

    Returns:
      The results of `merger_report`, which metrics.json has too.

    Raises:
      UserError: unknown answer, or none that means a merger; tables that are unfinished, no such tables, of different
        trees or networks, or without labels.
    """
    tree = common_tree([*_several(predictions), *_several(validation)])
    answer = tree.columns[place_of(answer, tree)]
    catalogue, tables = ([_load(path, answer) for path in _several(paths)] for paths in (predictions, validation))
    _check_distinct(catalogue)
    everyone = [one for table in tables for one in table.networks]
    if len(catalogue) == 1 < len(tables) and same_networks(catalogue[0].networks, everyone):
        ids, scores, _ = _aligned("validation tables", tables)  # an ensemble's members, judged one by one
        tables = [_Scores("the validation tables", ids, scores.mean(0), _votes(tables, ids), None, everyone)]
    remarks = [remark for one, other in zip(catalogue, tables, strict=False) for remark in _check_pair(one, other)]
    _, scores, fewer = _aligned("prediction tables", catalogue)
    if crossed := len(catalogue) == len(tables) > 1 and _are_folds(tables):
        remarks.append(
            f"Each of the {sum(len(table.ids) for table in tables):,} labelled galaxies is judged by the one of "
            f"{len(tables)} networks that was not trained on it, the catalogue by all of them. (c) and (d) assume "
            "that the networks are equally good."
        )
        tables = [_joined(tables)]
    ids, held_out, fewer_held_out = _aligned("validation tables", tables)
    votes, training = _votes(tables, ids), None
    if labels_csv is not None:
        given = table_files.read_labels(labels_csv, [answer])
        voted = _Scores(
            os.fspath(labels_csv), _texts(given["GalaxyID"]), given[answer].cast(pa.float64()).to_numpy(), None
        )
        training = voted.predicted[~np.isin(voted.ids, ids)]
        training = training[np.isfinite(training)]
        training = training if len(training) else None
        known = np.isin(ids, voted.ids)
        listed = voted.predicted[_rows(ids[known], voted.ids)]
        if votes is not None and not _agree(listed, votes[known]):
            raise UserError(
                f"{labels_csv} and {tables[0].path} have different votes for the same galaxies: give the labels of the "
                "data set that the network was validated on"
            )
        if votes is None:
            if not known.any():
                raise UserError(f"none of the validation galaxies is in {labels_csv}")
            held_out, votes = held_out[:, known], listed
    if votes is None:
        raise UserError("the validation table has no labels: give a CSV of votes (--labels), too")
    own = _probabilities(catalogue, options.get("threshold", 0.3))
    how = {"tree": tree, "answer": answer, "probabilities": own, "crossed": crossed, **options}
    with Bar("estimating the fraction"):
        results = merger_report(scores, held_out, votes, training, **how)
    results["caveats"] += [*dict.fromkeys(remarks), *fewer, *fewer_held_out]
    title = f"{tree.name}: {results['meaning']} ({answer})"
    note = SYNTHETIC if (config or {}).get("data.source") == "synthetic" else ""
    publish(outdir, title, merger_page.sections(results), results, merger_page.cards(results), context, note=note)
    return results


def common_tree(paths: Sequence[Path]) -> Tree:
    """The decision tree of tables. Raises UserError: a table has none, or another than the first."""
    trees = [table_files.tree_of(table_files.manifest(path), path) for path in paths]
    for path, other in zip(paths, trees, strict=True):
        if unlike := differences(trees[0], other):
            raise UserError(f"{paths[0]} and {path} are of different decision trees: {'; '.join(unlike)}")
    return trees[0]


def place_of(answer: str | None, tree: Tree) -> int:
    """Place in the tree of an answer, None being that of a merger. Raises UserError: there is no such answer."""
    named = tree.merger if answer is None else answer
    if named is None:
        some = ", ".join(tree.columns[:5])
        raise UserError(f"{tree.name} has no answer that means a merger: name one with --answer, for example {some}.")
    try:
        return tree.index(named)
    except UserError as error:
        page = "gz_jax/trees/README.md" if tree.columns == GALAXY_ZOO_2.columns else "the tree's TOML file"
        raise UserError(f"{error} All answers are listed in {page}.") from None


def _several(paths: Path | Sequence[Path]) -> Sequence[Path]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _load(path: Path, answer: str) -> _Scores:
    names = table_files.names(path)
    key, voted = ("galaxy_id" if "galaxy_id" in names else "id"), f"true_{answer}"
    deviation = f"std_{answer}"
    table = table_files.read(path, [key, answer, *(x for x in (voted, deviation, "file") if x in names)])
    votes = table[voted].to_numpy() if voted in names else None
    files = _texts(table["file"]) if "file" in names else None
    made = table_files.manifest(path)
    how = networks_of(made), made.get("settings"), "" if made.get("as_trained", True) else made["sight"]
    spread = table[deviation].to_numpy() if deviation in names else None
    return _Scores(os.fspath(path), _texts(table[key]), table[answer].to_numpy(), votes, files, *how, spread)


def _probabilities(catalogue: Sequence[_Scores], threshold: float) -> np.ndarray | None:
    """Each galaxy's own probability [n] of a fraction above the threshold: the mean of the networks that know it.

    None where a table does not have the predictions' standard deviation, or tables are of different galaxies.
    """
    if any(t.deviation is None or not np.array_equal(t.ids, catalogue[0].ids) for t in catalogue):
        return None
    each = [posterior.exceedance(t.predicted, t.deviation, threshold) for t in catalogue if t.deviation is not None]
    return np.mean(each, 0)


def _check_distinct(catalogue: Sequence[_Scores]) -> None:
    """Several prediction tables must be of the same images, seen in the same way, by different networks.

    Raises:
      UserError: they are not.
    """
    for first, other in itertools.combinations(catalogue, 2):
        both = f"{first.path} and {other.path}"
        if first.networks and same_networks(first.networks, other.networks):
            raise UserError(f"{both} are predictions of the same network, so they cannot show the spread of several")
        if differences := _differences(first, other):
            raise UserError(f"{both} were predicted from other pictures of the galaxies: {differences}")
        if first.files is None or other.files is None:
            continue
        common = first.ids[np.isin(first.ids, other.ids)]
        pairs = first.files[_rows(common, first.ids)], other.files[_rows(common, other.ids)]
        if len(different := np.flatnonzero(pairs[0] != pairs[1])):
            name, file, other_file = (str(array[different[0]]) for array in (common, *pairs))
            raise UserError(f"{both} are of other images: {name} is {file!r} in one and {other_file!r} in the other")


def _check_pair(one: _Scores, other: _Scores) -> list[str]:
    """Predictions and the validation table by which they are judged; returns remarks for the page.

    Raises:
      UserError: they are of other networks or views, or saw their images in another way.
    """
    if one.networks and other.networks and not same_networks(one.networks, other.networks):
        raise UserError(
            "predict the catalogue and the validation galaxies with the same networks and views (--mode=evaluate "
            f"--views=N makes a validation table of N views): {one.path} was predicted by {described(one.networks)}, "
            f"{other.path} by {described(other.networks)}"
        )
    if differences := _differences(one, other):
        raise UserError(
            f"{one.path} and {other.path} were predicted from other parts of the images, or in other brightness: "
            f"{differences}. Predict both in the same way"
        )
    unknown = [table.path for table in (one, other) if not table.networks]
    remarks = [f"{path} does not say which network predicted it, so this could not be checked." for path in unknown]
    if one.looked_at and other.settings is None:
        remarks.append(
            f"The catalogue was predicted from {one.looked_at} of its images, the validation galaxies as in training: "
            "(c) and (d) hold only if both show the same part of a galaxy."
        )
    return remarks


def _differences(one: _Scores, other: _Scores) -> str:
    """Settings that decide what the network saw, where both tables have settings and these differ; '' if none does."""
    first, second = one.settings or {}, other.settings or {}
    names = [name for name in SETTINGS if first and second and first.get(name) != second.get(name)]
    return "; ".join(f"{name} {first.get(name)} and {second.get(name)}" for name in names)


def _votes(tables: Sequence[_Scores], ids: np.ndarray) -> np.ndarray | None:
    """The votes [n] for `ids`, which all tables hold; None where there are none.

    Raises:
      UserError: two tables have different votes for a galaxy.
    """
    found = [(t.path, t.votes[_rows(ids, t.ids)]) for t in tables if t.votes is not None]
    for path, votes in found[1:]:
        if not _agree(votes, found[0][1]):
            raise UserError(f"{found[0][0]} and {path} have different votes for the same galaxies: use one data set")
    return found[0][1] if found else None


def _agree(votes: np.ndarray, others: np.ndarray) -> bool:
    """Whether the votes of the same galaxies are the same where both are known."""
    return bool((np.isclose(votes, others, atol=1e-5) | np.isnan(votes - others)).all())


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    """Ids as str, so that numbers and names can be compared."""
    return column.cast(pa.string()).to_numpy(zero_copy_only=False).astype(str)


def _rows(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where in `ids` each of `wanted` is."""
    order = np.argsort(ids)
    return order[np.searchsorted(ids, wanted, sorter=order)]


def _are_folds(tables: Sequence[_Scores]) -> bool:
    """Whether no two tables have a galaxy in common."""
    ids = np.concatenate([table.ids for table in tables])
    return len(np.unique(ids)) == len(ids)


def _joined(tables: Sequence[_Scores]) -> _Scores:
    """The galaxies of all tables in one."""
    given = [table.votes for table in tables if table.votes is not None]
    votes = np.concatenate(given) if len(given) == len(tables) else None
    ids, predicted = (np.concatenate([getattr(t, name) for t in tables]) for name in ("ids", "predicted"))
    return _Scores("the validation tables", ids, predicted, votes)


def _aligned(what: str, tables: Sequence[_Scores]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Ids [n] that all tables have, in the first one's order; predictions [tables, n]; a remark on ids left out."""
    first = tables[0].ids
    ids = first[np.all([np.isin(first, table.ids) for table in tables], 0)]
    if not len(ids):
        raise UserError(f"the {what} have no galaxy in common")
    most = max(len(table.ids) for table in tables)
    remark = f"Only the {len(ids):,} galaxies that all {len(tables)} {what} hold are used; the largest has {most:,}."
    scores = np.stack([table.predicted[_rows(ids, table.ids)] for table in tables])
    return ids, scores, [remark] if len(ids) < most else []
