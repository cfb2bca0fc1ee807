"""`Embedding` and `EmbeddingBag` of torch, their rows in a store."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

import sharkstore.kernels as kernels
from sharkstore.encodings import ROWS_PER_BLOCK
from sharkstore.errors import ArgumentError, DtypeError
from sharkstore.load import arguments
from sharkstore.load.open import open_store
from sharkstore.load.store import Store
from sharkstore.load.table import Table
from sharkstore.nn import calls, ops
from sharkstore.nn.bound import hold

FIXED = "embeddings whose rows are in a store get no gradients: training leaves them as they are"


class StoreModule(nn.Module):
    """A module whose rows are a store's: a path and a digest, no parameters, no state dict.

    Copies share the store. In another process, after pickling, it is opened again by its path,
    and must be the same by its digest. Rows come on the CPU, wherever the model is moved to.

    Args:
        store: open, or a path.
        threads: how many may work on a large lookup. A program that is compiled in this process
            has those of the last module over the store, or what `sharkstore.nn.bind` says.
    """

    def __init__(self, store: Store | str | os.PathLike[str], threads: int = 1) -> None:
        super().__init__()
        self._opened = hold(store if isinstance(store, Store) else open_store(store), threads)

    @property
    def store(self) -> Store:
        """The store that rows come from."""
        return self._opened.store

    @property
    def digest(self) -> str:
        """The store's, by which compiled and exported programs name it."""
        return self._opened.digest

    @property
    def threads(self) -> int:
        """How many may work on a large lookup."""
        return self._opened.threads

    def train(self, mode: bool = True) -> Self:
        """As of any module; warns that rows don't train."""
        if mode:
            warnings.warn(FIXED, UserWarning, stacklevel=2)
        return super().train(mode)

    def _told(self) -> str:
        return f"store={os.path.basename(self.store.path)!r}, digest={self.digest[:15]!r}"


class TableModule(StoreModule):
    """A module over one table.

    Args:
        store: open, or a path.
        table: its name in the store.
        dtype: of what a forward pass gives; `.to(dtype)`, `.half()`, … change it.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        table: str,
        padding_idx: int | None,
        dtype: torch.dtype,
        threads: int,
    ) -> None:
        super().__init__(store, threads)
        found = self.store[table]
        self.table = table
        self.num_embeddings = found.rows
        self.embedding_dim = found.dim
        self.dtype = dtype
        self.padding_idx = padding_idx
        if padding_idx is not None:
            self.padding_idx = arguments.padding_id(padding_idx, found.rows)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # there is no tensor that `.half()` or `.to()` could change: an empty one shows what it does
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            what = f"no weight: rows of {self.table!r} are in the store {self.store.path!r}"
            raise AttributeError(what)
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """Size, table and store, in brackets behind the module's name."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        size = f"{self.num_embeddings}, {self.embedding_dim}{padding}"
        return f"{size}, table={self.table!r}, {self._told()}"


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
            input: int32 or int64, of any shape.

        Returns:
            (*input.shape, embedding_dim).
        """
        if calls.at_hand(input):
            rows = calls.rows(self._opened, self.table, input, self._blank)
        else:
            rows = ops.embedding(input, self.digest, self.table, self.embedding_dim, self._blank)
        return rows if self.dtype is torch.float32 else rows.to(self.dtype)


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
        """
        if per_sample_weights is not None:
            return self._weighed(input, offsets, per_sample_weights)
        return self._pooled(input, offsets, None, self.include_last_offset)

    def _pooled(
        self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None, last: bool
    ) -> Tensor:
        mode, padding = self.mode, self._left_out
        if calls.at_hand(ids):
            bags = calls.bags(self._opened, self.table, ids, offsets, weights, mode, last, padding)
        elif ids.is_nested:
            if offsets is not None:
                raise ArgumentError("nested ids are bags of themselves: no offsets then")
            if weights is not None:
                weights = weights.values()
            nested: Any = ids
            return self._pooled(ids.values(), nested.offsets(), weights, last=True)
        else:
            named = (self.digest, self.table, self.embedding_dim)
            bags = ops.embedding_bag(ids, offsets, weights, *named, mode, last, padding)
        return bags if self.dtype is torch.float32 else bags.to(self.dtype)

    def _weighed(self, ids: Tensor, offsets: Tensor | None, weights: Tensor) -> Tensor:
        if weights.dtype != self.dtype:
            got, expected = weights.dtype, self.dtype
            raise DtypeError("per_sample_weights", got=got, expected=expected)
        if self.mode != "sum":
            raise ArgumentError("per_sample_weights go with mode 'sum' only", got=self.mode)
        if weights.requires_grad and torch.is_grad_enabled():
            return self._differentiable(ids, offsets, weights)
        return self._pooled(ids, offsets, weights.float(), self.include_last_offset)

    def _differentiable(self, ids: Tensor, offsets: Tensor | None, weights: Tensor) -> Tensor:
        """The weighted sums out of torch's own operators, which carry the weights' gradients."""
        if ids.shape != weights.shape:
            got, expected = tuple(weights.shape), tuple(ids.shape)
            raise ArgumentError("per_sample_weights", got=got, expected=expected)
        if self._left_out >= 0:
            weights = weights * (ids != self._left_out)
        look_up = ops.embedding(ids, self.digest, self.table, self.embedding_dim, -1)
        terms = look_up.to(self.dtype) * weights.unsqueeze(-1)
        if offsets is None:
            return terms.sum(dim=1)
        places = torch.arange(ids.shape[0], dtype=offsets.dtype, device=ids.device)
        bag = torch.searchsorted(offsets.contiguous(), places, right=True) - 1
        sums = terms.new_zeros(offsets.shape[0], self.embedding_dim).index_add(0, bag, terms)
        return sums[:-1] if self.include_last_offset else sums

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
    rowmap = table.arrays[-1]
    block = row // ROWS_PER_BLOCK
    tiers = kernels.rowmap_tiers(rowmap[block : block + 1])
    return table.tiers[int(tiers[row % ROWS_PER_BLOCK])].encoding.name
