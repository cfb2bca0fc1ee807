"""The tables of a conversion, opened when they are asked for."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import ROWMAP_BLOCK_BYTES, planes_for
from sharkstore.plan.model import Plan, TablePlan
from sharkstore.plan.stats import Stats
from sharkstore.tensors import Tensor, TensorSource
from sharkstore.write.books import Books, rounded_rows
from sharkstore.write.rows import TableRows

# every row map that is open holds a file descriptor
MOST_OPEN = 16


def rowmap_path(folder: str, index: int) -> str:
    """Where the row map of the plan's table `index` lies until it is in the store."""
    return os.path.join(folder, f"rowmap.{index}")


def has_rowmap(table: TablePlan) -> bool:
    """Whether rows of a table are in several tiers."""
    return table.action == "store" and len(table.tiers) > 1


@dataclass(slots=True)
class Tables(Mapping[str, TableRows]):
    """The rows of a plan's tables, with their row maps. Threads may share it.

    Args:
        folder: of the row maps.
        books: stored codebooks of the pq tiers, by table and index of the tier; None as long as
            no rows are encoded.
        threads: see `TableRows`.
    """

    source: TensorSource
    tensors: Mapping[str, Tensor]
    plan: Plan
    stats: Stats
    folder: str
    books: Mapping[str, Books] | None = None
    threads: int | None = None
    _open: OrderedDict[str, TableRows] = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __getitem__(self, name: str) -> TableRows:
        with self._lock:
            if name not in self._open:
                self._open[name] = self._rows(name)
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            self._open.move_to_end(name)
            return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return (table.name for table in self.plan.tables)

    def __len__(self) -> int:
        return len(self.plan.tables)

    def coded(self, books: Mapping[str, Books]) -> Tables:
        """The same tables with what their codes are made by."""
        return replace(self, books=books)

    def _rows(self, name: str) -> TableRows:
        index, table = next((i, t) for i, t in enumerate(self.plan.tables) if t.name == name)
        zero = self.plan.nonfinite == "zero"
        rowmap = self._rowmap(index, table) if has_rowmap(table) else None
        rows = TableRows(self.source, self.tensors[name], rowmap, zero, threads=self.threads)
        if self.books is None:
            return rows
        return rounded_rows(rows, table, self.stats, self.books.get(name, {}))

    def _rowmap(self, index: int, table: TablePlan) -> NDArray[np.uint8]:
        width = ROWMAP_BLOCK_BYTES[planes_for(len(table.tiers))]
        mapped = np.memmap(rowmap_path(self.folder, index), np.uint8, mode="r")
        return np.asarray(mapped).reshape(-1, width)
