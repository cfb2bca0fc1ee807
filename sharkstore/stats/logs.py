"""Logs in Parquet: ids and labels of named columns, batch by batch. Needs pyarrow."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import StatsError

ROWS = 1 << 17  # a batch
BUFFER = 1 << 20  # bytes; without a buffer a row group's columns are in memory whole


@dataclass(frozen=True, slots=True)
class Uses:
    """The ids of a column in one batch, nulls left out.

    Args:
        ids: int (n,), of the log's own width.
        samples: int64 (n,), ascending: the row of the batch that each belongs to; None where
            each row has one.
        nulls: ids left out. A list that is null has none.
    """

    ids: NDArray[np.integer]
    samples: NDArray[np.int64] | None
    nulls: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a log, each a sample.

    Args:
        start: the first one's number in its file, from 0.
        rows: how many.
        uses: by column.
        positive: bool (rows,): label above 0.5; None without labels.
        unlabelled: labels that are null or NaN, taken as not positive.
    """

    start: int
    rows: int
    uses: Mapping[str, Uses]
    positive: NDArray[np.bool_] | None
    unlabelled: int


class Log:
    """A Parquet file whose rows are samples.

    Args:
        path: the file.
        columns: of ids: integers, or lists of them.
        label: a column of booleans or numbers; None for none.

    Raises:
        StatsError: no pyarrow, no Parquet file, no such column, or of another type.
    """

    def __init__(self, path: str, columns: Sequence[str], label: str | None) -> None:
        self.where = path
        self._columns, self._label = list(columns), label
        if os.path.isdir(path):
            raise StatsError("a folder", where=path, remedy="name the Parquet files in it")
        if not os.path.exists(path):
            raise StatsError("no such log", where=path)
        parquet, self._errors = _pyarrow(path)
        try:
            self._file = parquet.ParquetFile(path, buffer_size=BUFFER)
            self.rows: int = self._file.metadata.num_rows
            schema = self._file.schema_arrow
        except self._errors as error:
            raise StatsError(f"not a Parquet file: {_first_line(error)}", where=path) from error
        for column in self._columns:
            _check_ids(schema, column, path)
        if label is not None:
            _check_label(schema, label, path)

    def batches(self) -> Iterator[Batch]:
        """All rows, in order.

        Raises:
            StatsError: the file is damaged.
        """
        wanted = list(dict.fromkeys([*self._columns, *([self._label] if self._label else [])]))
        start = 0
        try:
            for batch in self._file.iter_batches(batch_size=ROWS, columns=wanted):
                made = self._batch(batch, start)
                yield made
                start += made.rows
        except self._errors as error:
            message = f"damaged after row {start}: {_first_line(error)}"
            raise StatsError(message, where=self.where) from error
        finally:
            self._file.close()

    def _batch(self, batch: Any, start: int) -> Batch:
        batch.validate()
        uses = {column: _uses(batch.column(column)) for column in self._columns}
        if self._label is None:
            return Batch(start, batch.num_rows, uses, None, 0)
        positive, unlabelled = _positive(batch.column(self._label))
        return Batch(start, batch.num_rows, uses, positive, unlabelled)


def _pyarrow(path: str) -> tuple[ModuleType, tuple[type[Exception], ...]]:
    """The module that reads Parquet, and what it raises of a file that it can't read."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        remedy = "pip install 'sharkstore[parquet]'"
        raise StatsError("pyarrow is needed to read logs", where=path, remedy=remedy) from error
    return parquet, (ArrowException, OSError, ValueError)


def _uses(array: Any) -> Uses:
    import pyarrow.compute as compute
    from pyarrow import types

    array, samples = _plain(array), None
    if not types.is_integer(array.type):
        samples = compute.list_parent_indices(array).to_numpy().astype(np.int64, copy=False)
        array = _plain(compute.list_flatten(array))
        if len(array) != len(samples):
            raise ValueError("a list that is null and has ids")
    nulls = array.null_count
    if not nulls:
        return Uses(array.to_numpy(), samples, 0)
    # one mask for both: a damaged log's number of nulls need not be that of its bits
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    samples = np.flatnonzero(valid) if samples is None else samples[valid]
    return Uses(array.fill_null(0).to_numpy()[valid], samples, nulls)


def _positive(array: Any) -> tuple[NDArray[np.bool_], int]:
    # nulls become NaN; numbers beyond float64 may be rounded, they stay above a half
    values = _plain(array).cast("double", safe=False).to_numpy(zero_copy_only=False)
    return values > 0.5, int(np.count_nonzero(np.isnan(values)))


def _plain(array: Any) -> Any:
    """Values in place of keys of a dictionary."""
    from pyarrow import types

    if not types.is_dictionary(array.type):
        return array
    values = array.dictionary_decode()
    if len(values) != len(array):
        raise ValueError("keys that a dictionary doesn't have")
    return values


def _check_ids(schema: Any, column: str, where: str) -> None:
    from pyarrow import types

    kind = declared = _type(schema, column, where)
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if any(is_one(kind) for is_one in lists):
        kind = _value_type(kind.value_type)
    if not types.is_integer(kind):
        expected = "integers, or lists of them"
        raise StatsError(f"column {column!r}: no ids", where=where, got=declared, expected=expected)


def _check_label(schema: Any, column: str, where: str) -> None:
    from pyarrow import types

    kind = _type(schema, column, where)
    if not (types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)):
        raise StatsError(
            f"column {column!r}: no labels", where=where, got=kind, expected="booleans or numbers"
        )


def _type(schema: Any, column: str, where: str) -> Any:
    found = schema.get_all_field_indices(column)
    if not found:
        near = difflib.get_close_matches(column, schema.names, 3) or schema.names[:8]
        remedy = f"columns are {', '.join(near)}" if near else ""
        raise StatsError(f"no column {column!r}", where=where, remedy=remedy)
    if len(found) > 1:
        raise StatsError(f"{len(found)} columns are named {column!r}", where=where)
    return _value_type(schema.field(found[0]).type)


def _value_type(kind: Any) -> Any:
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
