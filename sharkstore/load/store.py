"""An open store and its tables."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self

from numpy.typing import ArrayLike, NDArray

import sharkstore.kernels as kernels
from sharkstore.errors import (
    ArgumentError,
    ClosedError,
    UnknownTableError,
)
from sharkstore.format.metadata import StoreMetadata
from sharkstore.load import residency
from sharkstore.load.pages import huge_pages
from sharkstore.load.request import F32, Modes, Paddings, Request, Requests
from sharkstore.load.table import Bounds, Table


class Store(Mapping[str, Table]):
    """An open store: a mapping from table names to tables, and a context manager."""

    def __init__(
        self,
        path: str,
        metadata: StoreMetadata,
        tables: dict[str, Table],
        dense: dict[str, NDArray[Any]],
        memory: residency.Held,
        reopen: Callable[[], Store],
    ) -> None:
        self.path = path
        self.metadata = metadata
        self._tables = tables
        self._dense = dense
        self._memory = memory
        self._reopen = reopen
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
            `io`: as it was asked for; `kernel`: the kernels in use; `bytes`: of all tables;
            `huge_pages`: bytes of the large arrays in memory, and on huge pages, with a note
            where they are not; `resident`: bytes of stored rows, `rss` in the process's memory:
            `ram` of its own and `mapped` files in its page tables; `cached` in the page cache
            (None where the system does not tell), the `limit`, and what was `dropped` to keep it;
            `major_faults`: of this process, since it began; `tables`: by name, bytes, how it is
            held and why, what was looked up, ids out of bounds, and its tiers.
        """
        arrays = [array for table in self._tables.values() for array in table.arrays]
        return {
            "io": self._memory.io,
            "kernel": kernels.backend(),
            "bytes": self.nbytes,
            "huge_pages": huge_pages(arrays),
            **residency.told(self._tables, self._memory),
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

    def warm(
        self,
        tables: Iterable[str] | None = None,
        tiers: Iterable[str] | None = None,
        progress: residency.Progress | None = None,
    ) -> int:
        """Read tables that are mapped, or read from files, into memory, in large steps.

        Args:
            tables: names; all when left out.
            tiers: names of encodings, such as `f32`, for the rows stored so; all when left out,
                row maps and codebooks too.
            progress: called with the bytes of each step.

        Returns:
            Bytes of what was asked for. With `max_resident` they are in the page cache, or on
            their way there; else in memory and mapped. Tables of `pread` are in the page cache.

        Raises:
            UnknownTableError: no such table.
            ArgumentError: a text where names are expected, or a tier that no table has.
            ClosedError: the store was closed.
            CorruptStoreError: a file of a table of `pread` can't be read.
        """
        if self._closed:
            raise ClosedError("the store was closed", where=self.path)
        names = self._tables if tables is None else residency.names("tables", tables)
        return residency.warm([self[name] for name in names], self._memory, tiers, progress)

    def close(self) -> None:
        """Unmap. Lookups that run in other threads end well; later ones raise ClosedError."""
        self._closed = True
        self._dense = {}
        self._requests.close()
        self._memory = self._memory.closed()
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
        return self._reopen, ()

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
