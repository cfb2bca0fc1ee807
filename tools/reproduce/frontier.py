"""The frontier: how far quality falls with size, by what decides how rows are stored.

After training, no model is tuned again. Uniform encodings have one size each; the others are
solved for a budget. The allocator is compared with each of them at no more than its bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.progress import steps
from ctr import train
from ctr.datasets import TEST, Dataset, Labels
from numpy.typing import NDArray

from reproduce.difficulty import Difficulty, difficulty
from reproduce.scorers import F64, log_loss
from reproduce.stores import Stored, Trial
from reproduce.training import Sizes, fit
from sharkstore.errors import PlanError
from sharkstore.metrics import auc, paired_bootstrap

# First vectors near 0, and a pull to there: rows seen once or twice carry little noise, which
# a coarse store would otherwise gain by leaving out.
SIZES = Sizes(dim=16, hidden=(64, 64), batch=4096, rate=3e-3, epochs=30, decay=1e-3, spread=0.01)
SHARES = (30.0, 20.0, 15.0, 10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.5)

UNIFORM = ("int8", "int4", "int2", "pq2", "pq4", "pq8")
SHARK = "SHARK thresholds"
OURS = "allocator, metric"
SWEPT: dict[str, dict[str, Any]] = {
    SHARK: {"method": "shark"},
    "thresholds, int8 or mean row": {"method": "shark", "encodings": ("int8", "constant")},
    "allocator, count": {"weigh": "count"},
    "allocator, sensitivity": {"weigh": "sensitivity"},
    OURS: {"weigh": "metric"},
}
# the paper's encodings and, where even all int8 is too large, rows that fall to the mean row
PAPER: tuple[dict[str, Any], ...] = (
    {"encodings": ("f32", "f16", "int8")},
    {"encodings": ("f32", "f16", "int8", "constant")},
)

Key = tuple[str, str]  # method, size


@dataclass(slots=True)
class Change:
    """Of quality on the test split, by seed.

    Args:
        auc: higher is better.
        loss: log loss in nats a sample: lower is better.
        low, high: of the AUC's change: 95 % of a paired bootstrap over the samples; empty where
            nobody asks, as it is most of the time that a frontier takes.
    """

    auc: list[float]
    loss: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True, slots=True)
class Point:
    """A method at a size.

    Args:
        size: a budget as a share (`10%`), or the encoding that the bytes are those of.
        ratios: bytes of tables, row maps and codebooks over float32, by seed.
        change: from the float32 model.
        over: from this method to the allocator at no more bytes; None for that itself.
    """

    method: str
    size: str
    ratios: list[float]
    change: Change
    over: Change | None


@dataclass(frozen=True, slots=True)
class Frontier:
    """The frontier on one set.

    Args:
        difficulty: of the set, by seed.
        losses: log loss of the float32 models on the test split, by seed.
        points: of all methods; what a method can't reach is not there.
    """

    name: str
    rows: int
    dim: int
    seeds: int
    resamples: int
    difficulty: list[Difficulty]
    losses: list[float]
    points: list[Point]


def run(
    dataset: Dataset,
    known: NDArray[np.float32] | None,
    seeds: int,
    sizes: Sizes,
    shares: Sequence[float] = SHARES,
    resamples: int = 200,
) -> Frontier:
    """Train, measure, convert by each method to each size, predict from the stores.

    Args:
        dataset: with all fields.
        known: logits that its labels were drawn from, (samples,).
        seeds: models, seeds 0, 1, …; at least 2.
        sizes: of the models.
        shares: budgets, in percent of the tables' float32 bytes.
        resamples: of each bootstrap.
    """
    ids, labels = dataset.part(TEST)
    hard, losses, found = [], [], []
    for seed in steps(range(seeds), f"{dataset.name}: frontier"):
        model = fit(dataset, seed, sizes)
        hard.append(difficulty(dataset, model, known))
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(model, dataset, Path(folder), sizes.batch)
            before = train.predict(model, ids)
            losses.append(log_loss(labels, before))
            stored = dict(_stores(trial, shares))
        found.append(_judged(stored, before, labels, resamples))
    points = [_joined([one[key] for one in found]) for key in found[0] if _in_all(key, found)]
    rows = sum(dataset.cardinalities)
    return Frontier(dataset.name, rows, sizes.dim, seeds, resamples, hard, losses, points)


def _stores(trial: Trial, shares: Sequence[float]) -> Iterator[tuple[Key, Stored]]:
    """A store of each method at each size that it can reach."""
    for name in UNIFORM:
        uniform = trial.convert(tiers=name)
        yield (name, name), uniform
        yield from _within(trial, OURS, name, str(uniform.nbytes))
    for share in dict.fromkeys(shares):
        for method in SWEPT:
            yield from _within(trial, method, f"{share:g}%", f"{share:g}%")


def _within(trial: Trial, method: str, size: str, budget: str) -> Iterator[tuple[Key, Stored]]:
    """The store of a method within a budget, or nothing if there is none so small."""
    for encodings in PAPER if method == SHARK else ({},):
        try:
            stored = trial.convert(budget=budget, **SWEPT[method], **encodings)
        except PlanError as error:
            if "too small" not in str(error):
                raise
        else:
            yield (method, size), stored
            return


def _judged(
    stored: dict[Key, Stored], before: F64, labels: Labels, resamples: int
) -> dict[Key, Point]:
    """Points of one seed."""
    points = {}
    for (method, size), one in stored.items():
        change = _change(labels, before, one.logits, resamples if method == OURS else 0)
        ours = stored.get((OURS, size))
        over = None
        if ours and method != OURS:
            over = _change(labels, one.logits, ours.logits, resamples)
        points[method, size] = Point(method, size, [one.ratio], change, over)
    return points


def _change(labels: Labels, before: F64, after: F64, resamples: int) -> Change:
    rise = log_loss(labels, after) - log_loss(labels, before)
    change = Change([auc(labels, after) - auc(labels, before)], [rise], [], [])
    if resamples:
        interval, _ = paired_bootstrap(labels, before, after, resamples=resamples)
        change.low.append(interval.low)
        change.high.append(interval.high)
    return change


def _in_all(key: Key, found: Sequence[dict[Key, Point]]) -> bool:
    return all(key in one for one in found)


def _joined(points: Sequence[Point]) -> Point:
    """One point of all seeds."""
    first = points[0]
    overs = [one.over for one in points if one.over]
    return Point(
        first.method,
        first.size,
        list(chain.from_iterable(one.ratios for one in points)),
        _together([one.change for one in points]),
        _together(overs) if len(overs) == len(points) else None,
    )


def _together(changes: Sequence[Change]) -> Change:
    parts = ("auc", "loss", "low", "high")
    return Change(*(list(chain.from_iterable(getattr(c, p) for c in changes)) for p in parts))
