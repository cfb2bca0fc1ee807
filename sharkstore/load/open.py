"""Open a store: its document read, its arrays mapped or copied.

Spec: "For implementers: reading".
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.errors import CorruptStoreError
from sharkstore.format import validate
from sharkstore.format.layout import ArraySpec
from sharkstore.format.metadata import TableMetadata, TierMetadata
from sharkstore.load import arguments, pread, residency
from sharkstore.load.files import read_current, read_document
from sharkstore.load.io import KNOWN, Io, choose
from sharkstore.load.mapping import Memory, map_array
from sharkstore.load.store import Store
from sharkstore.load.table import Bounds, Table

Take = Callable[[int, ArraySpec], NDArray[np.uint8]]


def open_store(
    path: str | os.PathLike[str],
    io: Io | Mapping[str, Io] = "auto",
    *,
    bounds: Bounds = "raise",
    max_resident: int | None = None,
) -> Store:
    """Open a store for lookups. Reads one small file, and the rows of tables held in memory.

    Args:
        path: the store's directory.
        io: `mmap` maps the chunk files, so that processes share one page cache, and leaves
            reading to the system; `ram` copies them into memory; `pread` keeps them open and
            reads rows as they are needed, so that none count as this process's memory, and files
            cut short are an error (row maps and codebooks are copied); `auto` copies small
            tables, maps others, and asks for their cold rows ahead of the use. Or by names and
            patterns of tables: `{"emb.user": "ram", "*": "mmap"}`. `stats()` tells what was
            decided.
        bounds: what a lookup does with ids outside a table: `raise`, or `default` for the
            table's default row (zeros unless the store has another), counted in `stats()`.
        max_resident: the most bytes of tables that this process holds: row maps, codebooks,
            tables in memory, and mapped rows, of which pages are let go of, those of the fewest
            bits a value first. The page cache is the system's and does not count. Mapped rows
            are not on huge pages then.

    Raises:
        ArgumentError: an option that isn't known; an io for no table; too small a max_resident.
        StoreNotFoundError: nothing there.
        FormatError: not a store, or its documents break the format.
        VersionError: of a newer major version.
        CorruptStoreError: a chunk file is missing or of wrong size.
        OpenFilesError: `pread` of more chunk files than the process may have open.
    """
    if not isinstance(io, Mapping):
        arguments.check_choice("io", io, KNOWN)
    else:
        io = dict(io)
    arguments.check_choice("bounds", bounds, arguments.BOUNDS)
    root = os.fsdecode(path)
    limit = residency.as_limit(max_resident)
    return read_current(root, lambda folder: _open(folder, root, io, bounds, limit))


def _open(
    folder: int,
    root: str,
    io: Io | Mapping[str, Io],
    bounds: Bounds,
    max_resident: int | None,
) -> Store:
    metadata = validate.parse(read_document(folder, root)[1], root)
    choices = choose(metadata.tables, io, max_resident)
    copied = [table.nbytes for table in metadata.tables if choices[table.name].io == "ram"]
    memory = Memory(sum(copied))
    takes: dict[str, Take] = {
        "ram": memory.copy_array,
        "mmap": map_array,
        "pread": functools.partial(pread.copy_array, memory=memory),
    }
    take_dense = takes[io] if io in ("ram", "pread") else map_array
    try:
        tables = {
            table.name: Table(table, _view(folder, table, takes, choices[table.name].io), bounds)
            for table in metadata.tables
        }
        dense = {
            entry.name: _typed(take_dense(folder, entry.array), entry.array)
            for entry in metadata.dense
        }
    except CorruptStoreError as error:
        error.args = (f"{os.path.basename(os.path.abspath(root))}/{error}",)
        raise
    budget = residency.watch(tables, choices, max_resident)
    held = residency.Held(io, choices, max_resident, budget, residency.may_tell(folder))
    # other processes, and copies, open the store again by its path
    reopen = functools.partial(
        open_store, os.path.abspath(root), io, bounds=bounds, max_resident=max_resident
    )
    return Store(root, metadata, tables, dense, held, reopen)


def _view(
    folder: int, table: TableMetadata, takes: Mapping[str, Take], io: str
) -> kernels.TableView:
    take = takes[io]
    tiers = tuple(_tier(folder, tier, take, read=io == "pread") for tier in table.tiers)
    rowmap = None if table.rowmap is None else take(folder, table.rowmap)
    default = np.zeros(table.dim, np.float32)
    if table.default is not None:
        default = map_array(folder, table.default).view("<f4")[0].copy()
    return kernels.TableView(table.rows, table.dim, tiers, rowmap, default)


def _tier(folder: int, tier: TierMetadata, take: Take, *, read: bool) -> kernels.Tier:
    codebook = None if tier.codebook is None else _typed(take(folder, tier.codebook), tier.codebook)
    if not read:
        return kernels.Tier(tier.encoding, tier.rows, take(folder, tier.array), codebook)
    nothing = np.empty((0, tier.array.row_bytes), np.uint8)
    files = pread.open_array(folder, tier.array)
    return kernels.Tier(tier.encoding, tier.rows, nothing, codebook, files)


def _typed(rows: NDArray[np.uint8], spec: ArraySpec) -> NDArray[Any]:
    """The values of an array, given its bytes (rows, row bytes)."""
    return rows.reshape(-1).view(spec.dtype).reshape(spec.shape)
