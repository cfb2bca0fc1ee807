"""How hard a set is: what a model reaches on it, what could be reached, and by what."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from ctr import train
from ctr.datasets import TEST, TRAIN, Dataset, Ids
from ctr.model import Ctr
from numpy.typing import NDArray

from sharkstore.metrics import auc

F64 = NDArray[np.float64]

LARGE = 50_000


@dataclass(frozen=True, slots=True)
class Difficulty:
    """Of one set, for one trained model; AUCs are of the test split.

    Args:
        samples, test_samples: in all, and in the test split.
        positives: share of the samples.
        auc: of the model.
        bound: of the logits that the labels were drawn from, where they are known.
        large: fields with tables of so many rows.
        without_large: AUC with those tables at their mean row, weighted by use.
        rare_at_mean: AUC with the rows seen at most 5 times in training at that mean row.
        unseen_rows: share of all rows never seen in training.
        unseen_lookups: share of the test split's lookups that meet such a row.
        rare_lookups: share that meet a row seen at most 5 times.
    """

    samples: int
    test_samples: int
    positives: float
    auc: float
    bound: float | None
    large: tuple[str, ...]
    without_large: float
    rare_at_mean: float
    unseen_rows: float
    unseen_lookups: float
    rare_lookups: float


def difficulty(
    dataset: Dataset, model: Ctr, known: NDArray[np.float32] | None, large: int = LARGE
) -> Difficulty:
    """Measure it.

    Args:
        known: logits that the labels were drawn from, (samples,).
        large: rows from which on a table is large.
    """
    ids, labels = dataset.part(TEST)
    trained, _ = dataset.part(TRAIN)
    seen = [
        np.bincount(trained[:, i], minlength=rows) for i, rows in enumerate(dataset.cardinalities)
    ]
    met = np.stack([count[ids[:, i]] for i, count in enumerate(seen)])
    sized = zip(dataset.fields, dataset.cardinalities, strict=True)
    wide = tuple(field for field, rows in sized if rows >= large)
    return Difficulty(
        samples=len(dataset.labels),
        test_samples=len(labels),
        positives=float(dataset.labels.mean()),
        auc=auc(labels, train.predict(model, ids)),
        bound=None if known is None else auc(labels, known[dataset.split == TEST]),
        large=wide,
        without_large=auc(labels, _at_mean(model, seen, ids, wide, np.inf)),
        rare_at_mean=auc(labels, _at_mean(model, seen, ids, dataset.fields, 5)),
        unseen_rows=sum(int((one == 0).sum()) for one in seen) / sum(map(len, seen)),
        unseen_lookups=float((met == 0).mean()),
        rare_lookups=float((met <= 5).mean()),
    )


def _at_mean(
    model: Ctr, seen: list[NDArray[np.intp]], ids: Ids, fields: Collection[str], most: float
) -> F64:
    """Logits with those rows of some fields that were seen at most so often at the mean row.

    Args:
        seen: how often each row was, by field.
    """
    originals = {}
    with torch.no_grad():
        for field, count in zip(model.fields, seen, strict=True):
            if field in fields:
                table = model.table(field)
                originals[field] = table.clone()
                weights = torch.from_numpy(count).float()
                table[torch.from_numpy(count <= most)] = weights @ table / weights.sum()
        logits = train.predict(model, ids)
        for field, original in originals.items():
            model.table(field).copy_(original)
    return logits
