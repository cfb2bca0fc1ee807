"""Open a store and hold its tables.

Spec: "For implementers: reading".
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.errors import ClosedError, FormatError, StoreNotFoundError, UnknownTableError
from sharkstore.format import validate
from sharkstore.format.layout import ROOT_DOCUMENT
from sharkstore.format.metadata import StoreMetadata, TableMetadata
from sharkstore.load import arguments
from sharkstore.load.mapping import map_array
from sharkstore.load.table import Bounds, Table, table_stats

Io = Literal["auto", "mmap", "ram"]


class Store(Mapping[str, Table]):
    """An open store: a mapping from table names to tables, and a context manager."""

    def __init__(
        self,
        path: str,
        metadata: StoreMetadata,
        tables: dict[str, Table],
        dense: dict[str, NDArray[Any]],
        io: str,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self._tables = tables
        self._dense = dense
        self._io = io
        self._closed = False

    @property
    def nbytes(self) -> int:
        """Bytes of all tables: rows and row maps."""
        return self.metadata.nbytes

    @property
    def dense(self) -> Mapping[str, NDArray[Any]]:
        """The parameters that are not tables: read-only arrays by name.

        Raises:
            ClosedError: the store was closed.
        """
        if self._closed:
            raise ClosedError("the store was closed", where=self.path)
        return MappingProxyType(self._dense)

    def stats(self) -> dict[str, Any]:
        """How the store is held, and what was counted: bytes, ids out of bounds by table."""
        tables = {name: table_stats(table) for name, table in self._tables.items()}
        return {"io": self._io, "bytes": self.nbytes, "tables": tables}

    def close(self) -> None:
        """Unmap. Lookups that run in other threads end well; later ones raise ClosedError."""
        self._closed = True
        self._dense = {}
        for table in self._tables.values():
            table.close()

    def __getitem__(self, name: str) -> Table:
        try:
            return self._tables[name]
        except KeyError:
            self._unknown(name)

    def _unknown(self, name: object) -> NoReturn:
        if name in self.metadata.dropped:
            raise UnknownTableError(f"table {name!r} was dropped at conversion", where=self.path)
        near = difflib.get_close_matches(str(name), self._tables, n=3)
        raise UnknownTableError(
            f"no table {name!r}",
            where=self.path,
            remedy=f"did you mean {', '.join(near)}?" if near else "store.keys() lists the tables",
        ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self)} tables, {self.nbytes:,} bytes"
        return f"<sharkstore.Store {self.path!r}: {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_store(path: str | os.PathLike[str], io: Io = "auto", *, bounds: Bounds = "raise") -> Store:
    """Open a store for lookups. Reads one small file; touches no data pages.

    Args:
        path: the store's directory.
        io: `mmap` maps the chunk files, so that processes share one page cache; `ram` copies
            them into memory; `auto` maps.
        bounds: what a lookup does with ids outside a table: `raise`, or `default` for the
            table's default row (zeros unless the store has another), counted in `stats()`.

    Raises:
        StoreNotFoundError: nothing there.
        FormatError: not a store, or its documents break the format.
        VersionError: of a newer major version.
        CorruptStoreError: a chunk file is missing or of wrong size.
    """
    arguments.check_choice("io", io, ("auto", "mmap", "ram"))
    arguments.check_choice("bounds", bounds, arguments.BOUNDS)
    root = os.fsdecode(path)
    metadata = read_metadata(root)
    copy = io == "ram"
    tables = {
        table.name: Table(table, _view(root, table, copy=copy), bounds) for table in metadata.tables
    }
    dense = {
        entry.name: _map(root, entry.array, copy=copy)
        .view(entry.array.dtype)
        .reshape(entry.array.shape)
        for entry in metadata.dense
    }
    return Store(root, metadata, tables, dense, "ram" if copy else "mmap")


def read_metadata(root: str) -> StoreMetadata:
    """Read and check the root document.

    Raises:
        StoreNotFoundError, FormatError, VersionError: as `open_store`.
    """
    return validate.parse(read_document(root)[1], root)


def read_document(root: str) -> tuple[bytes, object]:
    """The root document, as bytes and as JSON."""
    try:
        with open(os.path.join(root, ROOT_DOCUMENT), "rb") as file:
            raw = file.read()
    except OSError as error:
        if not os.path.exists(root):
            raise StoreNotFoundError("no such store", where=root) from error
        absent = isinstance(error, (FileNotFoundError, NotADirectoryError))
        reason = f"no {ROOT_DOCUMENT} in it" if absent else f"{ROOT_DOCUMENT}: {error.strerror}"
        message = f"not a store: {reason}"
        raise FormatError(message, where=root) from error
    try:
        return raw, json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = f"{ROOT_DOCUMENT} is not JSON: {error}"
        raise FormatError(message, where=root, remedy="copy or convert again") from error


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _view(root: str, table: TableMetadata, *, copy: bool) -> kernels.TableView:
    tiers = tuple(
        kernels.Tier(tier.encoding, tier.rows, _map(root, tier.array, copy=copy))
        for tier in table.tiers
    )
    rowmap = None if table.rowmap is None else _map(root, table.rowmap, copy=copy)
    default = np.zeros(table.dim, np.float32)
    if table.default is not None:
        default = map_array(root, table.default).view("<f4")[0].copy()
    return kernels.TableView(table.rows, table.dim, tiers, rowmap, default)


def _map(root: str, spec: Any, *, copy: bool) -> NDArray[np.uint8]:
    mapped = map_array(root, spec)
    if not copy:
        return mapped
    held = mapped.copy()
    held.flags.writeable = False
    return held
