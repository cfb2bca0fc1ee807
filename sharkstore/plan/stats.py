"""Stats: what was measured on the training side, and whether it fits the checkpoint.

Layout of the file: formats/sharkstore-1.md, "Stats files".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import StatsError
from sharkstore.tensors import Tensor

PER_ROW = ("count", "positive", "priority", "sensitivity")
BLOCK = 1 << 20
# what float32 holds
MOST = float(np.finfo(np.float32).max)
TABLE_KINDS = (*PER_ROW, "mean", "metric")
FIELD_KINDS = ("score", "score_signed", "score_curved", "sfs")


@dataclass(frozen=True, slots=True)
class Stats:
    """Stats by table and field; empty when nothing was measured.

    Args:
        arrays: by key of the file, mapped: nothing is read until it is used.
        fields: field -> table.
        where: the file they come from, for messages.
        metadata: all texts of the file's header.
    """

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    where: str = "stats"
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def tables(self) -> set[str]:
        """Tables that something was measured of, or that a field names."""
        measured = {key.split("/", 1)[1].rpartition("/")[0] for key in self.arrays if _of(key)}
        return measured | set(self.fields.values())

    @property
    def unknown(self) -> list[str]:
        """Keys of kinds that this version doesn't know."""
        kinds = {"tables": TABLE_KINDS, "fields": FIELD_KINDS}
        return [k for k in self.arrays if k.rpartition("/")[2] not in kinds[k.split("/")[0]]]

    def priority(self, table: str) -> NDArray[Any] | None:
        """Row priorities (rows,), or counts where there are none; None if neither."""
        found = self.arrays.get(f"tables/{table}/priority")
        return self.count(table) if found is None else found

    def count(self, table: str) -> NDArray[Any] | None:
        """How often each row was used (rows,); None if not measured."""
        return self.arrays.get(f"tables/{table}/count")

    def metric(self, table: str) -> NDArray[np.float32] | None:
        """How the loss curves in a row (dim, dim); None if not measured."""
        found = self.arrays.get(f"tables/{table}/metric")
        return None if found is None else np.ascontiguousarray(found, np.float32)

    def mean(self, table: str) -> NDArray[Any] | None:
        """The table's mean row (dim,) over its uses; None if not measured."""
        return self.arrays.get(f"tables/{table}/mean")

    def score(self, name: str) -> float | None:
        """A field's Taylor score; None if not measured."""
        return self._of_field(name, "score")

    def score_curved(self, name: str) -> float | None:
        """The second-order term of pruning a field; None if not measured."""
        return self._of_field(name, "score_curved")

    def score_signed(self, name: str) -> float | None:
        """The mean of a field's signed Taylor terms; None if not measured."""
        return self._of_field(name, "score_signed")

    def _of_field(self, name: str, kind: str) -> float | None:
        found = self.arrays.get(f"fields/{name}/{kind}")
        return None if found is None else float(found.reshape(-1)[0])


def parse_stats(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], where: str = "stats"
) -> Stats:
    """Stats out of a file's arrays and metadata.

    Raises:
        StatsError: no stats, or a mapping of fields that isn't JSON.
    """
    known = {key: value for key, value in arrays.items() if _of(key) or key.startswith("fields/")}
    if not known:
        raise StatsError("no keys 'tables/…' or 'fields/…': not a stats file", where=where)
    try:
        fields = json.loads(metadata.get("fields", "{}"))
        if not all(isinstance(table, str) for table in fields.values()):
            raise TypeError("a field's table must be a text")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        message = f"'fields' of the metadata is not JSON of field -> table: {error}"
        raise StatsError(message, where=where) from error
    return Stats(known, fields, where, metadata)


def check_stats(stats: Stats, tensors: Mapping[str, Tensor]) -> None:
    """Refuse stats that don't belong to this checkpoint.

    Raises:
        StatsError: other tables, other lengths, or priorities that are no finite numbers.
    """
    scored = {key.split("/", 1)[1].rpartition("/")[0] for key in stats.arrays if not _of(key)}
    homeless = sorted(scored - set(stats.fields))
    if homeless:
        remedy = "the metadata's 'fields' maps each field to its table"
        raise StatsError(f"field {homeless[0]!r} has no table", where=stats.where, remedy=remedy)
    strange = sorted(stats.tables - set(tensors))
    if strange:
        remedy = "are the stats of another model? Keys are the checkpoint's"
        name = strange[0]
        alike = [key for key in tensors if f".{key}".endswith(f".{name}")]
        alike += [key for key in tensors if name.endswith(f".{key}")]
        if alike:
            remedy = f"it has {alike[0]!r}: was one of both saved with a prefix?"
        raise StatsError(
            f"the checkpoint has no table {', '.join(map(repr, strange[:4]))}",
            where=stats.where,
            remedy=remedy,
        )
    for key, values in stats.arrays.items():
        if not _of(key):
            if values.size != 1:
                raise StatsError(f"{key}: wrong length", where=stats.where, got=values.shape)
            _check_values(key, values.reshape(-1), stats.where, least=-MOST)
            continue
        table, _, kind = key.split("/", 1)[1].rpartition("/")
        tensor = tensors[table]
        if kind in PER_ROW:
            _check_length(key, values, (tensor.rows,), stats.where)
            _check_values(key, values, stats.where, least=0)
        elif kind == "mean":
            _check_length(key, values, tensor.shape[1:], stats.where)
            _check_values(key, values, stats.where, least=-MOST)
        elif kind == "metric":
            _check_length(key, values, tensor.shape[1:] * 2, stats.where)
            _check_values(key, values.reshape(-1), stats.where, least=-MOST)


def _of(key: str) -> bool:
    return key.startswith("tables/") and key.count("/") >= 2


def _check_length(key: str, values: NDArray[Any], shape: tuple[int, ...], where: str) -> None:
    if values.shape != shape:
        raise StatsError(f"{key}: wrong length", where=where, got=values.shape, expected=shape)


def _check_values(key: str, values: NDArray[Any], where: str, *, least: float) -> None:
    expected = "not negative, and finite in float32" if least == 0 else "finite in float32"
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        if block.dtype.kind not in "fiu":
            raise StatsError(f"{key}: dtype {block.dtype}", where=where, expected="numbers")
        wide = block.astype(np.float64)
        bad = np.flatnonzero(~((wide >= least) & (wide <= MOST)))
        if len(bad):
            row = start + int(bad[0])
            raise StatsError(f"{key}: row {row} is {values[row]}", where=where, expected=expected)


def rows_at_least(values: NDArray[Any], threshold: float) -> int:
    """How many values reach a threshold, read block by block."""
    blocks = (values[start : start + BLOCK] for start in range(0, len(values), BLOCK))
    return sum(int(np.count_nonzero(block >= np.float64(threshold))) for block in blocks)
