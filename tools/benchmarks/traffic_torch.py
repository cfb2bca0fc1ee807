"""Requests answered by torch: modules over a store, torch's own tables, quantised ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import memory
from benchmarks.ours import STORED
from benchmarks.peers_torch import ALLOCATES, BYTE, DTYPES, EXACT, set_threads
from benchmarks.timing import Claim, Contender, Effort, Lane, best_of
from benchmarks.traffic import Model, Requests
from sharkstore.load.store import Store
from sharkstore.nn import EmbeddingBagCollection, TableFeatures, replace_embeddings

COLLECTION, REPLACED = "nn.EmbeddingBagCollection", "replace_embeddings"
FLOATS, QUANTISED = "nn.EmbeddingBag fp32", "quantized.embedding_bag_byte"

# contenders on any requests, on a number of torch's threads
Make = Callable[[Requests, int], list[Contender]]
# a lane, given ids by request and offsets in one dtype
Lanes = Callable[[Requests, Sequence[torch.Tensor], torch.Tensor], Lane]


class Tables(nn.Module):
    """A module for each table."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.emb = nn.ModuleList(modules)

    def forward(self, ids: Sequence[torch.Tensor], starts: torch.Tensor) -> list[torch.Tensor]:
        """Each table's bags."""
        return [one(some, starts) for one, some in zip(self.emb, ids, strict=True)]


def float_tables(model: Model) -> Tables:
    """A model's tables in torch, in memory on huge pages."""
    held = memory.huge(model.values.shape, np.float32)
    held[:] = model.values
    modules = []
    for values in held:
        weight = torch.from_numpy(values)
        modules.append(
            nn.EmbeddingBag.from_pretrained(weight, mode="sum", include_last_offset=True)
        )
    return Tables(modules).eval()


def replaced_tables(model: Model, store: Store) -> Tables:
    """The same modules over a store."""
    empty = torch.empty(model.rows, model.dim)
    one = partial(nn.EmbeddingBag.from_pretrained, empty, mode="sum", include_last_offset=True)
    tables = Tables([one() for _ in model.names]).eval()
    replaced = replace_embeddings(tables, store)
    assert len(list(replaced)) == model.tables
    return tables


def collection(model: Model, store: Store) -> EmbeddingBagCollection:
    """The collection over a store."""
    return EmbeddingBagCollection(store, [TableFeatures(name, (name,)) for name in model.names])


def ours(model: Model, store: Store, note: str, _effort: Effort) -> Make:
    """Modules over a store."""
    together, replaced = collection(model, store), replaced_tables(model, store)

    def make(requests: Requests, threads: int) -> list[Contender]:
        ids = [torch.from_numpy(one) for one in requests.ids]
        offsets, starts = torch.from_numpy(requests.offsets), torch.from_numpy(requests.starts)
        split = [requests.split(one) for one in ids]
        lanes: list[tuple[str, Lane]] = [
            (COLLECTION, lambda i: together(together.features, ids[i], offsets)),
            (REPLACED, lambda i: replaced(split[i], starts)),
        ]
        said, prepare = f"{note}, {ALLOCATES}", partial(set_threads, threads)
        return [Contender(name, (lane,), 1, STORED, said, prepare) for name, lane in lanes]

    return make


def floats(model: Model, _store: Store, _note: str, effort: Effort) -> Make:
    """nn.EmbeddingBag a table."""
    tables = float_tables(model)
    weight: Any = tables.emb[0].weight
    return maker(FLOATS, _by_table(tables), EXACT, memory.pages(weight.numpy()), effort)


def quantised(model: Model, _store: Store, _note: str, effort: Effort) -> Make:
    """torch's bags of int8 rows, a table a call."""
    ops = torch.ops.quantized
    width = model.dim + 8
    held = memory.huge((model.tables, model.rows, width), np.uint8)
    for rows, values in zip(held, model.values, strict=True):
        rows[:] = ops.embedding_bag_byte_prepack(torch.from_numpy(values.copy())).numpy()
    packed = [torch.from_numpy(rows) for rows in held]
    bags = partial(ops.embedding_bag_byte_rowwise_offsets, mode=0, include_last_offset=True)

    def answer(ids: Sequence[torch.Tensor], starts: torch.Tensor) -> list[torch.Tensor]:
        return [bags(rows, some, starts) for rows, some in zip(packed, ids, strict=True)]

    return maker(QUANTISED, _by_table(answer), BYTE, memory.pages(held), effort)


def _by_table(answer: Callable[[Any, torch.Tensor], Any]) -> Lanes:
    """A list of bags by table: neither joined nor copied."""

    def lanes(requests: Requests, ids: Sequence[torch.Tensor], offsets: torch.Tensor) -> Lane:
        split = [requests.split(one) for one in ids]
        starts = offsets[: requests.batch + 1]
        return lambda i: answer(split[i], starts)

    return lanes


def maker(name: str, lanes: Lanes, claim: Claim, note: str, effort: Effort) -> Make:
    """A peer, at the better of ids of 64 and of 32 bits."""

    def make(requests: Requests, threads: int) -> list[Contender]:
        variants = []
        for spelled, dtype in DTYPES.items():
            ids = [torch.from_numpy(one).to(dtype) for one in requests.ids]
            lane = lanes(requests, ids, torch.from_numpy(requests.offsets).to(dtype))
            said = f"{note}, {spelled} ids, {ALLOCATES}"
            prepare = partial(set_threads, threads)
            variants.append(Contender(name, (lane,), 1, claim, said, prepare))
        return [best_of(variants, Effort(effort.rounds, effort.seconds, len(requests.ids)))]

    return make
