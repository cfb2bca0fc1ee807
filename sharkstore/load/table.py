"""One table of an open store."""

from __future__ import annotations

import threading
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

import sharkstore.kernels as kernels
from sharkstore.errors import ArgumentError, ClosedError, CorruptStoreError
from sharkstore.format.metadata import TableMetadata, TierMetadata
from sharkstore.load import arguments

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
        """Bytes of rows and row map."""
        return self.metadata.nbytes

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
            float32 (*ids.shape, dim): `out`, or a fresh array.

        Raises:
            IdError: an id outside the table, with bounds `raise`.
            DtypeError: ids or out of another dtype.
            ArgumentError: out of another shape, or sharing memory with ids.
            ClosedError: the store was closed.
            CorruptStoreError: the row map points past its tier.
        """
        view = self._live()
        wanted = arguments.as_ids(ids)
        result = arguments.out_array(out, (*wanted.shape, self.dim), wanted)
        flat = wanted.reshape(-1)
        self._check_bounds(flat, bounds)
        try:
            kernels.lookup(view, flat, result.reshape(-1, self.dim))
        except kernels.SlotError as error:
            raise self._corrupt(error) from error
        return result

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
            float32 (bags, dim): `out`, or a fresh array.

        Raises:
            as `lookup`; ArgumentError also for offsets that don't start at 0, fall, or pass
            the end, and for weights with another mode than sum.
        """
        view = self._live()
        arguments.check_choice("mode", mode, ("sum", "mean", "max"))
        if per_sample_weights is not None and mode != "sum":
            raise ArgumentError("per_sample_weights go with mode 'sum' only", got=mode)
        wanted = arguments.as_ids(ids)
        bags = arguments.bag_offsets(wanted, offsets, include_last=include_last_offset)
        weights = None
        if per_sample_weights is not None:
            weights = arguments.as_weights(per_sample_weights, wanted)
        result = arguments.out_array(out, (len(bags) - 1, self.dim), wanted, bags, weights)
        flat = wanted.reshape(-1)
        self._check_bounds(flat, bounds)
        if padding_idx is not None:
            flat, bags, weights = arguments.without_padding(
                flat, bags, weights, padding_idx, self.rows
            )
        try:
            kernels.embedding_bag(view, flat, bags, weights, mode, result)
        except kernels.SlotError as error:
            raise self._corrupt(error) from error
        return result

    def close(self) -> None:
        """Let go of the mapped arrays."""
        self._view = None

    def _live(self) -> kernels.TableView:
        view = self._view
        if view is None:
            raise ClosedError("the store was closed", where=f"table {self.name!r}")
        return view

    def _check_bounds(self, ids: NDArray[np.int64], bounds: Bounds | None) -> None:
        chosen = self._bounds if bounds is None else bounds
        arguments.check_choice("bounds", chosen, arguments.BOUNDS)
        if len(ids) == 0 or (ids.min() >= 0 and ids.max() < self.rows):
            return
        if chosen == "raise":
            arguments.check_bounds(ids, self.rows, self.name)
        outside = int(((ids < 0) | (ids >= self.rows)).sum())
        thread = threading.get_ident()
        self._out_of_bounds[thread] = self._out_of_bounds.get(thread, 0) + outside

    def _corrupt(self, error: kernels.SlotError) -> CorruptStoreError:
        return CorruptStoreError(
            f"the row map points past tier {error.tier} for row {error.row}",
            where=f"table {self.name!r}",
            remedy="`sharkstore verify` shows what is damaged; convert again",
        )


def table_stats(table: Table) -> dict[str, Any]:
    """Counters of a table, for `Store.stats`."""
    return {"bytes": table.nbytes, "ids_out_of_bounds": table.ids_out_of_bounds}
