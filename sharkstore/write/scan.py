"""One pass over the rows of a checkpoint ahead of writing, span by span.

What is found in spans of a table adds up to what is found in the table, whoever looked at them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.checksum import crc32c
from sharkstore.encodings import ROWS_PER_BLOCK
from sharkstore.plan.model import Plan, TablePlan
from sharkstore.plan.stats import Stats
from sharkstore.quant.measure import BINS, Measures
from sharkstore.tensors import Tensor, TensorSource, as_float32
from sharkstore.write.rows import TableRows, pieces

F64 = NDArray[np.float64]
SHOWN_ROWS = 5
WHOLE = -1
# measured right after its checksum was taken: it is in a core's own cache then
PART_BYTES = 512 << 10
# a span is a 64th of a table, but no smaller and no larger than this
LEAST_SPAN, MOST_SPAN = 32 << 20, 512 << 20


@dataclass(slots=True)
class Sums:
    """Running sums for the mean row: by use, and plain for a table that is never used."""

    weighted: F64
    plain: F64
    uses: float = 0.0
    rows: int = 0

    @classmethod
    def of(cls, dim: int) -> Sums:
        return cls(np.zeros(dim), np.zeros(dim))

    def add(self, rows: NDArray[np.float32], counts: NDArray[Any] | None, chosen: Any) -> None:
        values = rows[chosen].astype(np.float64)
        counts = None if counts is None else counts[chosen]
        # numpy adds in an order that depends on shapes alone: the same sum on every machine
        self.plain += values.sum(axis=0)
        self.rows += len(values)
        if counts is not None:
            self.weighted += (values * counts[:, None]).sum(axis=0)
            self.uses += float(counts.sum(dtype=np.float64))

    def join(self, later: Sums) -> None:
        """Add those of later rows."""
        self.weighted += later.weighted
        self.plain += later.plain
        self.uses += later.uses
        self.rows += later.rows

    def mean(self) -> NDArray[np.float32]:
        sums, weight = (self.weighted, self.uses) if self.uses > 0 else (self.plain, self.rows)
        return np.asarray(sums / (weight or 1), np.float32)


@dataclass(slots=True)
class Scan:
    """What a pass over some rows of a table found.

    Args:
        largest: largest absolute value of each tier: float32 (tiers,).
        magnitudes: see `Measures`: int64 (tiers, BINS).
        zeroed: values that were NaN or infinite and become zero.
        bad: the first rows with NaN or infinities that are not to become zero.
        bad_rows: how many such rows there are.
        sums: of the tiers that are stored as their mean row, by index; of all rows by `WHOLE`.
        crcs: crc32c of the spans' bytes as the checkpoint has them.
    """

    largest: NDArray[np.float32]
    magnitudes: NDArray[np.int64]
    zeroed: int = 0
    bad: list[int] = field(default_factory=list)
    bad_rows: int = 0
    sums: dict[int, Sums] = field(default_factory=dict)
    crcs: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, table: TablePlan) -> Scan:
        """Of no rows."""
        stored = table.stored_tiers
        wanted = [i for i, tier in enumerate(stored) if tier.encoding.name == "constant"]
        if table.default == "mean":
            wanted.append(WHOLE)
        sums = {} if table.action == "drop" else {i: Sums.of(table.dim) for i in wanted}
        magnitudes = np.zeros((len(stored), BINS), np.int64)
        return cls(np.zeros(len(stored), np.float32), magnitudes, sums=sums)

    def join(self, later: Scan) -> None:
        """Add what was found in the rows that follow."""
        np.maximum(self.largest, later.largest, out=self.largest)
        self.magnitudes += later.magnitudes
        self.zeroed += later.zeroed
        self.bad += later.bad[: SHOWN_ROWS - len(self.bad)]
        self.bad_rows += later.bad_rows
        for index, sums in self.sums.items():
            sums.join(later.sums[index])
        self.crcs += later.crcs

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        tiers, bins = np.nonzero(self.magnitudes)
        counts = self.magnitudes[tiers, bins]
        return {
            "largest": self.largest.tolist(),
            "magnitudes": np.stack([tiers, bins, counts], axis=1).tolist(),
            "zeroed": self.zeroed,
            "bad": self.bad,
            "bad_rows": self.bad_rows,
            "sums": {
                str(index): [one.weighted.tolist(), one.plain.tolist(), one.uses, one.rows]
                for index, one in self.sums.items()
            },
            "crcs": self.crcs,
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Scan:
        """Out of its document."""
        largest = np.asarray(document["largest"], np.float32)
        magnitudes = np.zeros((len(largest), BINS), np.int64)
        for tier, place, count in document["magnitudes"]:
            magnitudes[tier, place] = count
        sums = {
            int(index): Sums(np.asarray(weighted), np.asarray(plain), uses, rows)
            for index, (weighted, plain, uses, rows) in document["sums"].items()
        }
        known = {key: document[key] for key in ("zeroed", "bad", "bad_rows", "crcs")}
        return cls(largest, magnitudes, sums=sums, **known)


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of a tensor of the checkpoint."""

    name: str
    start: int
    stop: int
    nbytes: int


