"""What a store costs in quality: a model run with its own tables, then with the store's rows.

found = evaluate(model, "model.shark", loader)
print(found)
assert found.auc.low > -0.0005
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import sharkstore.metrics as metrics
from sharkstore.errors import ArgumentError
from sharkstore.load.open import open_store
from sharkstore.load.store import Store
from sharkstore.load.table import Table

F64 = NDArray[np.float64]
Forward = Callable[[Any], Tensor]

BLOCK_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class Change:
    """A metric with the model's own tables, and with the store's rows.

    Args:
        before: with the model's own.
        after: with the store's.
        low: of the interval that holds the change; 0 outside it means more than noise.
        high: of the same.
    """

    before: float
    after: float
    low: float
    high: float

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a store costs; prints as a few lines.

    Args:
        samples: how many there were; `positives`: with label 1.
        auc: area under the ROC curve: higher is better.
        log_loss: mean, in nats: lower is better.
        confidence: of the intervals.
        resamples: of the bootstrap.
    """

    samples: int
    positives: int
    auc: Change
    log_loss: Change
    confidence: float
    resamples: int

    def __str__(self) -> str:
        head = f"{self.samples:,} samples, {self.positives:,} positive"
        sure = f"{self.confidence * 100:g} % of {self.resamples:,} paired resamples"
        lines = [
            f"{head}; in brackets: {sure}",
            f"{'':<10}{'model':>10}{'store':>10}{'change':>12}",
        ]
        for name, one in (("AUC", self.auc), ("log loss", self.log_loss)):
            values = f"{one.before:>10.6f}{one.after:>10.6f}{one.change:>+12.6f}"
            lines.append(f"{name:<10}{values}  [{one.low:+.6f}, {one.high:+.6f}]")
        return "\n".join(lines)


