"""The two sides of a comparison: checkpoints and stores, read alike."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import ROWS_PER_BLOCK
from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.format.layout import ROOT_DOCUMENT
from sharkstore.load.open import open_store
from sharkstore.load.store import Store
from sharkstore.readers.files import is_url
from sharkstore.readers.model import Checkpoint
from sharkstore.readers.open import KINDS, open_checkpoint
from sharkstore.tensors import Tensor, as_float32

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


class Side(Protocol):
    """One side.

    Attributes:
        path: as the user named it.
        tensors: all tables and parameters by name; a store's tables are float32.
        tables: which of them are tables, with the encodings of their tiers; None for a
            checkpoint, which does not say.
        dropped: tables that were left out on purpose.
        pruned: tables whose rows are all the mean row.
        left: entries that can't be compared, with the reason.
    """

    path: str
    tensors: Mapping[str, Tensor]
    tables: Mapping[str, tuple[str, ...]] | None
    dropped: Mapping[str, Tensor]
    pruned: frozenset[str]
    left: Mapping[str, str]

    def read(self, name: str) -> NDArray[Any]:
        """A whole parameter as stored, a view where that is possible; bfloat16 as uint16."""

    def rows(self, name: str, start: int, stop: int) -> F32:
        """Rows of a table, float32 (stop - start, dim), contiguous."""

    def tiers(self, name: str, start: int, stop: int) -> U8 | None:
        """Tier of each row, uint8 (stop - start,), `start` a multiple of 64; None: one tier."""


class CheckpointSide:
    """A checkpoint; its tables are read as conversion reads them."""

    def __init__(self, path: str, checkpoint: Checkpoint) -> None:
        self.path = path
        self.tensors = checkpoint.tensors
        self.tables: Mapping[str, tuple[str, ...]] | None = None
        self.dropped: Mapping[str, Tensor] = {}
        self.pruned: frozenset[str] = frozenset()
        self.left = checkpoint.left
        self._checkpoint = checkpoint

    def read(self, name: str) -> NDArray[Any]:
        return self._checkpoint.read(name, 0, self.tensors[name].rows)

    def rows(self, name: str, start: int, stop: int) -> F32:
        block = as_float32(self._checkpoint.read(name, start, stop), self.tensors[name].dtype)
        return np.require(block, np.float32, ["C", "A"])

    def tiers(self, name: str, start: int, stop: int) -> U8 | None:
        """A checkpoint has none."""


class StoreSide:
    """An open store; its tables are read as lookups give them."""

    def __init__(self, path: str, store: Store) -> None:
        self.path = path
        self.tables: Mapping[str, tuple[str, ...]] | None = {
            name: tuple(str(tier.encoding) for tier in table.tiers) for name, table in store.items()
        }
        self.tensors: Mapping[str, Tensor] = {
            **{n: Tensor(n, (table.rows, table.dim), "float32") for n, table in store.items()},
            **{n: Tensor(n, one.shape, one.dtype.name) for n, one in store.dense.items()},
        }
        dropped = store.metadata.dropped
        self.dropped: Mapping[str, Tensor] = {
            name: Tensor(name, shape, "float32") for name, shape in dropped.items()
        }
        self.pruned = frozenset(name for name, table in store.items() if table.pruned)
        self.left: Mapping[str, str] = {}
        self._store = store

    def read(self, name: str) -> NDArray[Any]:
        return self._store.dense[name]

    def rows(self, name: str, start: int, stop: int) -> F32:
        if name in self._store:
            return self._store[name].lookup(np.arange(start, stop))
        tensor = self.tensors[name]
        block = as_float32(self._store.dense[name][start:stop], tensor.dtype)
        return np.require(block, np.float32, ["C", "A"])

    def tiers(self, name: str, start: int, stop: int) -> U8 | None:
        table = self._store.get(name)
        if table is None or len(table.tiers) == 1:
            return None
        blocks = table.arrays[-1][start // ROWS_PER_BLOCK : -(-stop // ROWS_PER_BLOCK)]
        return kernels.rowmap_tiers(blocks)[: stop - start]


def open_side(
    path: str | os.PathLike[str], rank_files: str | None = None, sharded: Sequence[str] = ()
) -> Side:
    """Open a checkpoint or a store.

    Args:
        path: of it, or the checkpoint's URL.
        rank_files: how files of ranks are named, if it is a folder of them; no store has such.
        sharded: globs over keys of rank files that hold a part of a table's rows each.

    Raises:
        CheckpointNotFoundError: nothing there.
        CheckpointError, FormatError, VersionError, CorruptStoreError: neither, or damaged.
    """
    place = os.fsdecode(path)
    if is_url(place):
        files = place.endswith(tuple(KINDS))
        ranks = (None, ()) if files else (rank_files, sharded)
        return CheckpointSide(place, open_checkpoint(place, *ranks))
    if not os.path.exists(place):
        raise CheckpointNotFoundError("no such checkpoint or store", where=place)
    if os.path.exists(os.path.join(place, ROOT_DOCUMENT)):
        return StoreSide(place, open_store(place))
    try:
        if os.path.isdir(place):
            return CheckpointSide(place, open_checkpoint(place, rank_files, sharded))
        return CheckpointSide(place, open_checkpoint(place))
    except CheckpointError as error:
        if os.path.isdir(place):
            error.args = (f"{error}, and no {ROOT_DOCUMENT} of a store",)
        raise
