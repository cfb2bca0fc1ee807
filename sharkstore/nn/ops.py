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
from sharkstore.load.table import Table
from sharkstore.nn import calls
from sharkstore.nn.bound import find

SCHEMAS = {
    "embedding": "(Tensor ids, str store, str table, int dim, int blank) -> Tensor",
    "embedding_bag": (
        "(Tensor ids, Tensor? offsets, Tensor? weights, str store, str table, int dim, str mode,"
        " bool include_last_offset, int padding_idx) -> Tensor"
    ),
    "embedding_bags": (
        "(Tensor values, Tensor offsets, Tensor? weights, str store, str[] tables, int[] dims,"
        " str[] modes, int[] positions, int keys, SymInt batch) -> Tensor"
    ),
}


def _embedding(ids: Tensor, store: str, table: str, dim: int, blank: int) -> Tensor:
    calls.check_device(ids)
    return calls.rows(_table(store, table, dim), ids, blank)


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
    found = _table(store, table, dim)
    return calls.bags(found, ids, offsets, weights, mode, include_last_offset, padding_idx)


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
    request = find(store).request(tuple(tables), tuple(modes))
    if request.dims != tuple(dims):
        raise ArgumentError("tables of other dims", got=request.dims, expected=tuple(dims))
    return calls.request_bags(request, values, offsets, weights, positions, keys, batch)


def _fake_embedding(ids: Tensor, _store: str, _table: str, dim: int, _blank: int) -> Tensor:
    return ids.new_empty((*ids.shape, dim), dtype=torch.float32)


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


def _table(store: str, name: str, dim: int) -> Table:
    table = find(store).store[name]
    if table.dim != dim:
        raise ArgumentError("another dim", where=f"table {name!r}", got=table.dim, expected=dim)
    return table


def _define(
    name: str, run: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    # `custom_op` would take three times as long a call: it wraps a kernel for mutation and autograd
    whole = f"sharkstore::{name}"
    torch.library.define(whole, SCHEMAS[name], tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(whole, "default", run)
    torch.library.register_fake(whole, fake)
    op: Callable[..., Tensor] = getattr(torch.ops.sharkstore, name).default
    return op


embedding = _define("embedding", _embedding, _fake_embedding)
embedding_bag = _define("embedding_bag", _embedding_bag, _fake_embedding_bag)
embedding_bags = _define("embedding_bags", _embedding_bags, _fake_embedding_bags)