def spans(tensor: Tensor, block_rows: int) -> Iterator[Span]:
    """A tensor in spans of whole blocks; the same whoever asks."""
    most = min(max(tensor.nbytes // 64, LEAST_SPAN), MOST_SPAN)
    step = max(1, most // max(1, tensor.row_bytes * block_rows)) * block_rows
    for start in range(0, tensor.rows, step):
        stop = min(tensor.rows, start + step)
        yield Span(tensor.name, start, stop, (stop - start) * tensor.row_bytes)


@dataclass(frozen=True, slots=True)
class Scanned:
    """What scanning reads.

    Args:
        rows: the tables' rows, by table.
    """

    source: TensorSource
    tensors: Mapping[str, Tensor]
    plan: Plan
    stats: Stats
    rows: Mapping[str, TableRows]


def scan_spans(inputs: Scanned, batch: Sequence[Span]) -> list[dict[str, Any]]:
    """A task: look at some spans; a document of each, see `Scan` (of tables) and crcs."""
    tables = {table.name: table for table in inputs.plan.tables}
    found = []
    for span in batch:
        table = tables.get(span.name)
        if table is None:
            found.append({"crcs": [scan_dense(inputs.source, inputs.tensors[span.name], span)]})
        else:
            counts = inputs.stats.count(span.name)
            found.append(scan_rows(inputs.rows[span.name], table, counts, span).document())
    return found


def scan_dense(source: TensorSource, tensor: Tensor, span: Span) -> int:
    """crc32c of a span's bytes as the checkpoint has them."""
    crc = 0
    for piece in pieces(source, tensor, span.start, span.stop):
        crc = crc32c(piece, crc)
    return crc


def scan_rows(rows: TableRows, table: TablePlan, counts: NDArray[Any] | None, span: Span) -> Scan:
    """Look at a span of a table.

    Args:
        counts: uses of each row (rows,), for the mean row; None weighs all rows alike.
    """
    tensor = rows.tensor
    found = Scan.empty(table)
    measures = Measures(tuple(tier.encoding for tier in table.stored_tiers))
    crc = 0
    for start in range(span.start, span.stop, rows.block_rows):
        stop = min(span.stop, start + rows.block_rows)
        raw = np.ascontiguousarray(rows.source.read(tensor.name, start, stop))
        if table.action == "drop":
            crc = crc32c(raw, crc)
            continue
        crc = _scan_block(raw, start, rows, measures, found, crc)
        block = finite(as_float32(raw, tensor.dtype)) if found.sums else raw
        for index, one in found.sums.items():
            all_rows = index == WHOLE or len(table.stored_tiers) == 1
            chosen = slice(None) if all_rows else rows.tiers(start, stop) == index
            one.add(block, None if counts is None else counts[start:stop], chosen)
    found.largest, found.magnitudes = measures.largest, measures.magnitudes
    found.crcs = [crc]
    return found


def _scan_block(
    raw: NDArray[Any], start: int, rows: TableRows, measures: Measures, found: Scan, crc: int
) -> int:
    """Checksum and measure rows from `start` on, part after part while it is in the cache."""
    step = max(1, PART_BYTES // rows.tensor.row_bytes // ROWS_PER_BLOCK) * ROWS_PER_BLOCK
    for at in range(0, len(raw), step):
        part = raw[at : at + step]
        crc = crc32c(part, crc)
        values = as_float32(part, rows.tensor.dtype)
        blocks = rows.blocks(start + at, start + at + len(part))
        if not measures.add(values, blocks):
            _note_nonfinite(values, start + at, rows, found)
            measures.add(finite(values), blocks)
    return crc


def _note_nonfinite(values: NDArray[np.float32], start: int, rows: TableRows, found: Scan) -> None:
    whole = np.isfinite(values)
    if rows.zero_nonfinite:
        found.zeroed += int(np.count_nonzero(~whole))
    else:
        bad = np.flatnonzero(~whole.all(axis=1))
        found.bad_rows += len(bad)
        found.bad += (start + bad[: SHOWN_ROWS - len(found.bad)]).tolist()


def finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values, with zeros for those that are not finite."""
    known = np.isfinite(values)
    return values if known.all() else np.where(known, values, np.float32(0))
