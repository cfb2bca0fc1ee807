"""Requests: a batch's ids for many tables, and what answers to them must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import memory
from benchmarks.check import Wanted, WrongAnswerError
from benchmarks.data import CHECKPOINT, F32, I64, data_at, draw, store_in, write_folder
from benchmarks.ours import view_of
from benchmarks.timing import Contender
from sharkstore.kernels import reference
from sharkstore.load.store import Store

# ids, and views of them by table, that requests in rotation have together
IDS, VIEWS = 1_000_000, 100_000
WATCHED = 4096  # ids of each table before anybody is timed
CHECKED = 16  # samples at each end of a request


@dataclass(frozen=True)
class Model:
    """Tables of one size: a checkpoint, and stores of it.

    Args:
        rows: of each table.
    """

    folder: Path
    tables: int
    rows: int
    dim: int

    @property
    def title(self) -> str:
        return f"{self.tables} tables of {self.rows:,} × {self.dim}"

    @property
    def names(self) -> tuple[str, ...]:
        """The tables, as `replace_embeddings` looks for those of a `ModuleList` named emb."""
        return tuple(f"emb.{table}.weight" for table in range(self.tables))

    @property
    def values(self) -> F32:
        """All tables in float32, mapped: (tables, rows, dim)."""
        shape = (self.tables, self.rows, self.dim)
        return memory.map_file(self.folder / CHECKPOINT, shape, np.float32, data_at(self.tables))

    def store(self, tiers: str) -> Path:
        """A store of the tables, converted on first use."""
        return store_in(self.folder, tiers)


def generate(root: Path, tables: int, rows: int, dim: int) -> Model:
    """Make tables under a folder, unless they are there."""
    model = Model(root / f"{tables}x{rows}x{dim}", tables, rows, dim)
    if not (model.folder / CHECKPOINT).exists():
        write_folder(model.folder, model.names, rows, dim)
    return model


@dataclass(frozen=True)
class Requests:
    """Requests in rotation: of `pooled` ids for each sample and table.

    Args:
        ids: int64 (tables * batch * pooled,), one array a request: all ids of table 0 first.
    """

    model: Model
    distribution: str
    batch: int
    pooled: int
    ids: tuple[I64, ...]

    @property
    def bags(self) -> int:
        return self.model.tables * self.batch

    @cached_property
    def offsets(self) -> I64:
        """Of all bags: (tables * batch + 1,)."""
        return np.arange(self.bags + 1, dtype=np.int64) * self.pooled

    @cached_property
    def starts(self) -> I64:
        """Of one table's bags: (batch + 1,)."""
        return self.offsets[: self.batch + 1]

    def split(self, ids: Any) -> list[Any]:
        """A request's ids by table: views."""
        each = self.batch * self.pooled
        return [ids[at : at + each] for at in range(0, len(ids), each)]


def make_requests(
    model: Model, distribution: str, batch: int, pooled: int, most: int = 4096
) -> Requests:
    """Draw requests: so many, or fewer large ones, that rows don't stay in the inner caches."""
    size = model.tables * batch * pooled
    count = max(1, min(IDS // size, VIEWS // model.tables, most))
    ids = draw(distribution, model.rows, count * size).reshape(count, size)
    return Requests(model, distribution, batch, pooled, tuple(ids))


def make_present(store: Store) -> str:
    """Bring a store's rows in; how the largest array lies in memory."""
    store.warm()
    for table in store.values():  # until then they are taken for cold: see `Watch` in cold.h
        table.lookup(np.arange(WATCHED) % table.rows)
    arrays = [tier.data for table in store.values() for tier in view_of(table).tiers]
    for array in arrays:
        memory.make_present(array)
    return memory.pages(max(arrays, key=lambda array: array.nbytes))


@dataclass(frozen=True, slots=True)
class Truth:
    """What answers must be.

    Args:
        store: for the numpy reference.
    """

    model: Model
    store: Store

    def check(self, contenders: Sequence[Contender], requests: Requests) -> None:
        """Run every contender on the last and the first request, and look at both ends of each.

        Raises:
            WrongAnswerError: naming who was wrong, and where.
        """
        for index in dict.fromkeys((len(requests.ids) - 1, 0)):
            wanted = self._wanted(requests, index)
            for contender in contenders:
                if contender.claim.of == "bytes":
                    continue
                contender.prepare()
                _compare(contender, contender.lanes[0](index), requests, wanted)

    def _wanted(self, requests: Requests, index: int) -> list[Wanted]:
        samples = _ends(requests.batch)
        offsets = np.arange(len(samples) + 1, dtype=np.int64) * requests.pooled
        found = []
        for name, values, given in zip(
            self.model.names, self.model.values, requests.split(requests.ids[index]), strict=True
        ):
            ids = given.reshape(requests.batch, requests.pooled)[samples].reshape(-1)
            source = values[ids]
            stored = np.empty_like(source)
            reference.lookup(view_of(self.store[name]), ids, stored)
            shape = (len(samples), self.model.dim)
            found.append(Wanted(shape, offsets, source, stored))
        return found


def _compare(contender: Contender, got: Any, requests: Requests, wanted: Sequence[Wanted]) -> None:
    tables, shape = requests.model.tables, (requests.batch, requests.model.dim)
    if not isinstance(got, list):
        whole = np.asarray(got)
        if whole.shape != (shape[0], tables * shape[1]):
            raise WrongAnswerError(f"{contender.name}: {whole.shape} for {tables} tables {shape}")
        got = np.split(whole, tables, axis=1)
    if len(got) != tables or any(tuple(one.shape) != shape for one in got):
        raise WrongAnswerError(f"{contender.name}: not {tables} tables {shape}")
    for part, one in zip(got, wanted, strict=True):
        one.compare(contender, np.ascontiguousarray(np.asarray(part)[_ends(requests.batch)]))


def _ends(batch: int) -> I64:
    """Samples at both ends of a request."""
    samples = np.arange(batch)
    return samples if batch <= 2 * CHECKED else np.r_[samples[:CHECKED], samples[-CHECKED:]]
