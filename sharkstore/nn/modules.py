"""`Embedding` and `EmbeddingBag` of torch, their rows in a store."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

import sharkstore.kernels as kernels
from sharkstore.encodings import ROWS_PER_BLOCK
from sharkstore.errors import ArgumentError, DtypeError
from sharkstore.load import arguments
from sharkstore.load.store import Store
from sharkstore.load.table import Table
from sharkstore.nn import calls, gradients, ops
from sharkstore.nn.base import TableModule


class Embedding(TableModule):
    """`torch.nn.Embedding` over a table of a store.

    Args:
        store: open, or a path.
        table: its name in the store.
        padding_idx: gives the store's row, as torch gives its own; zeros where the store has
            the mean row in its stead: in a pruned table, or a `constant` tier.
        padding_zeros: whether `padding_idx` gives zeros, if that is known.
        dtype: of the rows it gives.
        max_norm, scale_grad_by_freq, sparse: torch's, refused: rows are as they are stored, and
            have no gradients.
        threads: how many may work on a large lookup.

    Raises:
        UnknownTableError: no such table.
        ArgumentError: padding_idx outside the table, or an option of those refused.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        table: str,
        padding_idx: int | None = None,
        *,
        padding_zeros: bool | None = None,
        dtype: torch.dtype = torch.float32,
        max_norm: float | None = None,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        threads: int = 1,
    ) -> None:
        refuse_options(max_norm, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)
        super().__init__(store, table, padding_idx, dtype, threads)
        self._blank = _blank(self.store[table], self.padding_idx, padding_zeros)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Rows of ids.

        Args:
            input: int32 or int64, of any shape; or nested.

        Returns:
            (*input.shape, embedding_dim).

        Raises:
            IdError: an id outside the table.
            DtypeError: ids of another dtype, or no tensor.
            ArgumentError: ids on another device.
        """
        if calls.at_hand(input):
            rows = calls.rows(self._opened, self.table, input, self._blank)
        elif input.layout is torch.jagged:
            return self._nested(input)
        else:
            rows = ops.embedding(input, self.digest, self.table, self.embedding_dim, self._blank)
        return rows if self.dtype is torch.float32 else rows.to(self.dtype)

    def _nested(self, ids: Any) -> Tensor:
        parts = ids.offsets(), ids.lengths()
        return torch.nested.nested_tensor_from_jagged(self(ids.values()), *parts)


class EmbeddingBag(TableModule):
    """`torch.nn.EmbeddingBag` over a table of a store.

    Args:
        store: open, or a path.
        table: its name in the store.
        mode: `sum`, `mean` or `max`.
        include_last_offset: offsets are (bags + 1,), as torch's.
        padding_idx: rows of this id are left out of bags and not counted.
        dtype: of the bags it gives.
        max_norm, scale_grad_by_freq, sparse: torch's, refused: rows are as they are stored, and
            have no gradients.
        threads: how many may work on a large lookup.

    Raises:
        UnknownTableError: no such table.
        ArgumentError: padding_idx outside the table, an unknown mode, or an option of those
            refused.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        table: str,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        max_norm: float | None = None,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        threads: int = 1,
    ) -> None:
        refuse_options(max_norm, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)
        arguments.check_choice("mode", mode, tuple(kernels.POOLS))
        super().__init__(store, table, padding_idx, dtype, threads)
        self.mode: Any = mode
        self.include_last_offset = include_last_offset
        self._left_out = -1 if self.padding_idx is None else self.padding_idx

    def forward(
        self,
        input: Tensor,  # noqa: A002 - torch's name
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Pooled rows of bags.

        Args:
            input: int32 or int64, (n,) with offsets, (bags, ids a bag) without; or nested.
            offsets: int32 or int64 (bags,), or (bags + 1,) with `include_last_offset`.
            per_sample_weights: of the input's shape, with mode `sum` only; they may have
                gradients, rows don't.

        Returns:
            (bags, embedding_dim).

        Raises:
            IdError: an id outside the table.
            DtypeError: ids, offsets or weights of another dtype, or no tensors.
            ArgumentError: shapes, offsets or weights that don't fit, or on another device.
        """
        weights, last = per_sample_weights, self.include_last_offset
        if weights is not None:
            weights = self._checked(weights)
        if calls.at_hand(input) and not gradients.wanted(weights):
            options = self.mode, last, self._left_out
            bags = calls.bags(self._opened, self.table, input, offsets, weights, *options)
        else:
            bags = self._traced(input, offsets, weights, last)
        return bags if self.dtype is torch.float32 else bags.to(self.dtype)

    def _traced(self, ids: Any, offsets: Tensor | None, weights: Any, last: bool) -> Tensor:
        if ids.layout is torch.jagged:  # no `is_nested`: fx traces no branches on values
            if offsets is not None:
                raise ArgumentError("nested ids are bags of themselves: no offsets then")
            if weights is not None:
                if weights.shape != ids.shape:
                    got, expected = tuple(weights.shape), tuple(ids.shape)
                    raise ArgumentError("per_sample_weights", got=got, expected=expected)
                weights = weights.values()
            return self._traced(ids.values(), ids.offsets(), weights, last=True)
        named = self.digest, self.table, self.embedding_dim, self.mode, last, self._left_out
        if not gradients.wanted(weights):
            return ops.embedding_bag(ids, offsets, weights, *named)
        layout: gradients.Layout = (self.digest, [self.table], [], 1, last, self._left_out)
        return gradients.weighted_bags(ops.embedding_bag, ids, offsets, weights, named, layout)

    def _checked(self, weights: Tensor) -> Tensor:
        """Weights as float32, which rows are."""
        dtype = getattr(weights, "dtype", type(weights).__name__)
        if dtype != self.dtype:
            raise DtypeError("per_sample_weights", got=dtype, expected=self.dtype)
        if self.mode != "sum":
            raise ArgumentError("per_sample_weights go with mode 'sum' only", got=self.mode)
        return weights.float()

    def extra_repr(self) -> str:
        """Size, mode, table and store, in brackets behind the module's name."""
        last = ", include_last_offset=True" if self.include_last_offset else ""
        return f"{super().extra_repr()}, mode={self.mode!r}{last}"


def refuse_options(
    max_norm: float | None, *, scale_grad_by_freq: bool = False, sparse: bool = False
) -> None:
    """Refuse options of torch that change rows, or their gradients."""
    if max_norm is not None:
        remedy = "a store's rows are read-only: renormalise them before conversion"
        raise ArgumentError("max_norm is not to be had", got=max_norm, remedy=remedy)
    for name, value in (("scale_grad_by_freq", scale_grad_by_freq), ("sparse", sparse)):
        if value:
            remedy = "it is about gradients, and a store's rows have none: leave it out"
            raise ArgumentError(f"{name} is not to be had", got=value, remedy=remedy)


def _blank(table: Table, padding: int | None, zeros: bool | None) -> int:
    """The id that must be answered by zeros, which are not what the store has for it; -1: none."""
    if padding is None or zeros is False or not table.lookup([padding]).any():
        return -1
    return padding if zeros or _encoding_of(table, padding) == "constant" else -1


def _encoding_of(table: Table, row: int) -> str:
    if len(table.tiers) == 1:
        return table.tiers[0].encoding.name
    rowmap = table.rowmap
    assert rowmap is not None
    block = row // ROWS_PER_BLOCK
    tiers = kernels.rowmap_tiers(rowmap[block : block + 1])
    return table.tiers[int(tiers[row % ROWS_PER_BLOCK])].encoding.name
