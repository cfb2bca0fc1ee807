"""Lookups in many tables at once: which tables, how their rows are pooled, where they go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharkstore.errors import ArgumentError
from sharkstore.load import arguments
from sharkstore.load.table import Bounds, Table

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mode = Literal["sum", "mean", "max"]
Modes = Mode | Sequence[Mode]
Paddings = Sequence[int | None] | None


class Request:
    """Tables of one request, by key, resolved once: what is called again and again holds one.

    Safe to use from many threads and after a fork. `values` and `offsets` are those of a
    TorchRec KeyedJaggedTensor: all ids of key 0, then of key 1, ...; offsets (keys * batch + 1,),
    where each bag starts, all bags of key 0 first, and the number of ids at their end.
    """

    def __init__(
        self, tables: Sequence[Table], mode: Modes = "sum", padding_idx: Paddings = None
    ) -> None:
        if not tables:
            raise ArgumentError("a request needs at least one key")
        self.keys = tuple(table.name for table in tables)
        self.dims = tuple(table.dim for table in tables)
        self.dim = sum(self.dims)
        self._tables = tuple(tables)
        self._modes = _one_each(mode, len(tables))
        self._paddings = _paddings(padding_idx, tables)

    def __call__(
        self,
        values: ArrayLike,
        offsets: ArrayLike,
        per_sample_weights: ArrayLike | None = None,
        out: F32 | None = None,
        *,
        threads: int = 1,
        bounds: Bounds | None = None,
    ) -> F32:
        """Look the rows of all bags up and pool them, as `Table.embedding_bag` does.

        Args:
            values: int32 or int64 (n,), the ids.
            offsets: int32 or int64 (keys * batch + 1,), rising from 0 to n.
            per_sample_weights: float32 (n,), with mode `sum` only.
            out: float32 (batch, dim), C-contiguous, to write into.
            threads: how many may work on a large request; results are the same.
            bounds: `raise`, or `default` for the tables' default rows; the store's when left out.

        Returns:
            float32 (batch, dim): key after key, `out` or a fresh array. After an error `out`
            holds anything.

        Raises:
            IdError: an id outside its table, with bounds `raise`.
            DtypeError: ids, offsets, weights or out of another dtype.
            ArgumentError: shapes that don't fit, offsets that don't rise from 0 to n, weights
                with another mode than sum, or out sharing memory with what is looked up.
            ClosedError: the store was closed.
            CorruptStoreError: a row map points past its tier.
        """
        arguments.check_threads(threads)
        ids, bags = _ids(values, "values"), _ids(offsets, "offsets")
        batch = self._batch(bags)
        weights = None
        if per_sample_weights is not None:
            weights = arguments.as_weights(per_sample_weights, ids)
        arguments.check_offsets(bags, len(ids), include_last=True)
        out = arguments.out_array(out, (batch, self.dim), ids, bags, weights)
        column = 0
        for i, table in enumerate(self._tables):
            starts = bags[i * batch : (i + 1) * batch + 1]
            part = slice(starts[0], starts[-1])
            out[:, column : column + table.dim] = table.embedding_bag(
                ids[part],
                starts - starts[0],
                None if weights is None else weights[part],
                self._modes[i],
                include_last_offset=True,
                padding_idx=self._paddings[i],
                bounds=bounds,
            )
            column += table.dim
        return out

    def lookups(
        self,
        values: ArrayLike,
        offsets: ArrayLike,
        out: F32 | None = None,
        *,
        threads: int = 1,
        bounds: Bounds | None = None,
    ) -> list[F32]:
        """Look rows up, one for each id: nothing is pooled, nothing is left out.

        Args:
            values: int32 or int64 (n,), the ids.
            offsets: as of a call; only where keys start matters, so that (keys + 1,), where
                each key starts and n, does as well.
            out: float32 (sum of ids * dim of the keys,), C-contiguous, to write into.
            threads, bounds: as of a call.

        Returns:
            float32 (ids of the key, dim of the key) for each key: views of `out`, or of one
            fresh array, one behind the other.

        Raises:
            as a call.
        """
        arguments.check_threads(threads)
        ids, bags = _ids(values, "values"), _ids(offsets, "offsets")
        batch = self._batch(bags)
        starts = bags[::batch] if batch else np.zeros(len(self.keys) + 1, np.int64)
        arguments.check_offsets(starts, len(ids), include_last=True)
        ends = np.cumsum(np.diff(starts) * self.dims)
        out = arguments.out_array(out, (int(ends[-1]),), ids, bags)
        parts = []
        for i, table in enumerate(self._tables):
            part = ids[starts[i] : starts[i + 1]]
            rows = out[ends[i] - len(part) * table.dim : ends[i]].reshape(len(part), table.dim)
            parts.append(table.lookup(part, rows, bounds=bounds))
        return parts

    def _batch(self, offsets: I64) -> int:
        batch, rest = divmod(len(offsets) - 1, len(self.keys))
        if rest or batch < 0:
            raise ArgumentError(
                f"offsets must be {len(self.keys)} keys * batch + 1", got=len(offsets)
            )
        return batch


def _one_each(mode: Modes, count: int) -> tuple[Mode, ...]:
    modes = (mode,) * count if isinstance(mode, str) or mode is None else tuple(mode)
    if len(modes) != count:
        raise ArgumentError("one mode, or one for each key", got=len(modes), expected=count)
    for one in modes:
        arguments.check_choice("mode", one, get_args(Mode))
    return modes


def _paddings(padding_idx: Paddings, tables: Sequence[Table]) -> tuple[int | None, ...]:
    if padding_idx is None:
        return (None,) * len(tables)
    if len(padding_idx) != len(tables):
        raise ArgumentError(
            "padding_idx must be one for each key", got=len(padding_idx), expected=len(tables)
        )
    return tuple(
        None if one is None else arguments.padding_id(one, table.rows)
        for one, table in zip(padding_idx, tables, strict=True)
    )


def _ids(values: ArrayLike, what: str) -> Any:
    ids = arguments.as_ids(values, what)
    if ids.ndim != 1:
        raise ArgumentError(f"{what} must have one dimension", got=ids.ndim)
    return ids
