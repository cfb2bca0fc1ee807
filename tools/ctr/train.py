"""Train the model, predict from the model or from a store, measure, save."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file as save_tensors
from torch import Tensor, nn

from ctr.datasets import TRAIN, VALIDATION, Dataset, Ids
from ctr.model import INITIAL_SPREAD, Ctr, table_name
from sharkstore import Store
from sharkstore.importance import Importance
from sharkstore.metrics import auc

F64 = NDArray[np.float64]

BLOCK = 8192  # samples a step of prediction


def train(
    dataset: Dataset,
    seed: int = 0,
    *,
    dim: int = 16,
    hidden: Sequence[int] = (400, 400),
    epochs: int = 8,
    batch: int = 1024,
    rate: float = 1e-3,
    decay: float = 1e-4,
    spread: float = INITIAL_SPREAD,
    watch: Callable[[int, float], None] | None = None,
) -> Ctr:
    """Train on the training split, and keep the epoch of the best validation AUC.

    Training ends with the first epoch that is worse than the best.

    Args:
        dataset: with a training and a validation split.
        seed: of weights and of the order of samples.
        dim: values a row of the tables.
        hidden: widths of the MLP's hidden layers.
        epochs: passes over the data at most.
        batch: samples a step.
        rate: learning rate of Adam.
        decay: weight of the squared norms of the looked-up vectors in the loss.
        spread: standard deviation of the tables' first values.
        watch: called with the epoch, from 1, and its validation AUC.
    """
    torch.manual_seed(seed)
    model = Ctr(dataset.fields, dataset.cardinalities, dim, hidden, spread)
    # Sparse steps touch a batch's rows only: an epoch costs the samples, whatever the tables.
    steps = [
        torch.optim.SparseAdam(model.emb.parameters(), rate),
        torch.optim.Adam(model.head.parameters(), rate),
    ]
    ids, labels = dataset.part(VALIDATION)
    best, kept = 0.0, model
    for epoch in range(1, epochs + 1):
        _train_epoch(model, dataset, steps, np.random.default_rng([seed, epoch]), batch, decay)
        reached = auc(labels, predict(model, ids))
        if watch:
            watch(epoch, reached)
        if reached < best:
            break
        best, kept = reached, copy.deepcopy(model)
    return kept.eval()


def _train_epoch(
    model: Ctr,
    dataset: Dataset,
    steps: Sequence[torch.optim.Optimizer],
    rng: np.random.Generator,
    batch: int,
    decay: float,
) -> None:
    model.train()
    order = rng.permutation(np.flatnonzero(dataset.split == TRAIN))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        vectors = model.embed(dataset.ids[chosen])
        loss = nn.functional.binary_cross_entropy_with_logits(
            model.head(vectors), torch.from_numpy(dataset.labels[chosen]).float()
        )
        loss = loss + decay * vectors.square().sum() / len(chosen)
        for step in steps:
            step.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for step in steps:
            step.step()


def predict(model: Ctr, ids: Ids) -> F64:
    """The model's logits, float64 (n,), of ids (n, fields)."""
    return _logits(model.embed, model.head, ids)


def predict_from_store(model: Ctr, store: Store, ids: Ids) -> F64:
    """Logits, float64 (n,), with every parameter taken from the store, of ids (n, fields).

    The model lends its structure only: rows are looked up in the store, and the head's
    parameters are the store's dense ones.
    """
    head = copy.deepcopy(model.head)
    dense = {name: torch.from_numpy(np.array(value)) for name, value in store.dense.items()}
    head.load_state_dict({name.removeprefix("head."): value for name, value in dense.items()})
    tables = [store[table_name(field)] for field in model.fields]

    def embed(block: Ids) -> Tensor:
        columns = [table.lookup(block[:, i]) for i, table in enumerate(tables)]
        return torch.from_numpy(np.stack(columns, axis=1))

    return _logits(embed, head, ids)


def _logits(embed: Callable[[Ids], Tensor], head: nn.Module, ids: Ids) -> F64:
    head.eval()
    with torch.no_grad():
        blocks = [head(embed(ids[i : i + BLOCK])) for i in range(0, len(ids), BLOCK)]
    logits: F64 = torch.cat(blocks).double().numpy()
    return logits


def measure(model: Ctr, dataset: Dataset) -> Importance:
    """What fields and rows are worth: counted on training samples, measured on validation.

    Gradients of training samples would vanish for the rows that were fitted to them.
    """
    importance = Importance(model, {field: table_name(field) for field in model.fields})
    model.eval()
    with importance.counting(labelled=True), torch.no_grad():
        for ids, labels in _blocks(dataset, TRAIN):
            model(ids)
            importance.positives(labels)
    with importance:
        for ids, labels in _blocks(dataset, VALIDATION):
            importance.step(model(ids), labels)
    return importance


def _blocks(dataset: Dataset, split: int) -> Iterator[tuple[Ids, Tensor]]:
    """The samples of a split: ids (n, fields), labels uint8 (n,)."""
    ids, labels = dataset.part(split)
    for start in range(0, len(ids), BLOCK):
        yield ids[start : start + BLOCK], torch.from_numpy(labels[start : start + BLOCK])


def save(model: Ctr, dataset: Dataset, folder: Path) -> tuple[Path, Path, dict[str, float]]:
    """Write `model.safetensors` and `stats.safetensors` into a folder.

    Returns:
        Both paths, and the scores by field.
    """
    checkpoint, stats = folder / "model.safetensors", folder / "stats.safetensors"
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_tensors(state, checkpoint)
    importance = measure(model, dataset)
    importance.save(stats)
    return checkpoint, stats, {f: one["score"] for f, one in importance.scores().items()}
