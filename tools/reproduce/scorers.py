"""Methods that score fields by a trained model: higher is worth more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from ctr.datasets import TRAIN, VALIDATION, Dataset, Ids, Labels
from ctr.model import Ctr, table_name
from numpy.typing import NDArray
from torch import Tensor, nn

from sharkstore.importance import Importance

F64 = NDArray[np.float64]

TAYLOR = "Taylor"
PERMUTATION = "permutation"
SFS_BATCHES = 100


def measure(
    model: Ctr, dataset: Dataset, split: int, batch: int, *, count: int = TRAIN
) -> Importance:
    """The product's measurement: rows counted on one split, gradients taken on another."""
    importance = Importance(model, fields_of(model))
    model.eval()
    with importance.counting(labelled=True), torch.no_grad():
        for ids, labels in batches(dataset, count, batch):
            model(ids)
            importance.positives(labels)
    with importance:
        for ids, labels in batches(dataset, split, batch):
            importance.step(model(ids), labels)
    return importance


def fields_of(model: Ctr) -> dict[str, str]:
    """Each field's table."""
    return {name: table_name(name) for name in model.fields}


def batches(dataset: Dataset, split: int, batch: int) -> Iterator[tuple[Ids, Tensor]]:
    """A split in order: ids (n, fields), labels uint8 (n,)."""
    ids, labels = dataset.part(split)
    for start in range(0, len(ids), batch):
        yield ids[start : start + batch], torch.from_numpy(labels[start : start + batch])


def score_all(
    model: Ctr, dataset: Dataset, seed: int, *, batch: int, shuffles: int
) -> dict[str, F64]:
    """Scores, float64 (fields,) in the model's order, by method.

    Args:
        seed: of shuffles and of the random score.
        batch: samples a step.
        shuffles: of each field, for permutation.
    """
    shuffled, drawn = np.random.default_rng(seed).spawn(2)
    held_out = measure(model, dataset, VALIDATION, batch).scores()
    training = measure(model, dataset, TRAIN, batch).scores()

    def column(scores: dict[str, dict[str, float]], kind: str) -> F64:
        return np.array([scores[name][kind] for name in model.fields])

    return {
        TAYLOR: column(held_out, "score"),
        "Taylor, training data": column(training, "score"),
        "Taylor signed": column(held_out, "score_signed"),
        "Taylor signed, training data": column(training, "score_signed"),
        "Gauss–Newton": column(held_out, "score_curved"),
        "SFS": column(held_out, "sfs"),
        "SFS, batch": sfs_by_batch(model, dataset, batch),
        PERMUTATION: permutation(model, dataset, shuffled, shuffles, batch).mean(axis=0),
        "random": drawn.random(len(model.fields)),
    }


def sfs_by_batch(model: Ctr, dataset: Dataset, batch: int, split: int = VALIDATION) -> F64:
    """|gradient of the field's mask in the mean loss of a batch|, its mean over batches.

    A mask m scales a field's vectors e, so the gradient is the sum of <∂L/∂e, e>. Single-shot
    feature selection as the ERASE benchmark runs it.

    Returns:
        float64 (fields,).
    """
    total, taken = np.zeros(len(model.fields)), 0
    model.eval()
    for ids, labels in batches(dataset, split, batch):
        masks = torch.ones(len(model.fields), 1, requires_grad=True)
        logits = model.head(model.embed(ids).detach() * masks)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        (grads,) = torch.autograd.grad(loss, masks)
        total += grads[:, 0].abs().double().numpy()
        taken += 1
        if taken == SFS_BATCHES:
            break
    return total / taken


def permutation(
    model: Ctr, dataset: Dataset, rng: np.random.Generator, shuffles: int, batch: int
) -> F64:
    """How far the log loss rises when a field's ids are dealt out anew among the samples.

    On the validation split, through the whole network.

    Args:
        shuffles: of each field.
        batch: samples a step.

    Returns:
        float64 (shuffles, fields), nats a sample.
    """
    ids, labels = dataset.part(VALIDATION)
    before = log_loss(labels, logits(model, ids, batch))
    rises = np.empty((shuffles, ids.shape[1]))
    for index in np.ndindex(*rises.shape):
        dealt = ids.copy()
        dealt[:, index[1]] = rng.permutation(ids[:, index[1]])
        rises[index] = log_loss(labels, logits(model, dealt, batch)) - before
    return rises


def logits(model: Ctr, ids: Ids, batch: int) -> F64:
    """The model's logits, float64 (n,), of ids (n, fields)."""
    model.eval()
    with torch.no_grad():
        found = [model(ids[start : start + batch]) for start in range(0, len(ids), batch)]
    values: F64 = torch.cat(found).double().numpy()
    return values


def log_loss(labels: Labels, predicted: F64) -> float:
    """Mean binary cross-entropy, nats a sample."""
    return float((np.logaddexp(0, predicted) - labels * predicted).mean())


def best(scores: F64, fields: tuple[str, ...], keep: int) -> frozenset[str]:
    """The fields with the highest scores; of equal ones the first."""
    order = np.argsort(-scores, kind="stable")
    return frozenset(fields[place] for place in order[:keep])
