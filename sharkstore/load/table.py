"""One table of an open store."""

from __future__ import annotations

import threading
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

import sharkstore.kernels as kernels
from sharkstore.errors import ArgumentError, ClosedError, CorruptStoreError
from sharkstore.format.metadata import TableMetadata, TierMetadata
from sharkstore.load import arguments, pread

F32 = NDArray[np.float32]
Bounds = Literal["raise", "default"]


class Table:
    """Rows of an embedding table, dequantised as they are looked up.

    Safe to use from many threads and after a fork. A lookup that runs while the store is
    closed in another thread ends well: the mapping lives until it returns.
    """

    def __init__(self, metadata: TableMetadata, view: kernels.TableView, bounds: Bounds) -> None:
        self.metadata = metadata
        self._view: kernels.TableView | None = view
        self._native: Any = kernels.bind(view)
        self._dim = view.dim
        self._bounds = bounds
        # by thread, so that counting needs no lock, which a fork could leave taken
        self._out_of_bounds: dict[int, int] = {}

    @property
    def name(self) -> str:
        """The checkpoint's key."""
        return self.metadata.name

    @property
    def rows(self) -> int:
        """Number of rows: ids run from 0 to `rows - 1`."""
        return self.metadata.rows

    @property
    def dim(self) -> int:
        """Values a row."""
        return self.metadata.dim

    @property
    def tiers(self) -> tuple[TierMetadata, ...]:
        """The tiers, with encoding and rows."""
        return self.metadata.tiers

    @property
    def nbytes(self) -> int:
        """Bytes of rows, codebooks and row map."""
        return self.metadata.nbytes

    @property
    def stored_rows(self) -> tuple[NDArray[np.uint8], ...]:
        """Stored rows of each tier, uint8 (rows, row bytes); nothing once closed.

        Of a table that is read from files they have no rows.
        """
        view = self._view
        return () if view is None else tuple(tier.data for tier in view.tiers)

    @property
    def files(self) -> tuple[kernels.ChunkFiles, ...]:
        """What the rows of each tier are read from, if they are; nothing once closed."""
        view = self._view
        if view is None:
            return ()
        return tuple(tier.files for tier in view.tiers if tier.files is not None)

    @property
    def rowmap(self) -> NDArray[np.uint8] | None:
        """Blocks of the row map, uint8 (blocks, 16 | 32 | 64), if there is one; None closed."""
        return None if self._view is None else self._view.rowmap

    @property
    def arrays(self) -> tuple[NDArray[np.uint8], ...]:
        """Stored rows of each tier, codebooks, row map, if there are any; nothing once closed."""
        view = self._view
        if view is None:
            return ()
        books = [tier.codebook.view(np.uint8) for tier in view.tiers if tier.codebook is not None]
        rowmap = () if view.rowmap is None else (view.rowmap,)
        return (*(tier.data for tier in view.tiers), *books, *rowmap)

    @property
    def pruned(self) -> bool:
        """Whether every row is the mean row."""
        return self.metadata.pruned

    @property
    def ids_out_of_bounds(self) -> int:
        """Ids outside the table that were answered by the default row so far."""
        return sum(list(self._out_of_bounds.values()))

    def __len__(self) -> int:
        return self.rows

    def __reduce__(self) -> NoReturn:
        raise TypeError("tables can't be pickled or copied: pickle the store, by its path")

    def __repr__(self) -> str:
        tiers = ", ".join(f"{tier.encoding} {tier.rows:,}" for tier in self.tiers)
        return f"<sharkstore.Table {self.name!r}: {self.rows:,} × {self.dim}, {tiers}>"

    def __getitem__(self, ids: ArrayLike) -> F32:
        return self.lookup(ids)

    def lookup(
        self, ids: ArrayLike, out: F32 | None = None, *, bounds: Bounds | None = None
    ) -> F32:
        """Look rows up.

        Args:
            ids: int32 or int64, of any shape.
            out: float32 (*ids.shape, dim), C-contiguous, to write into.
            bounds: `raise`, or `default` for the table's default row; the store's when left out.

        Returns:
            float32 (*ids.shape, dim): `out`, or a fresh array. After an error `out` holds
            anything.

        Raises:
            IdError: an id outside the table, with bounds `raise`.
            DtypeError: ids or out of another dtype.
            ArgumentError: out of another shape, or sharing memory with ids.
            ClosedError: the store was closed.
            CorruptStoreError: the row map points past its tier, or a file can't be read.
        """
        native = self._live(bounds)
        found = NotImplemented
        if type(ids) is np.ndarray and (out is None or isinstance(out, np.ndarray)):
            if out is None:
                out = arguments.fresh_array((*ids.shape, self._dim), ids.size)
            found = native.lookup(ids, out)
        if found is NotImplemented:  # not arrays as they should be: bring them into form, or refuse
            ids = arguments.as_ids(ids)
            out = arguments.out_array(out, (*ids.shape, self.dim), ids)
            found = native.lookup(ids, out)
        if found is not None:
            self._examine(found, ids, bounds)
        return out

    def embedding_bag(
        self,
        ids: ArrayLike,
        offsets: ArrayLike | None = None,
        per_sample_weights: ArrayLike | None = None,
        mode: Literal["sum", "mean", "max"] = "sum",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        out: F32 | None = None,
        *,
        bounds: Bounds | None = None,
    ) -> F32:
        """Look rows up and pool them by bag, as `torch.nn.functional.embedding_bag` does.

        Args:
            ids: int32 or int64, (n,) with offsets, or (bags, ids a bag) without.
            offsets: int32 or int64 (bags,), where each bag starts; rising from 0.
            per_sample_weights: float32 of the ids' shape, with mode `sum` only.
            mode: `sum`, `mean` or `max`. An empty bag gives zeros.
            include_last_offset: offsets are (bags + 1,) and end with n.
            padding_idx: rows of this id are left out and not counted.
            out: float32 (bags, dim), C-contiguous, to write into.
            bounds: as for `lookup`; default rows count in a mean.

        Returns:
            float32 (bags, dim): `out`, or a fresh array. After an error `out` holds anything.

        Raises:
            as `lookup`; ArgumentError also for offsets that don't start at 0, fall, or pass
            the end, and for weights with another mode than sum.
        """
        native = self._live(bounds)
        pool = kernels.POOLS.get(mode) if isinstance(mode, str) else None
        if pool is None:
            arguments.check_choice("mode", mode, tuple(kernels.POOLS))
        if per_sample_weights is not None and mode != "sum":
            raise ArgumentError("per_sample_weights go with mode 'sum' only", got=mode)
        padding = -1 if padding_idx is None else arguments.padding_id(padding_idx, self.rows)
        last = bool(include_last_offset)
        options = (last, pool, padding)
        found = NotImplemented
        if (
            type(ids) is np.ndarray
            and type(offsets) is np.ndarray
            and offsets.ndim == 1
            and (out is None or isinstance(out, np.ndarray))
        ):
            bags = max(len(offsets) - last, 0)
            given = arguments.fresh_array((bags, self._dim), bags) if out is None else out
            found = native.embedding_bag(ids, offsets, per_sample_weights, *options, given)
        if found is NotImplemented:  # not arrays as they should be: bring them into form, or refuse
            ids = arguments.as_ids(ids)
            offsets = arguments.bag_starts(ids, offsets)
            bags = arguments.bag_count(ids, offsets, include_last=last)
            if per_sample_weights is not None:
                per_sample_weights = arguments.as_weights(per_sample_weights, ids)
            inputs = (ids, offsets, per_sample_weights)
            given = arguments.out_array(out, (bags, self.dim), *inputs)
            found = native.embedding_bag(*inputs, *options, given)
        if found is not None:
            if found[-1] and offsets is not None:
                arguments.check_offsets(offsets, len(ids), include_last=last)
                raise ArgumentError("offsets changed while bags were made of them")
            self._examine(found, ids, bounds)
        return given

    def watch(self, budget: kernels.Budget | None) -> None:
        """From now on ask for cold rows ahead, and keep to the budget if there is one."""
        self._native.watch(budget)

    def warmed(self) -> None:
        """All rows were read: take them for warm, until lookups wait for the disk."""
        if native := self._native:
            native.warmed()

    def counts(self) -> dict[str, Any]:
        """What was looked up so far.

        Returns:
            `calls`: a request counts once for each of its keys; `ids`; `bytes_read`: of their
            stored rows, as if none were padding or outside: with several tiers by a sample of one
            id in 4,096, or before there is one by the tiers' rows; `cold`: rows are asked of the
            disk ahead of their use.
        """
        native = self._native
        calls, ids, sampled, cold = native.counts() if native else (0, 0, [], False)
        each = [tier.array.row_bytes for tier in self.tiers]
        seen = sampled if any(sampled) else [tier.rows for tier in self.tiers]
        share = [count / max(sum(seen), 1) for count in seen]
        read = sum(part * size for part, size in zip(share, each, strict=False)) * ids
        return {"calls": calls, "ids": ids, "bytes_read": round(read), "cold": cold}

    def close(self) -> None:
        """Let go of the mapped arrays."""
        self._view = self._native = None

    def _live(self, bounds: Bounds | None) -> Any:
        native = self._native
        if native is None:
            raise ClosedError("the store was closed", where=f"table {self.name!r}")
        if bounds is not None:
            arguments.check_choice("bounds", bounds, arguments.BOUNDS)
        return native

    def _examine(self, found: tuple[Any, ...], ids: ArrayLike, bounds: Bounds | None) -> None:
        """Raise for what the kernels met, or count it."""
        outside, position, bad_row, bad_tier, unread, _ = found
        if unread:
            pread.refuse_unread(*unread)
        if bad_row >= 0:
            raise self.corrupt(bad_row, bad_tier)
        self.judge_outside(ids, position, outside, bounds)

    def bound(self) -> Any:
        """The table as the native kernels hold it; it lives as long as this is held."""
        return self._live(None)

    def judge_outside(
        self, ids: ArrayLike, position: int, count: int, bounds: Bounds | None
    ) -> None:
        """Raise for ids outside the table, or count them: `count`, the first at `position`."""
        if (self._bounds if bounds is None else bounds) == "raise":
            arguments.refuse_outside(ids, position, count, self.rows, self.name)
        thread = threading.get_ident()
        self._out_of_bounds[thread] = self._out_of_bounds.get(thread, 0) + count

    def corrupt(self, row: int, tier: int) -> CorruptStoreError:
        return CorruptStoreError(
            f"the row map points past tier {tier} for row {row}",
            where=f"table {self.name!r}",
            remedy="`sharkstore verify` shows what is damaged; convert again",
        )


def table_stats(table: Table) -> dict[str, Any]:
    """Counters of a table, for `Store.stats`."""
    outside = table.ids_out_of_bounds
    return {"bytes": table.nbytes, "ids_out_of_bounds": outside, **table.counts()}
