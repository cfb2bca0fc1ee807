"""Row counts and priorities out of logs, without a model."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import StatsError
from sharkstore.readers.open import open_checkpoint
from sharkstore.stats.file import VERSION, Column, Path, Progress, spans, write_stats
from sharkstore.stats.inputs import distinct
from sharkstore.stats.logs import Batch, Log, Uses
from sharkstore.stats.rows import RowCounts, Weights

MOST_ROWS = (1 << 32) - 1  # of a table in a store


@dataclass(slots=True)
class FieldCount:
    """What was found of one column: uses, and ids left out."""

    table: str
    uses: int = 0
    nulls: int = 0
    outside: int = 0


@dataclass(frozen=True, slots=True)
class TableCount:
    """What was found of one table; positive uses are None without labels."""

    rows: int
    used: int
    uses: int
    positive: int | None


@dataclass(frozen=True, slots=True)
class Counted:
    """What counting found.

    Args:
        samples: rows of the logs.
        fields: by column.
        tables: by table.
        notes: what was left out or assumed.
    """

    samples: int
    fields: Mapping[str, FieldCount]
    tables: Mapping[str, TableCount]
    notes: tuple[str, ...]


def count_logs(
    paths: Sequence[Path],
    fields: Mapping[str, str],
    out: Path,
    label: str | None = None,
    rows: Mapping[str, int] | None = None,
    weights: Weights | None = None,
    checkpoint: Path | None = None,
    *,
    periods: bool = False,
    bounds: Literal["raise", "skip"] = "raise",
    progress: Progress | None = None,
) -> Counted:
    """Count the uses of rows in Parquet logs, and write them as a stats file.

    A row of a log is a sample, an id in it a use of that row of the table; a column of lists
    has any number of ids a sample, and the sample's label belongs to all of them. Memory
    follows the rows used, not the logs. Null ids are left out; a label is positive above 0.5,
    and one that is null or NaN is not positive.

    Args:
        paths: Parquet files, each once.
        fields: column of ids -> table. Several may share a table.
        out: the stats file; replaced if it is there.
        label: a column of booleans or numbers. With it come positive uses and priorities.
        rows: table -> its length. Else that of the checkpoint, else the largest id + 1.
        weights: of the priority.
        checkpoint: where tables have their lengths.
        periods: each file is a period of the priority, in the order given; else all are one.
        bounds: what ids do that are negative or beyond the table: `raise`, or `skip`, counted.
        progress: called with `count`, the rows just read, and the rows in all; then with
            `write`, and bytes.

    Raises:
        StatsError: pyarrow is missing; a log or a column can't be read; ids outside a table.
        CheckpointNotFoundError, CheckpointError: the checkpoint can't be read.
        WriteError: the disk is full or refuses. Nothing is written.
    """
    weights = Weights() if weights is None else weights
    if not fields:
        raise StatsError("no fields", expected="a table for at least one column")
    places = distinct(paths)
    total = sum(Log(path, list(fields), label).rows for path in places)
    count = _Count(fields, _lengths(set(fields.values()), rows or {}, checkpoint), bounds)
    for path in places:
        for batch in (log := Log(path, list(fields), label)).batches():
            count.take(batch, log.where)
            if progress is not None:
                progress("count", batch.rows, total)
        if periods or path == places[-1]:
            count.end_period(weights)
    labelled, ranked = label is not None, label is not None or periods
    metadata = {
        "version": VERSION,
        "fields": json.dumps(dict(fields), sort_keys=True, ensure_ascii=False),
        "samples": str(count.samples),
    }
    if labelled:
        metadata["labelled"] = str(count.samples)
    if ranked:
        metadata |= {name: repr(float(value)) for name, value in asdict(weights).items()}
    tables = count.tables(labelled=labelled)
    columns = _columns(count.counts, tables, labelled=labelled, ranked=ranked)
    write_stats(out, columns, metadata, progress)
    return Counted(count.samples, count.fields, tables, count.notes(label))


class _Count:
    """What has been counted so far."""

    def __init__(
        self, fields: Mapping[str, str], lengths: Mapping[str, int | None], bounds: str
    ) -> None:
        self.fields = {column: FieldCount(table) for column, table in fields.items()}
        self.counts = {table: RowCounts() for table in lengths}
        self.samples = self.positive = self.unlabelled = 0
        self._lengths, self._bounds = lengths, bounds

    def take(self, batch: Batch, where: str) -> None:
        self.samples += batch.rows
        self.unlabelled += batch.unlabelled
        if batch.positive is not None:
            self.positive += int(np.count_nonzero(batch.positive))
        for column, uses in batch.uses.items():
            one = self.fields[column]
            ids, positive = uses.ids, batch.positive
            if positive is not None and uses.samples is not None:
                positive = positive[uses.samples]
            outside = _outside(ids, self._lengths[one.table])
            if outside is not None:
                if self._bounds == "raise":
                    self._refuse(column, uses, batch, outside, where)
                ids, positive = ids[~outside], None if positive is None else positive[~outside]
            self.counts[one.table].add(ids, positive)
            one.uses += len(ids)
            one.nulls += uses.nulls
            one.outside += len(uses.ids) - len(ids)

    def _refuse(
        self, column: str, uses: Uses, batch: Batch, outside: NDArray[np.bool_], where: str
    ) -> None:
        first = int(np.argmax(outside))
        row = batch.start + (first if uses.samples is None else int(uses.samples[first]))
        table = self.fields[column].table
        most = self._lengths[table]
        raise StatsError(
            f"column {column!r}, row {row}: an id outside table {table!r}",
            where=where,
            got=int(uses.ids[first]),
            expected=f"0 to {(MOST_ROWS if most is None else most) - 1}",
            remedy="is it another table's column? --bounds skip leaves such ids out",
        )

    def end_period(self, weights: Weights) -> None:
        for counts in self.counts.values():
            counts.end_period(weights)

    def tables(self, *, labelled: bool) -> dict[str, TableCount]:
        """What was found, by table.

        Raises:
            StatsError: nothing says how long a table is.
        """
        found = {}
        for table, counts in self.counts.items():
            rows = self._lengths[table]
            if rows is None:
                if not len(counts.ids):
                    remedy = "--rows or --checkpoint says how long it is"
                    raise StatsError(f"no id of table {table!r} in the logs", remedy=remedy)
                rows = int(counts.ids[-1]) + 1
            positive = int(counts.positive.sum()) if labelled else None
            found[table] = TableCount(rows, len(counts.ids), counts.uses(), positive)
        return found

    def notes(self, label: str | None) -> tuple[str, ...]:
        """What a person should know."""
        notes = []
        for column, one in self.fields.items():
            if one.nulls:
                notes.append(f"column {column}: {one.nulls:,} nulls left out")
            if one.outside:
                notes.append(f"column {column}: {one.outside:,} ids outside {one.table} left out")
        if self.unlabelled:
            notes.append(f"column {label}: {self.unlabelled:,} nulls taken as not positive")
        if label is not None and not self.positive:
            notes.append(f"column {label}: nothing is positive, no label is above 0.5")
        guessed = [table for table, rows in self._lengths.items() if rows is None]
        if guessed:
            why = "as long as their largest ids say; convert wants the checkpoint's lengths"
            notes.append(f"{', '.join(guessed)}: {why}")
        return tuple(notes)


def _outside(ids: NDArray[np.integer], rows: int | None) -> NDArray[np.bool_] | None:
    """Which ids are no rows; None if all are."""
    most = MOST_ROWS if rows is None else rows
    if not len(ids) or (ids.min() >= 0 and ids.max() < most):
        return None
    return (ids < 0) | (ids >= most)


def _lengths(
    tables: Iterable[str], rows: Mapping[str, int], checkpoint: Path | None
) -> dict[str, int | None]:
    """How many rows each table has; None where nobody says."""
    tables = sorted(tables)
    for table, count in rows.items():
        if table not in tables:
            raise StatsError(f"rows of table {table!r}, which no field names")
        if not 0 < count <= MOST_ROWS:
            raise StatsError(f"rows of table {table!r}", got=count, expected=f"1 to {MOST_ROWS}")
    lengths: dict[str, int | None] = {table: rows.get(table) for table in tables}
    if checkpoint is None:
        return lengths
    source = open_checkpoint(checkpoint)
    for table in tables:
        tensor = source.tensors.get(table)
        if tensor is None or len(tensor.shape) != 2:
            matrices = [name for name, one in source.tensors.items() if len(one.shape) == 2]
            near = difflib.get_close_matches(table, matrices, 3) or matrices[:8]
            remedy = f"tables are {', '.join(near)}" if near else ""
            raise StatsError(f"no table {table!r} in it", where=source.name, remedy=remedy)
        if lengths[table] not in (None, tensor.rows):
            got, expected = lengths[table], tensor.rows
            raise StatsError(
                f"rows of table {table!r}", where=source.name, got=got, expected=expected
            )
        lengths[table] = tensor.rows
    return lengths


def _columns(
    counts: Mapping[str, RowCounts],
    tables: Mapping[str, TableCount],
    *,
    labelled: bool,
    ranked: bool,
) -> dict[str, Column]:
    kinds = [("count", "int64", True), ("positive", "int64", labelled)]
    kinds += [("priority", "float32", ranked)]
    return {
        f"tables/{table}/{kind}": Column(dtype, (found.rows,), _blocks(counts[table], at, found))
        for table, found in tables.items()
        for at, (kind, dtype, wanted) in enumerate(kinds)
        if wanted
    }


def _blocks(counts: RowCounts, kind: int, found: TableCount) -> Iterator[NDArray[Any]]:
    for start, stop in spans(found.rows):
        yield counts.block(start, stop)[kind]
