"""Tensors in, one call of the store's kernels, tensors out: nothing is copied on the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharkstore.errors import ArgumentError
from sharkstore.load.request import Mode, Request
from sharkstore.load.table import Table


def at_hand(ids: Tensor) -> bool:
    """Whether ids can be read here and now: none that are traced, fake or on another device."""
    return (
        not torch.compiler.is_compiling()
        and type(ids) is Tensor
        and ids.is_cpu
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def check_device(ids: Tensor) -> None:
    """Refuse ids on another device.

    Raises:
        ArgumentError: naming it.
    """
    if not ids.is_cpu:
        remedy = "look up on the CPU, then move the result: module(ids.cpu()).to(ids.device)"
        raise ArgumentError("ids on another device", got=ids.device, expected="cpu", remedy=remedy)


def rows(table: Table, ids: Tensor, blank: int) -> Tensor:
    """Rows of ids of any shape.

    Args:
        blank: the id that gives zeros; -1: none does.

    Returns:
        float32 (*ids.shape, dim).
    """
    found = _tensor(table.lookup(ids.numpy()))
    if blank >= 0:
        found[ids == blank] = 0
    return found


def bags(
    table: Table,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    mode: Mode,
    include_last: bool,
    padding: int,
) -> Tensor:
    """Pooled rows.

    Args:
        padding: the id that is left out; -1: none is.

    Returns:
        float32 (bags, dim).
    """
    given = ids.numpy()
    starts = None if offsets is None else offsets.numpy()
    weighed = None if weights is None else weights.detach().numpy()
    left = None if padding < 0 else padding
    try:
        pooled = table.embedding_bag(given, starts, weighed, mode, include_last, left)
    except ArgumentError:
        if not include_last or starts is None or not 0 <= starts[-1:].max(initial=-1) < len(given):
            raise
        end = int(starts[-1])  # torch leaves out what lies behind the last offset
        weighed = None if weighed is None else weighed[:end]
        pooled = table.embedding_bag(given[:end], starts, weighed, mode, include_last, left)
    return _tensor(pooled)


def request_bags(
    request: Request,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    positions: Sequence[int],
    keys: int,
    batch: int | None,
) -> Tensor:
    """Pooled rows of many tables.

    Args:
        positions: of each table's bags among the keys of the offsets; none: table after table.
        keys: how many the offsets have.
        batch: bags a key, if that is known.

    Returns:
        float32 (batch, sum of dims).

    Raises:
        ArgumentError: offsets of another number of keys or bags, that fall, or end elsewhere.
    """
    given, starts = values.numpy(), offsets.numpy()
    weighed = None if weights is None else weights.detach().numpy()
    if positions:
        given, starts, weighed = _picked(given, starts, weighed, positions, keys)
    pooled = request(given, starts, weighed)
    if batch is not None and len(pooled) != batch:
        raise ArgumentError("offsets of another batch size", got=len(pooled), expected=batch)
    return _tensor(pooled)


def _tensor(values: NDArray[np.float32]) -> Tensor:
    # numpy has no strides for what is empty, and compiled programs check them
    return torch.from_numpy(values) if values.size else torch.empty(values.shape)


def _picked(
    values: NDArray[np.integer],
    offsets: NDArray[np.integer],
    weights: NDArray[np.float32] | None,
    positions: Sequence[int],
    keys: int,
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float32] | None]:
    """Values, offsets and weights of some keys, in another order."""
    batch, rest = divmod(len(offsets) - 1, keys)
    if rest or batch < 0 or offsets.ndim != 1:
        raise ArgumentError(f"offsets must be {keys} keys * batch + 1", got=offsets.shape)
    if (offsets[1:] < offsets[:-1]).any() or offsets[0] < 0 or offsets[-1] > len(values):
        raise ArgumentError("offsets fall, or pass the end of the values")
    if weights is not None and weights.shape != values.shape:
        raise ArgumentError("weights", got=weights.shape, expected=values.shape)
    parts = [slice(offsets[at * batch], offsets[(at + 1) * batch]) for at in positions]
    lengths = np.diff(offsets).reshape(keys, batch)[list(positions)]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    some = None if weights is None else np.concatenate([weights[part] for part in parts])
    return np.concatenate([values[part] for part in parts]), starts, some
