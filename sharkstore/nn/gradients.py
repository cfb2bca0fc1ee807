"""Bags whose weights are learnt: sums as without gradients, and what the weights get back.

With s = Σ wᵢ rᵢ over a bag, ∂L/∂wᵢ = ⟨rᵢ, ∂L/∂s⟩; rows have no gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from sharkstore.errors import ArgumentError, DtypeError
from sharkstore.nn import calls, ops
from sharkstore.nn.bound import find

# store, tables, positions, keys, include_last_offset, padding: of the operator below
Layout = tuple[str, list[str], list[int], int, bool, int]


def wanted(weights: Tensor | None) -> bool:
    """Whether weights are to have gradients; torch refuses those of forward mode: no rule here."""
    if weights is None:
        return False
    dual = not torch.compiler.is_compiling() and forward_ad._current_level >= 0  # noqa: SLF001
    return dual or (weights.requires_grad and torch.is_grad_enabled())


def weighted_bags(
    op: Callable[..., Tensor],
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor,
    arguments: Sequence[Any],
    layout: Layout,
) -> Tensor:
    """Bags of an operator, with gradients of its weights.

    Args:
        ids, offsets, weights, arguments: the operator's; weights float32.
        layout: what its gradients need to know of them.

    Raises:
        DtypeError: offsets that are no tensor.
        ArgumentError: they are on several devices.
    """
    for what, given in (("offsets", offsets), ("per_sample_weights", weights)):
        if given is not None and not hasattr(given, "device"):
            raise DtypeError(what, got=type(given).__name__, expected="a tensor")
        if given is not None and given.device != ids.device:
            where = f"{what} on another device"
            raise ArgumentError(where, got=given.device, expected=ids.device)
    found: Tensor = _WeightedBags.apply(weights, ids, offsets, op, arguments, layout)  # type: ignore[no-untyped-call]
    return found


class _WeightedBags(torch.autograd.Function):
    @staticmethod
    def forward(weights: Tensor, *given: Any) -> Tensor:
        ids, offsets, op, arguments, _ = given
        bags: Tensor = op(ids, offsets, weights, *arguments)
        return bags

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, ids, offsets, _, _, ctx.layout = inputs
        ctx.save_for_backward(ids, offsets)
        if not torch.compiler.is_compiling():
            ctx.opened = find(ctx.layout[0])  # so that it can be found when the module is gone

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        return (weight_gradients(slopes, *ctx.saved_tensors, *ctx.layout), *[None] * 5)


def _weight_gradients(
    slopes: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    store: str,
    tables: Sequence[str],
    positions: Sequence[int],
    keys: int,
    include_last_offset: bool,
    padding_idx: int,
) -> Tensor:
    given, of = ids.numpy(), slopes.numpy()
    starts = None if offsets is None else offsets.numpy()
    ends = calls.bag_ends(given, starts, include_last=include_last_offset)
    given = given.reshape(-1)
    found = np.zeros(given.size, np.float32)
    opened, batch, column = find(store), len(of), 0
    for name, at in zip(tables, positions or range(keys), strict=True):
        bounds = ends[at * batch : (at + 1) * batch + 1]
        part, table = slice(bounds[0], bounds[-1]), opened.store[name]
        spread = np.repeat(of[:, column : column + table.dim], np.diff(bounds), axis=0)
        found[part] += np.einsum("nd,nd->n", table.lookup(given[part]), spread)
        column += table.dim
    found[given == padding_idx] = 0
    return calls.as_tensor(found).reshape(ids.shape)


def _fake(_slopes: Tensor, ids: Tensor, *_rest: Any) -> Tensor:
    return ids.new_empty(ids.shape, dtype=torch.float32)


weight_gradients = ops.define(
    "weight_gradients",
    "(Tensor slopes, Tensor ids, Tensor? offsets, str store, str[] tables, int[] positions,"
    " int keys, bool include_last_offset, int padding_idx) -> Tensor",
    _weight_gradients,
    _fake,
)