def evaluate(
    model: nn.Module,
    store: Store | str | os.PathLike[str],
    loader: Iterable[tuple[Any, Any]],
    *,
    forward: Forward | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """Run a model on labelled samples twice: with its own tables, then with the store's rows.

    The model is in eval mode meanwhile. Its tables are overwritten in place for the second pass
    and restored bit for bit, also after an error; copies of them are kept in CPU memory until
    then, and the store's rows come block by block. What is no table in the store stays the
    model's.

    Args:
        model: its parameters are named as the store's tables: `<module path>.weight`.
        store: open, or a path.
        loader: gives (x, y), the same samples in the same order both times: no generator, no
            shuffling. y: labels 0 and 1, (n,) or (n, 1).
        forward: from x to logits (n,) or (n, 1), if that is not `model(x)`:
            `forward=lambda x: model(*x)`.
        resamples: of the paired bootstrap, each of which costs some 60 ns a sample.
        confidence: of the intervals, between 0 and 1.
        seed: of the bootstrap.

    Raises:
        StoreNotFoundError, FormatError, CorruptStoreError: as `sharkstore.open`.
        ArgumentError: tables that the model lacks or has in another shape, or that the store
            dropped; a loader, labels or logits that are not as above.
    """
    if resamples < 1 or not 0 < confidence < 1:
        got = f"{resamples} resamples, confidence {confidence}"
        raise ArgumentError("no interval of that", got=got, expected="1 or more, and 0 to 1")
    if not isinstance(store, Store):
        with open_store(store) as opened:
            return evaluate(
                model,
                opened,
                loader,
                forward=forward,
                resamples=resamples,
                confidence=confidence,
                seed=seed,
            )
    replaced = _tensors(model, store)
    run = forward or model
    with _evaluating(model), torch.no_grad():
        labels, before = _run(run, loader)
        _check_labels(labels)
        with _rows_of(store, replaced):
            again, after = _run(run, loader)
    if not np.array_equal(labels, again):
        remedy = "give a list or a DataLoader(shuffle=False), no generator"
        raise ArgumentError("the loader gave other samples the second time", remedy=remedy)
    intervals = metrics.paired_bootstrap(
        labels, before, after, resamples=resamples, confidence=confidence, seed=seed
    )
    auc, loss = (
        Change(measure(labels, before), measure(labels, after), interval.low, interval.high)
        for measure, interval in zip((metrics.auc, _log_loss), intervals, strict=True)
    )
    return Evaluation(len(labels), int(labels.sum()), auc, loss, confidence, resamples)


def _log_loss(labels: F64, logits: F64) -> float:
    return float(metrics.log_losses(labels, logits).mean())


def _tensors(model: nn.Module, store: Store) -> dict[str, Tensor]:
    """The model's tensors that the store has rows for, by the table's name."""
    named = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name in store.metadata.dropped:
        if name in named:
            remedy = "convert without --drop: a pruned table serves its mean row"
            message = f"table {name!r} was dropped at conversion, and the model has it"
            raise ArgumentError(message, where=store.path, remedy=remedy)
    missing = [name for name in store if name not in named]
    if missing:
        shown = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
        remedy = "is it a wrapper of the model that was saved? Give the inner module"
        raise ArgumentError(f"the model has no {shown}", where=store.path, remedy=remedy)
    for name, table in store.items():
        if tuple(named[name].shape) != (table.rows, table.dim):
            got, expected = tuple(named[name].shape), (table.rows, table.dim)
            raise ArgumentError(f"the model's {name!r}", got=got, expected=expected)
    return {name: named[name].detach() for name in store}


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, then each of its modules in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _rows_of(store: Store, tensors: dict[str, Tensor]) -> Iterator[None]:
    """The store's rows in the model's tensors, then what was in them before."""
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        for name, tensor in tensors.items():
            kept.append((tensor, tensor.to("cpu", copy=True)))
            _fill(tensor, store[name])
        yield
    finally:
        # last first: two names may share one tensor
        for tensor, original in reversed(kept):
            tensor.copy_(original)


def _fill(tensor: Tensor, table: Table) -> None:
    step = max(1, BLOCK_VALUES // table.dim)
    for start in range(0, table.rows, step):
        rows = table.lookup(np.arange(start, min(start + step, table.rows)))
        tensor[start : start + len(rows)].copy_(torch.from_numpy(rows))


def _run(forward: Forward, loader: Iterable[tuple[Any, Any]]) -> tuple[F64, F64]:
    """Labels and logits of all samples, float64 (n,)."""
    labels, logits = [np.empty(0)], [np.empty(0)]
    for batch in loader:
        try:
            x, y = batch
        except (TypeError, ValueError) as error:
            got = type(batch).__name__
            raise ArgumentError("a batch of the loader", got=got, expected="(x, y)") from error
        labels.append(_column(y, "labels"))
        logits.append(_column(forward(x), "logits"))
        if len(labels[-1]) != len(logits[-1]):
            got, expected = f"{len(logits[-1])} logits", f"{len(labels[-1])}, one for each label"
            raise ArgumentError("a batch", got=got, expected=expected)
        if not np.isfinite(logits[-1]).all():
            raise ArgumentError(f"NaN or infinite logits in batch {len(logits) - 2}")
    return np.concatenate(labels), np.concatenate(logits)


def _column(values: Any, what: str) -> F64:
    """Values as float64 (n,), out of a tensor or an array, (n,) or (n, 1)."""
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    try:
        column = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        got = type(values).__name__
        raise ArgumentError(what, got=got, expected="a tensor of numbers") from error
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        raise ArgumentError(what, got=f"shape {column.shape}", expected="(n,) or (n, 1)")
    return column


def _check_labels(labels: F64) -> None:
    if not len(labels):
        raise ArgumentError("the loader gave no samples")
    strange = labels[(labels != 0) & (labels != 1)]
    if len(strange):
        raise ArgumentError("labels", got=strange[0], expected="0 and 1")
    if labels.min() == labels.max():
        raise ArgumentError(f"all labels are {labels[0]:g}: there is no AUC", expected="both")
