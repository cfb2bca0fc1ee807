"""Trained models, and the test AUC of models retrained on some of the fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.progress import steps
from ctr import train
from ctr.datasets import TEST, Dataset
from ctr.model import INITIAL_SPREAD, Ctr

from sharkstore.metrics import auc

Fields = frozenset[str]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the model and of its training; see `ctr.train.train`."""

    dim: int = 8
    hidden: tuple[int, ...] = (64, 64)
    batch: int = 4096
    rate: float = 3e-3
    epochs: int = 30
    decay: float = 1e-4
    spread: float = INITIAL_SPREAD


def fit(dataset: Dataset, seed: int, sizes: Sizes) -> Ctr:
    """A model trained on all fields of a set."""
    return train.train(
        dataset,
        seed,
        dim=sizes.dim,
        hidden=sizes.hidden,
        epochs=sizes.epochs,
        batch=sizes.batch,
        rate=sizes.rate,
        decay=sizes.decay,
        spread=sizes.spread,
    )


def auc_on_test(model: Ctr, dataset: Dataset) -> float:
    """Of the test split."""
    ids, labels = dataset.part(TEST)
    return auc(labels, train.predict(model, ids))


@dataclass(slots=True)
class Retrained:
    """Test AUC by fields and seed; the same fields are trained once a seed.

    Which method asked doesn't matter, nor the order it had the fields in: models take them in
    the order of the set.
    """

    dataset: Dataset
    sizes: Sizes
    found: dict[tuple[Fields, int], float] = field(default_factory=dict)

    def train(self, wanted: Iterable[tuple[Fields, int]]) -> None:
        """Train what is wanted and not there yet."""
        lacking = [one for one in dict.fromkeys(wanted) if one not in self.found]
        for fields, seed in steps(lacking, f"{self.dataset.name}: retraining"):
            chosen = self.dataset.only(fields)
            self.found[fields, seed] = auc_on_test(fit(chosen, seed, self.sizes), chosen)
