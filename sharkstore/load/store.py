"""Open a store and hold its tables.

Spec: "For implementers: reading".
"""

from __future__ import annotations

import difflib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Literal, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

import sharkstore.kernels as kernels
from sharkstore.errors import (
    ArgumentError,
    ClosedError,
    CorruptStoreError,
    FormatError,
    UnknownTableError,
)
from sharkstore.format import validate
from sharkstore.format.layout import ROOT_DOCUMENT, ArraySpec
from sharkstore.format.metadata import StoreMetadata, TableMetadata, TierMetadata
from sharkstore.load import arguments
from sharkstore.load.files import open_regular, read_current
from sharkstore.load.mapping import copy_array, map_array
from sharkstore.load.pages import huge_pages
from sharkstore.load.request import Modes, Paddings, Request, Requests
from sharkstore.load.table import Bounds, Table, table_stats

Io = Literal["auto", "mmap", "ram"]
Take = Callable[[int, ArraySpec], NDArray[np.uint8]]
F32 = NDArray[np.float32]


class Store(Mapping[str, Table]):
    """An open store: a mapping from table names to tables, and a context manager."""

    def __init__(
        self,
        path: str,
        metadata: StoreMetadata,
        tables: dict[str, Table],
        dense: dict[str, NDArray[Any]],
        io: str,
        bounds: Bounds,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self._tables = tables
        self._dense = dense
        self._io = io
        self._bounds = bounds
        self._origin = os.path.abspath(path)
        self._closed = False
        self._requests = Requests()

    @property
    def nbytes(self) -> int:
        """Bytes of all tables: rows, codebooks and row maps."""
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
        """How the store is held, and what was counted.

        Returns:
            `io`: `mmap` or `ram`; `kernel`: the kernels in use; `bytes`: of all tables;
            `huge_pages`: bytes of the large arrays in memory, and on huge pages, with a note
            where they are not; `tables`: by name, bytes and ids out of bounds.
        """
        arrays = [array for table in self._tables.values() for array in table.arrays]
        return {
            "io": self._io,
            "kernel": kernels.backend(),
            "bytes": self.nbytes,
            "huge_pages": huge_pages(arrays),
            "tables": {name: table_stats(table) for name, table in self._tables.items()},
        }

    def request(
        self, keys: Sequence[str], mode: Modes = "sum", padding_idx: Paddings = None
    ) -> Request:
        """Prepare lookups in many tables by one call: see `Request`.

        Args:
            keys: names of tables; one may come again, for another feature.
            mode: `sum`, `mean` or `max`; one for all keys, or one for each.
            padding_idx: for each key the id whose rows are left out of bags, or None.

        Raises:
            UnknownTableError: no such table.
            ArgumentError: no keys, or modes or padding ids that don't fit them.
            ClosedError: the store was closed.
        """
        if self._closed:
            raise ClosedError("the store was closed", where=self.path)
        if isinstance(keys, str):
            raise ArgumentError("keys must be a sequence of names", got=repr(keys))
        request = Request([self[key] for key in keys], mode, padding_idx)
        self._requests.add(request)
        if self._closed:  # by another thread, which may have missed this one
            request.close()
        return request

    def embedding_bags(
        self,
        keys: Sequence[str],
        values: ArrayLike,
        offsets: ArrayLike,
        per_sample_weights: ArrayLike | None = None,
        mode: Modes = "sum",
        out: F32 | None = None,
        *,
        threads: int = 1,
        bounds: Bounds | None = None,
    ) -> F32:
        """Look rows of many tables up and pool them: float32 (batch, sum of the keys' dims).

        Arguments and errors are those of `request` and of a call of what it returns.
        """
        prepared = self._prepared(keys, mode)
        return prepared(values, offsets, per_sample_weights, out, threads=threads, bounds=bounds)

    def lookups(
        self,
        keys: Sequence[str],
        values: ArrayLike,
        offsets: ArrayLike,
        out: F32 | None = None,
        *,
        threads: int = 1,
        bounds: Bounds | None = None,
    ) -> list[F32]:
        """Look rows of many tables up, one for each id: float32 (ids, dim) for each key.

        Arguments and errors are those of `request` and of `Request.lookups`.
        """
        prepared = self._prepared(keys, "sum")
        return prepared.lookups(values, offsets, out, threads=threads, bounds=bounds)

    def _prepared(self, keys: Sequence[str], mode: Modes) -> Request:
        names = keys if isinstance(keys, str) else tuple(keys)
        what = names, tuple(mode) if isinstance(mode, list) else mode
        return self._requests.keep(what, lambda: self.request(names, mode))

    def close(self) -> None:
        """Unmap. Lookups that run in other threads end well; later ones raise ClosedError."""
        self._closed = True
        self._dense = {}
        self._requests.close()
        for table in self._tables.values():
            table.close()

    def __getitem__(self, name: str) -> Table:
        try:
            return self._tables[name]
        except KeyError:
            self._unknown(name)

    def __contains__(self, name: object) -> bool:
        return name in self._tables

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes, and copies, open the store again by its path."""
        if self._closed:
            raise ClosedError("the store was closed", where=self.path)
        reopen = functools.partial(open_store, bounds=self._bounds)
        return reopen, (self._origin, self._io)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self)} tables, {self.nbytes:,} bytes"
        return f"<sharkstore.Store {self.path!r}: {state}>"

    def __enter__(self) -> Self:
        if self._closed:
            raise ClosedError("the store was closed", where=self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_store(path: str | os.PathLike[str], io: Io = "auto", *, bounds: Bounds = "raise") -> Store:
    """Open a store for lookups. Reads one small file, and no rows.

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
    return read_current(root, lambda folder: _open(folder, root, io, bounds))


def _open(folder: int, root: str, io: Io, bounds: Bounds) -> Store:
    metadata = validate.parse(read_document(folder, root)[1], root)
    take = copy_array if io == "ram" else map_array
    try:
        tables = {
            table.name: Table(table, _view(folder, table, take), bounds)
            for table in metadata.tables
        }
        dense = {
            entry.name: _typed(take(folder, entry.array), entry.array) for entry in metadata.dense
        }
    except CorruptStoreError as error:
        error.args = (f"{os.path.basename(os.path.abspath(root))}/{error}",)
        raise
    return Store(root, metadata, tables, dense, "ram" if io == "ram" else "mmap", bounds)


def read_document(folder: int, root: str, path: str = ROOT_DOCUMENT) -> tuple[bytes, object]:
    """A document below a store's folder, as bytes and as JSON.

    Raises:
        FormatError: it is missing, or not JSON.
    """
    try:
        with open_regular(folder, path) as file:
            raw = file.read()
    except FileNotFoundError as error:
        raise FormatError(f"not a store: no {path} in it", where=root) from error
    except OSError as error:
        raise FormatError(f"not a store: {path}: {error.strerror}", where=root) from error
    try:
        return raw, json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = f"{path} is not JSON: {error}"
        raise FormatError(message, where=root, remedy="copy or convert again") from error


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _view(folder: int, table: TableMetadata, take: Take) -> kernels.TableView:
    tiers = tuple(_tier(folder, tier, take) for tier in table.tiers)
    rowmap = None if table.rowmap is None else take(folder, table.rowmap)
    default = np.zeros(table.dim, np.float32)
    if table.default is not None:
        default = map_array(folder, table.default).view("<f4")[0].copy()
    return kernels.TableView(table.rows, table.dim, tiers, rowmap, default)


def _tier(folder: int, tier: TierMetadata, take: Take) -> kernels.Tier:
    codebook = None if tier.codebook is None else _typed(take(folder, tier.codebook), tier.codebook)
    return kernels.Tier(tier.encoding, tier.rows, take(folder, tier.array), codebook)


def _typed(rows: NDArray[np.uint8], spec: ArraySpec) -> NDArray[Any]:
    """The values of an array, given its bytes (rows, row bytes)."""
    return rows.reshape(-1).view(spec.dtype).reshape(spec.shape)
