"""What scoring all fields of a trained model costs: seconds, and passes over the data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.timing import Claim, Contender, Effort, figure, measure, ratios
from ctr.datasets import VALIDATION, Dataset
from ctr.model import Ctr

from reproduce import scorers
from reproduce.markdown import table
from reproduce.scorers import PERMUTATION, TAYLOR, batches, fields_of, sfs_by_batch
from reproduce.training import Sizes, fit
from sharkstore.importance import Importance

# The network's usual size: one that costs next to nothing would leave what a call costs.
SIZES = Sizes(dim=16, hidden=(400, 400), epochs=1)
KNOWN = "Taylor, rows counted before"


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs on one set.

    Args:
        samples: that are scored on: the validation split.
        network: values a vector, and widths of the layers.
        passes: by method: forward and backward.
        seconds: by method, of each round; methods take turns.
    """

    name: str
    samples: int
    fields: int
    batch: int
    network: str
    passes: dict[str, tuple[int, int]]
    seconds: dict[str, list[float]]


def run(dataset: Dataset, sizes: Sizes, rounds: int = 7) -> Cost:
    """Train a model, and time the methods that score its fields, all on the same batches.

    Permutation shuffles each field once.
    """
    model = fit(dataset, 0, sizes)
    ids, _ = dataset.part(VALIDATION)
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.safetensors"
        scorers.measure(model, dataset, VALIDATION, sizes.batch, count=VALIDATION).save(counts)
        methods = _methods(model, dataset, sizes.batch, counts)
        contenders = [
            Contender(name, (partial(_ignoring_batch, run),), len(ids), Claim("bytes"))
            for name, (_, run) in methods.items()
        ]
        # the first round warms up
        found = measure(contenders, Effort(1 + rounds, 0, 1))
    return Cost(
        name=dataset.name,
        samples=len(ids),
        fields=len(dataset.fields),
        batch=sizes.batch,
        network="-".join(map(str, (sizes.dim, *sizes.hidden))),
        passes={name: passes for name, (passes, _) in methods.items()},
        seconds={name: [one * len(ids) for one in all_[1:]] for name, all_ in found.items()},
    )


def _ignoring_batch(run: Callable[[], Any], _: int) -> None:
    run()


def _methods(
    model: Ctr, dataset: Dataset, batch: int, counts: Path
) -> dict[str, tuple[tuple[int, int], Callable[[], Any]]]:
    """By name: passes forward and backward, and what scores once."""
    rng = np.random.default_rng(0)
    return {
        TAYLOR: ((2, 1), lambda: _taylor(model, dataset, batch, None)),
        KNOWN: ((1, 1), lambda: _taylor(model, dataset, batch, counts)),
        "SFS, batch": ((1, 1), lambda: sfs_by_batch(model, dataset, batch)),
        PERMUTATION: (
            (1 + len(model.fields), 0),
            lambda: scorers.permutation(model, dataset, rng, 1, batch),
        ),
    }


def _taylor(model: Ctr, dataset: Dataset, batch: int, counts: Path | None) -> None:
    if counts is None:
        scorers.measure(model, dataset, VALIDATION, batch, count=VALIDATION).scores()
        return
    importance = Importance(model, fields_of(model), counts=counts)
    model.eval()
    with importance:
        for ids, labels in batches(dataset, VALIDATION, batch):
            importance.step(model(ids), labels)
    importance.scores()


def text(found: Cost) -> str:
    """The table of one set."""
    title = f"### {found.name}: {found.samples:,} samples, {found.fields} fields"
    rounds = len(found.seconds[TAYLOR])
    rows = []
    for name, (forward, backward) in found.passes.items():
        seconds = figure(found.seconds[name])
        share = figure(ratios(found.seconds[name], found.seconds[PERMUTATION]))
        rows.append(
            [
                name,
                f"{forward} + {backward}",
                f"{seconds.median:.3f} ± {seconds.spread:.0%}",
                f"{share.median:.1%}",
            ]
        )
    return "\n\n".join(
        [
            title,
            (
                "Scoring all fields of one model on the validation split, batches of "
                f"{found.batch:,}, network of {found.network}; medians of {rounds} interleaved "
                "rounds, ± from the 10th to the 90th percentile. "
                "Permutation shuffles each field once."
            ),
            table(["method", "passes, forward + backward", "seconds", "of permutation's"], rows),
        ]
    )
