"""Which rows to keep: test AUC at equal bytes, by what decides a row's priority.

Rows of all tables are ranked together. The first ones are kept, in one encoding, and the others
of a table become their mean row (`constant`): between float32, float16 and int8 a choice would
not show in the AUC.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.progress import steps
from ctr.datasets import TEST, Dataset
from ctr.model import Ctr
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays

from reproduce.markdown import difference, level, table
from reproduce.noise import paired, spread
from reproduce.scorers import fields_of
from reproduce.stores import Stored, Trial
from reproduce.training import Sizes, auc_on_test, fit
from sharkstore.metrics import auc
from sharkstore.plan.stats import Stats
from sharkstore.stats.file import open_stats

LEVELS = (50, 30, 20, 10)
WEIGHTS = ((2, 1), (5, 1), (20, 1), (1, 5))
COUNT = "count"

ByTable = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows kept on one set.

    Args:
        whole: test AUC of the float32 model, by seed.
        stored: with all rows in the encoding, by seed.
        aucs: test AUC by priority and level (percent of the rows), by seed.
        ratios: bytes of the stores' tables over float32, by priority and level, by seed.
    """

    name: str
    rows: int
    dim: int
    encoding: str
    seeds: int
    whole: list[float]
    stored: list[float]
    aucs: dict[str, dict[int, list[float]]]
    ratios: dict[str, dict[int, list[float]]]


def run(
    dataset: Dataset,
    seeds: int,
    sizes: Sizes,
    levels: Sequence[int] = LEVELS,
    encoding: str = "int8",
) -> Kept:
    """Train, measure, convert at each level by each priority, predict from the stores.

    Args:
        dataset: with all fields.
        seeds: models, seeds 0, 1, …; at least 2.
        sizes: of the models.
        levels: rows to keep, in percent; as all rows have the same length, of the bytes too.
        encoding: of rows that are kept.
    """
    levels = tuple(dict.fromkeys(levels))
    _, labels = dataset.part(TEST)
    whole, stored = [], []
    aucs: dict[str, dict[int, list[float]]] = {}
    ratios: dict[str, dict[int, list[float]]] = {}
    for seed in steps(range(seeds), f"{dataset.name}: rows"):
        model = fit(dataset, seed, sizes)
        whole.append(auc_on_test(model, dataset))
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(model, dataset, Path(folder), sizes.batch)
            measured = open_stats(trial.stats)
            stored.append(auc(labels, _convert(trial, measured, encoding, {}).logits))
            for name, values in priorities(measured, model, seed).items():
                ranked = rank(values, np.random.default_rng([seed, 1]))
                for percent in levels:
                    tiers = f"{encoding}@{least_rank(ranked, percent)},constant"
                    found = _convert(trial, measured, tiers, ranked)
                    reached = auc(labels, found.logits)
                    aucs.setdefault(name, {}).setdefault(percent, []).append(reached)
                    ratios.setdefault(name, {}).setdefault(percent, []).append(found.ratio)
    rows = sum(dataset.cardinalities)
    return Kept(dataset.name, rows, sizes.dim, encoding, seeds, whole, stored, aucs, ratios)


def _convert(trial: Trial, measured: Stats, tiers: str, ranked: ByTable) -> Stored:
    """A store with ranks for priorities."""
    arrays = {f"tables/{name}/priority": values for name, values in ranked.items()}
    for name in measured.tables:
        count = measured.count(name)
        assert count is not None
        arrays[f"tables/{name}/count"] = np.array(count)
    path = trial.stats.with_name("ranked.safetensors")
    save_arrays(arrays, path)
    return trial.convert(path, tiers=tiers)


def priorities(stats: Stats, model: Ctr, seed: int) -> dict[str, ByTable]:
    """What rows can be ranked by: float64 (rows,) by table, by name.

    Counts and sensitivity are the stats'. Sensitivity × distance² is, to second order, how far
    the loss rises when the row becomes the table's mean row.
    """
    tables = list(fields_of(model).values())
    count, positive, sensitivity = (
        {name: np.array(stats.arrays[f"tables/{name}/{kind}"], np.float64) for name in tables}
        for kind in ("count", "positive", "sensitivity")
    )
    found: dict[str, ByTable] = {COUNT: count}
    for up, down in WEIGHTS:
        found[f"α⁺ {up}, α⁻ {down}"] = {
            name: up * positive[name] + down * (count[name] - positive[name]) for name in tables
        }
    found["sensitivity"] = sensitivity
    found["sensitivity × distance²"] = {
        name: sensitivity[name] * _distance(model, stats, name) for name in tables
    }
    rng = np.random.default_rng(seed)
    found["random"] = {name: rng.random(len(count[name])) for name in tables}
    return found


def _distance(model: Ctr, stats: Stats, name: str) -> NDArray[np.float64]:
    """Squared distance of each row from the table's mean row, (rows,)."""
    rows = model.state_dict()[name].double().numpy()
    distance: NDArray[np.float64] = np.square(rows - stats.mean(name)).sum(axis=1)
    return distance


def rank(values: ByTable, rng: np.random.Generator) -> ByTable:
    """Ranks over the rows of all tables, from 1 for the lowest value; ties fall by chance.

    As priorities they let a threshold cut anywhere, so that all have the same bytes.
    """
    joined = np.concatenate(list(values.values()))
    ranks = np.empty(len(joined))
    ranks[np.lexsort([rng.random(len(joined)), joined])] = np.arange(1, len(joined) + 1)
    ends = np.cumsum([len(one) for one in values.values()])
    return dict(zip(values, np.split(ranks, ends[:-1]), strict=True))


def least_rank(ranked: ByTable, percent: int) -> int:
    """The lowest rank among the best rows of all."""
    total = sum(len(one) for one in ranked.values())
    return total - (total * percent + 50) // 100 + 1


def text(found: Kept) -> str:
    """The tables of one set."""
    first = found.ratios[COUNT]
    heads = [f"{percent} %" for percent in first]
    levels = [
        [name, *(level(spread(values)) for values in by_level.values())]
        for name, by_level in found.aucs.items()
    ]
    stores = [[one[percent] for one in found.ratios.values()] for percent in first]
    sizes = [f"{min(map(min, ratios)):.1%} – {max(map(max, ratios)):.1%}" for ratios in stores]
    ours = found.aucs[COUNT]
    differences = [
        [name, *(difference(paired(by_level[one], ours[one])) for one in first)]
        for name, by_level in found.aucs.items()
        if name != COUNT
    ]
    return "\n\n".join(
        [
            f"### {found.name}: {found.rows:,} rows × {found.dim}",
            (
                "Test AUC when so many of the rows of all tables, those of the highest priority, "
                f"are kept in {found.encoding} and the others are their tier's mean row; mean ± "
                f"standard deviation of {found.seeds} seeds. "
                f"float32: {level(spread(found.whole))}; "
                f"all rows in {found.encoding}: {level(spread(found.stored))}."
            ),
            table(["rows kept", *heads], [*levels, ["table bytes, of float32", *sizes]]),
            (
                "The other priority minus count, seed by seed; bold where 0 is outside the 95 % "
                "t-interval of the mean (1 in 20 is by chance)."
            ),
            table(["rows kept", *heads], differences),
        ]
    )
