"""Operators that a compiled or exported program calls: a store by digest, tables by name.

Each has a fake kernel, so that shapes are known without a store; `sharkstore.nn.bind` says which
open store the digest stands for when the program runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sharkstore.errors import ArgumentError
from sharkstore.load.request import Mode
from sharkstore.nn import calls
from sharkstore.nn.bound import Opened, find


def _embedding(ids: Tensor, store: str, table: str, dim: int, blank: int) -> Tensor:
    calls.check_device(ids)
    return calls.rows(_of_dim(store, table, dim), table, ids, blank)


def _embeddings(
    values: Tensor, counts: Sequence[int], store: str, tables: Sequence[str], dim: int
) -> Tensor:
    calls.check_device(values)
    found = find(store)
    sums: list[Mode] = ["sum"] * len(tables)
    request = found.request(tuple(tables), tuple(sums))
    _check_dims(request.dims, (dim,) * len(tables), tables)
    return calls.request_rows(request, found.threads, values, counts)


def _embedding_bag(
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    store: str,
    table: str,
    dim: int,
    mode: Mode,
    include_last_offset: bool,
    padding_idx: int,
) -> Tensor:
    calls.check_device(ids)
    found = _of_dim(store, table, dim)
    return calls.bags(found, table, ids, offsets, weights, mode, include_last_offset, padding_idx)


def _embedding_bags(
    values: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    store: str,
    tables: Sequence[str],
    dims: Sequence[int],
    modes: Sequence[Mode],
    positions: Sequence[int],
    keys: int,
    batch: int,
) -> Tensor:
    calls.check_device(values)
    found = find(store)
    request = found.request(tuple(tables), tuple(modes))
    _check_dims(request.dims, tuple(dims), tables)
    given = values, offsets, weights
    return calls.request_bags(request, found.threads, *given, positions, keys, batch)


def _fake_embedding(ids: Tensor, _store: str, _table: str, dim: int, _blank: int) -> Tensor:
    return ids.new_empty((*ids.shape, dim), dtype=torch.float32)


def _fake_embeddings(
    values: Tensor, _counts: Sequence[int], _store: str, _tables: Sequence[str], dim: int
) -> Tensor:
    return values.new_empty((values.shape[0], dim), dtype=torch.float32)


def _fake_embedding_bag(
    ids: Tensor,
    offsets: Tensor | None,
    _weights: Tensor | None,
    _store: str,
    _table: str,
    dim: int,
    _mode: str,
    include_last_offset: bool,
    _padding_idx: int,
) -> Tensor:
    bags = ids.shape[0] if offsets is None else offsets.shape[0] - include_last_offset
    return ids.new_empty((bags, dim), dtype=torch.float32)


def _fake_embedding_bags(
    values: Tensor,
    _offsets: Tensor,
    _weights: Tensor | None,
    _store: str,
    _tables: Sequence[str],
    dims: Sequence[int],
    _modes: Sequence[str],
    _positions: Sequence[int],
    _keys: int,
    batch: int,
) -> Tensor:
    return values.new_empty((batch, sum(dims)), dtype=torch.float32)


def _of_dim(store: str, table: str, dim: int) -> Opened:
    found = find(store)
    _check_dims((found.store[table].dim,), (dim,), [table])
    return found


def _check_dims(got: tuple[int, ...], expected: tuple[int, ...], tables: Sequence[str]) -> None:
    if got != expected:
        told = ", ".join(map(repr, tables[:4]))
        raise ArgumentError("another dim", where=f"table {told}", got=got, expected=expected)


def define(
    name: str, schema: str, run: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """An operator of torch.

    Args:
        schema: its arguments and results.
        run: what it does.
        fake: gives results of the right shape and dtype only.
    """
    # `custom_op` would take three times as long a call: it wraps a kernel for mutation and autograd
    whole = f"sharkstore::{name}"
    torch.library.define(whole, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(whole, "default", run)
    torch.library.register_fake(whole, fake)
    op: Callable[..., Tensor] = getattr(torch.ops.sharkstore, name).default
    return op


embedding = define(
    "embedding",
    "(Tensor ids, str store, str table, int dim, int blank) -> Tensor",
    _embedding,
    _fake_embedding,
)
embeddings = define(
    "embeddings",
    "(Tensor values, SymInt[] counts, str store, str[] tables, int dim) -> Tensor",
    _embeddings,
    _fake_embeddings,
)
embedding_bag = define(
    "embedding_bag",
    "(Tensor ids, Tensor? offsets, Tensor? weights, str store, str table, int dim, str mode,"
    " bool include_last_offset, int padding_idx) -> Tensor",
    _embedding_bag,
    _fake_embedding_bag,
)
embedding_bags = define(
    "embedding_bags",
    "(Tensor values, Tensor offsets, Tensor? weights, str store, str[] tables, int[] dims,"
    " str[] modes, int[] positions, int keys, SymInt batch) -> Tensor",
    _embedding_bags,
    _fake_embedding_bags,
)
