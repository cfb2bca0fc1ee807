"""Lookups in many tables at once: which tables, how their rows are pooled, where they go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

import sharkstore.kernels as kernels
from sharkstore.errors import ArgumentError, ClosedError
from sharkstore.load import arguments, pread
from sharkstore.load.table import Bounds, Table

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mode = Literal["sum", "mean", "max"]
Modes = Mode | Sequence[Mode]
Paddings = Sequence[int | None] | None

# prepared requests that are kept for calls by keys: those of a few models
KEPT = 64
MOST_THREADS = 1024
# values of an output that is worth aligning, as kernels write it past the cache
LARGE = 1 << 17


class Request:
    """Tables of one request, by key, resolved once: what is called again and again holds one.

    Safe to use from many threads and after a fork. `values` and `offsets` are those of a
    TorchRec KeyedJaggedTensor: all ids of key 0, then of key 1, ...; offsets (keys * batch + 1,),
    where each bag starts, all bags of key 0 first, and the number of ids at their end.

    Attributes:
        keys: names of the tables.
        dims: values a row of each.
        dim: of all together, the width of the output.
    """

    def __init__(
        self, tables: Sequence[Table], mode: Modes = "sum", padding_idx: Paddings = None
    ) -> None:
        if not tables:
            raise ArgumentError("a request needs at least one key")
        self.keys = tuple(table.name for table in tables)
        self.dims = tuple(table.dim for table in tables)
        self.dim = sum(self.dims)
        modes = _one_each(mode, len(tables))
        paddings = _paddings(padding_idx, tables)
        self._only_sums = set(modes) == {"sum"}
        self._tables = tuple(tables)
        self._native: Any = kernels.bind_request(
            [
                (table.bound(), one, padding)
                for table, one, padding in zip(tables, modes, paddings, strict=True)
            ]
        )

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
            CorruptStoreError: a row map points past its tier, or a file can't be read.
        """
        native = self._live(threads, bounds)
        if per_sample_weights is not None and not self._only_sums:
            raise ArgumentError("per_sample_weights go with mode 'sum' only")
        found, given = NotImplemented, out
        if type(values) is np.ndarray and type(offsets) is np.ndarray:
            if out is None:
                batch = max(offsets.size - 1, 0) // len(self.keys)
                given = self.empty(batch)
            if isinstance(given, np.ndarray):
                found = native.embedding_bags(values, offsets, per_sample_weights, given, threads)
        if found is NotImplemented:  # not arrays as they should be: bring them into form, or refuse
            ids, bags, weights = _line(values, "values"), _line(offsets, "offsets"), None
            if per_sample_weights is not None:
                weights = arguments.as_weights(per_sample_weights, ids)
            given = arguments.out_array(out, (self._batch(bags), self.dim), ids, bags, weights)
            found = native.embedding_bags(ids, bags, weights, given, threads)
            values, offsets = ids, bags
        if found is not None:
            self._examine(found, values, offsets, bounds)
        assert given is not None
        return given

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
        native = self._live(threads, bounds)
        ids, bags = _line(values, "values"), _line(offsets, "offsets")
        batch, count = self._batch(bags), len(self.keys)
        # a copy: another thread may change what was checked
        starts = np.array(bags[::batch] if batch else np.repeat(bags, count + 1), np.int64)
        arguments.check_offsets(starts, len(ids), include_last=True)
        ends = np.cumsum(np.diff(starts) * self.dims).tolist()
        out = arguments.out_array(out, (ends[-1],), ids, bags)
        found = native.lookups(ids, starts, out, threads)
        if found is not None:
            self._examine(found, ids, starts, bounds)
        pieces = zip([0, *ends], ends, self.dims, strict=False)
        return [out[start:end].reshape(-1, dim) for start, end, dim in pieces]

    def empty(self, batch: int) -> F32:
        """An array to be `out` again and again: float32 (batch, dim), of any values.

        A large one starts on a cache line: kernels write such a one past the cache, which takes
        two thirds of the time.
        """
        size = batch * self.dim
        if size < LARGE:
            return np.empty((batch, self.dim), np.float32)
        return arguments.fresh_array((size, 1), size).reshape(batch, self.dim)

    def close(self) -> None:
        """Let go of the mapped arrays."""
        self._native = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("requests can't be pickled or copied: pickle the store, by its path")

    def _live(self, threads: int, bounds: Bounds | None) -> Any:
        native = self._native
        if native is None:
            raise ClosedError("the store was closed")
        if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
            raise ArgumentError("threads", got=repr(threads), expected=f"int, 1 to {MOST_THREADS}")
        if bounds is not None:
            arguments.check_choice("bounds", bounds, arguments.BOUNDS)
        return native

    def _batch(self, offsets: I64) -> int:
        batch, rest = divmod(len(offsets) - 1, len(self.keys))
        if rest or batch < 0:
            raise ArgumentError(
                f"offsets must be {len(self.keys)} keys * batch + 1", got=len(offsets)
            )
        return batch

    def _examine(self, found: tuple[Any, ...], ids: Any, offsets: Any, bounds: Any) -> None:
        """Raise for what the kernels met, or count it."""
        _, position, bad_key, bad_row, bad_tier, bad_offsets, counts, unread = found
        if unread:
            pread.refuse_unread(*unread)
        if bad_offsets:
            arguments.check_offsets(offsets, len(ids), include_last=True)
            raise ArgumentError("offsets changed while bags were made of them")
        if bad_row >= 0:
            raise self._tables[bad_key].corrupt(bad_row, bad_tier)
        for table, count in zip(self._tables, counts, strict=True):
            if count:  # the first of them has the first position
                table.judge_outside(ids, position, count, bounds)


class Requests:
    """The requests of an open store, which end with it."""

    def __init__(self) -> None:
        self._all: dict[int, weakref.ref[Request]] = {}
        self._kept: dict[Any, Request] = {}

    def add(self, request: Request) -> None:
        """Close this request when the store is closed, if it is still in use."""
        number, held = id(request), self._all
        held[number] = weakref.ref(request, lambda _: held.pop(number, None))

    def keep(self, what: Any, make: Callable[[], Request]) -> Request:
        """The request that is kept for this, or a new one."""
        found = self._kept.get(what)
        if found is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            found = self._kept[what] = make()
        return found

    def close(self) -> None:
        """Close all requests."""
        self._kept.clear()
        for one in list(self._all.values()):
            if request := one():
                request.close()


def _one_each(mode: Modes, count: int) -> tuple[Mode, ...]:
    modes = (mode,) * count if isinstance(mode, str) or mode is None else tuple(mode)
    if len(modes) != count:
        raise ArgumentError("one mode, or one for each key", got=len(modes), expected=count)
    for one in modes:
        arguments.check_choice("mode", one, get_args(Mode))
    return modes


def _paddings(padding_idx: Paddings, tables: Sequence[Table]) -> tuple[int, ...]:
    if padding_idx is None:
        return (-1,) * len(tables)
    if len(padding_idx) != len(tables):
        raise ArgumentError(
            "padding_idx must be one for each key", got=len(padding_idx), expected=len(tables)
        )
    return tuple(
        -1 if one is None else arguments.padding_id(one, table.rows)
        for one, table in zip(padding_idx, tables, strict=True)
    )


def _line(values: ArrayLike, what: str) -> Any:
    ids = arguments.as_ids(values, what)
    if ids.ndim != 1:
        raise ArgumentError(f"{what} must have one dimension", got=ids.ndim)
    return ids
