"""Tensors in, one call of the store's kernels, tensors out: nothing is copied on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharkstore.errors import ArgumentError, DtypeError
from sharkstore.load import arguments
from sharkstore.load.request import Mode, Request
from sharkstore.nn.bound import Opened

# values of rows below which another thread costs more than it saves
SHARED = 1 << 19
# values of an output that is worth torch's aligned memory
LARGE = 1 << 14


def at_hand(ids: Tensor) -> bool:
    """Whether ids can be read here and now: none that are traced, fake or on another device.

    Raises:
        DtypeError: no tensor, nor what stands for one where a model is traced.
    """
    if not hasattr(ids, "is_cpu"):
        raise DtypeError("ids", got=type(ids).__name__, expected="a tensor")
    return (
        not torch.compiler.is_compiling()
        and type(ids) is Tensor
        and ids.is_cpu
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()  # noqa: SLF001 - torch has no other
    )


def check_device(given: Tensor, what: str = "ids") -> None:
    """Refuse a tensor on another device.

    Raises:
        ArgumentError: naming it.
    """
    if not given.is_cpu:
        remedy = "look up on the CPU, then move the result: module(ids.cpu()).to(ids.device)"
        raise ArgumentError(
            f"{what} on another device", got=given.device, expected="cpu", remedy=remedy
        )


def rows(opened: Opened, table: str, ids: Tensor, blank: int) -> Tensor:
    """Rows of ids of any shape.

    Args:
        blank: the id that gives zeros; -1: none does.

    Returns:
        float32 (*ids.shape, dim).
    """
    given, looked_up = as_array(ids, "ids"), opened.store[table]
    result, out = empty(*given.shape, looked_up.dim)
    if opened.threads == 1 or given.size * looked_up.dim < SHARED:
        looked_up.lookup(given, out)
    else:
        request = opened.request((table,), ("sum",))
        ends = [0, given.size]
        request.lookups(given.reshape(-1), ends, out.reshape(-1), threads=opened.threads)
    if blank >= 0:
        result[ids == blank] = 0
    return result


def bags(
    opened: Opened,
    table: str,
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
    given = as_array(ids, "ids")
    starts = None if offsets is None else as_array(offsets, "offsets")
    weighed = None if weights is None else as_array(weights.detach(), "per_sample_weights")
    options = (mode, include_last, padding)
    if include_last and starts is not None and starts.dtype.kind == "i" and starts.size:
        end = starts.reshape(-1)[-1]
        if given.ndim == 1 and 0 <= end < len(given):  # torch leaves out what lies behind it
            given = given[:end]
            weighed = None if weighed is None else weighed[:end]
    return _pooled(opened, table, given, starts, weighed, *options)


def request_bags(
    request: Request,
    threads: int,
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
    given, starts = as_array(values, "values"), as_array(offsets, "offsets")
    weighed = None if weights is None else as_array(weights.detach(), "per_sample_weights")
    if positions:
        given, starts, weighed = _picked(given, starts, weighed, positions, keys)
    pooled, out = empty(max(starts.size - 1, 0) // len(request.keys), request.dim)
    request(given, starts, weighed, out, threads=threads)
    if batch is not None and len(pooled) != batch:
        raise ArgumentError("offsets of another batch size", got=len(pooled), expected=batch)
    return pooled


def request_rows(request: Request, threads: int, values: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows of many tables of one dim.

    Args:
        values: the ids: all of the first table, then the second's, …
        counts: ids of each table.

    Returns:
        float32 (ids, dim): table after table.
    """
    given, dim = as_array(values, "values"), request.dims[0]
    starts = np.cumsum([0, *counts])
    rows, out = empty(given.size, dim)
    request.lookups(given, starts, out.reshape(-1), threads=threads)
    return rows


def _pooled(
    opened: Opened,
    name: str,
    ids: NDArray[np.integer],
    offsets: NDArray[np.integer] | None,
    weights: NDArray[np.float32] | None,
    mode: Mode,
    include_last: bool,
    padding: int,
) -> Tensor:
    table, left = opened.store[name], None if padding < 0 else padding
    plain = ids.ndim == 2 if offsets is None else ids.ndim == offsets.ndim == 1
    if not plain or (weights is not None and weights.shape != ids.shape):  # it says what is wrong
        return as_tensor(table.embedding_bag(ids, offsets, weights, mode, include_last, left))
    bags = len(ids) if offsets is None else max(len(offsets) - include_last, 0)
    pooled, out = empty(bags, table.dim)
    if opened.threads == 1 or ids.size * table.dim < SHARED:
        table.embedding_bag(ids, offsets, weights, mode, include_last, left, out)
    else:
        ends = bag_ends(ids, offsets, include_last=include_last)
        weighed = None if weights is None else weights.reshape(-1)
        request = opened.request((name,), (mode,), padding)
        request(ids.reshape(-1), ends, weighed, out, threads=opened.threads)
    return pooled


def bag_ends(
    ids: NDArray[Any], offsets: NDArray[Any] | None, *, include_last: bool
) -> NDArray[np.integer]:
    """Offsets of bags, with the end of the last: (bags + 1,)."""
    if offsets is None:
        offsets, include_last = np.arange(len(ids)) * ids.shape[1], False
    return offsets if include_last else np.append(offsets, ids.size)


def empty(*shape: int) -> tuple[Tensor, NDArray[np.float32]]:
    """A tensor to write into, and the array of its memory."""
    if math.prod(shape) < LARGE:  # numpy is faster
        array = np.empty(shape, np.float32)
        return as_tensor(array), array
    tensor = torch.empty(shape, dtype=torch.float32, device="cpu")
    return tensor, tensor.numpy()


def as_array(given: Tensor, what: str) -> NDArray[Any]:
    """A tensor's values, where numpy can have them.

    Raises:
        ArgumentError: on another device.
        DtypeError: numpy has no such thing.
    """
    try:
        return given.numpy()
    except (AttributeError, RuntimeError, TypeError) as error:
        if not isinstance(given, Tensor):
            raise DtypeError(what, got=type(given).__name__, expected="a tensor") from error
        check_device(given, what)
        kind = "nested, " if given.is_nested else ""
        got = f"{kind}{given.dtype}, {given.layout}"
        raise DtypeError(f"{what} that are no plain array", got=got) from error


def as_tensor(values: NDArray[np.float32]) -> Tensor:
    """An array as a tensor of the same memory."""
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
    starts = arguments.as_ids(offsets, "offsets").astype(np.int64, copy=False)
    if values.ndim != 1 or starts.ndim != 1:
        got = values.ndim, starts.ndim
        raise ArgumentError("values and offsets must have one dimension", got=got)
    batch, rest = divmod(len(starts) - 1, keys)
    if rest or batch < 0:
        raise ArgumentError(f"offsets must be {keys} keys * batch + 1", got=len(starts))
    arguments.check_offsets(starts, len(values), include_last=True)
    if weights is not None and weights.shape != values.shape:
        raise ArgumentError("weights", got=weights.shape, expected=values.shape)
    firsts = starts[::batch].tolist() if batch else [0] * (keys + 1)
    parts = [slice(firsts[at], firsts[at + 1]) for at in positions]
    lengths = np.diff(starts).reshape(keys, batch)[list(positions)]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    some = None if weights is None else np.concatenate([weights[part] for part in parts])
    return np.concatenate([values[part] for part in parts]), ends, some
