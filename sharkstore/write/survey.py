"""One pass over the checkpoint ahead of writing: what is wrong, how large, which mean.

Nothing is written before every table was found sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.checksum import crc32c
from sharkstore.encodings import ROWS_PER_BLOCK
from sharkstore.errors import NonFiniteError
from sharkstore.plan.model import TablePlan
from sharkstore.quant import encode
from sharkstore.quant.measure import BINS, LOWEST, Measures
from sharkstore.tensors import Tensor, TensorSource, as_float32
from sharkstore.write.rows import TableRows, pieces

Advance = Callable[[int], None]
SHOWN_ROWS = 5
WHOLE = -1
# measured right after its checksum was taken: it is in a core's own cache then
PART_BYTES = 512 << 10


@dataclass(slots=True)
class Survey:
    """What a pass over one table found.

    Args:
        largest: largest absolute value of each tier.
        magnitudes: of each tier, rows by the binary exponent of their range if affine, else of
            their largest absolute value, zero left out: int64 (tiers, BINS).
        faint: rows, at least, that are too small for their tier's encoding.
        zeroed: values that were NaN or infinite and become zero.
        bad: the first rows with NaN or infinities that are not to become zero.
        bad_rows: how many such rows there are.
        means: of the tiers that are stored as their mean row: float32 (dim,), weighted by the
            rows' counts; by index of the tier.
        mean: the same over all rows, where ids out of bounds get it.
        crc: crc32c of the tensor's bytes as the checkpoint has them.
    """

    largest: list[float]
    magnitudes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, BINS), np.int64))
    faint: int = 0
    zeroed: int = 0
    bad: list[int] = field(default_factory=list)
    bad_rows: int = 0
    means: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    mean: NDArray[np.float32] | None = None
    crc: int = 0


@dataclass(slots=True)
class _Sums:
    """Running sums for the mean row: by use, and plain for a table that is never used."""

    weighted: NDArray[np.float64] | float = 0.0
    plain: NDArray[np.float64] | float = 0.0
    uses: float = 0.0
    rows: int = 0

    def add(self, rows: NDArray[np.float32], counts: NDArray[Any] | None, chosen: Any) -> None:
        values = rows[chosen].astype(np.float64)
        counts = None if counts is None else counts[chosen]
        # numpy adds in an order that depends on shapes alone: the same sum on every machine
        self.plain += values.sum(axis=0)
        self.rows += len(values)
        if counts is not None:
            self.weighted += (values * counts[:, None]).sum(axis=0)
            self.uses += float(counts.sum(dtype=np.float64))

    def mean(self) -> NDArray[np.float32]:
        sums, weight = (self.weighted, self.uses) if self.uses > 0 else (self.plain, self.rows)
        return np.asarray(sums / (weight or 1), np.float32)


def survey_table(
    rows: TableRows, table: TablePlan, counts: NDArray[Any] | None, advance: Advance
) -> Survey:
    """Read a table once.

    Args:
        counts: uses of each row (rows,), for the mean row; None weighs all rows alike.
        advance: told the bytes read.

    Raises:
        NonFiniteError: NaN or infinities, or values that a tier's encoding can't hold;
            names the table and the first rows.
    """
    tensor = rows.tensor
    stored = table.stored_tiers
    found = Survey([0.0] * len(stored))
    measures = Measures(tuple(tier.encoding for tier in stored))
    constant = [i for i, tier in enumerate(stored) if tier.encoding.name == "constant"]
    sums = {index: _Sums() for index in constant}
    if table.default == "mean":
        sums[WHOLE] = _Sums()
    for start in range(0, tensor.rows, rows.block_rows):
        stop = min(tensor.rows, start + rows.block_rows)
        raw = np.ascontiguousarray(rows.source.read(tensor.name, start, stop))
        if table.action == "drop":
            found.crc = crc32c(raw, found.crc)
        else:
            _survey_block(raw, start, rows, measures, found)
            block = _finite(as_float32(raw, tensor.dtype)) if sums else raw
            for index, one in sums.items():
                all_rows = index == WHOLE or len(stored) == 1
                chosen = slice(None) if all_rows else rows.tiers(start, stop) == index
                one.add(block, None if counts is None else counts[start:stop], chosen)
        advance(raw.nbytes)
    found.largest, found.magnitudes = measures.largest.tolist(), measures.magnitudes
    _refuse_nonfinite(table.name, found)
    if table.action != "drop":
        _refuse_overflow(table, found)
        found.faint = _faint(table, found)
    means = {index: np.broadcast_to(one.mean(), table.dim) for index, one in sums.items()}
    found.mean = means.pop(WHOLE, None)
    found.means = means
    return found


def _survey_block(
    raw: NDArray[Any], start: int, rows: TableRows, measures: Measures, found: Survey
) -> None:
    """Checksum and measure rows from `start` on, part after part while it is in the cache."""
    step = max(1, PART_BYTES // rows.tensor.row_bytes // ROWS_PER_BLOCK) * ROWS_PER_BLOCK
    for at in range(0, len(raw), step):
        part = raw[at : at + step]
        found.crc = crc32c(part, found.crc)
        values = as_float32(part, rows.tensor.dtype)
        blocks = rows.blocks(start + at, start + at + len(part))
        if not measures.add(values, blocks):
            _note_nonfinite(values, start + at, rows, found)
            measures.add(_finite(values), blocks)


def _note_nonfinite(
    values: NDArray[np.float32], start: int, rows: TableRows, found: Survey
) -> None:
    finite = np.isfinite(values)
    if rows.zero_nonfinite:
        found.zeroed += int(np.count_nonzero(~finite))
    else:
        bad = np.flatnonzero(~finite.all(axis=1))
        found.bad_rows += len(bad)
        found.bad += (start + bad[: SHOWN_ROWS - len(found.bad)]).tolist()


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values, with zeros for those that are not finite."""
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.float32(0))


def _refuse_nonfinite(name: str, found: Survey) -> None:
    if found.bad:
        others = found.bad_rows - len(found.bad)
        more = f" and {others:,} more" if others else ""
        shown = ", ".join(map(str, found.bad))
        raise NonFiniteError(
            f"NaN or infinity in rows {shown}{more}",
            where=f"table {name!r}",
            remedy="mend the checkpoint, or --nonfinite zero stores such values as 0",
        )


def _refuse_overflow(table: TablePlan, found: Survey) -> None:
    for tier, largest in zip(table.stored_tiers, found.largest, strict=True):
        limit = encode.overflow(tier.encoding)
        if largest >= limit:
            raise NonFiniteError(
                f"a value of {largest:g} does not fit {tier.encoding}",
                where=f"table {table.name!r}",
                expected=f"below {limit:g}",
                remedy="store this table as f32 or int8",
            )


def _faint(table: TablePlan, found: Survey) -> int:
    """Rows whose magnitude is wholly below what their tier's encoding can tell from zero."""
    rows = 0
    for tier, largest, histogram in zip(
        table.stored_tiers, found.largest, found.magnitudes, strict=True
    ):
        limit = encode.faint(encode.fitted(tier.encoding, largest))
        # a bin holds values below 2 ** exponent
        below = int(np.frexp(limit)[1]) - 1 + LOWEST if limit else -1
        rows += int(histogram[: below + 1].sum())
    return rows


def survey_dense(source: TensorSource, tensor: Tensor, advance: Advance) -> int:
    """crc32c of a tensor's bytes as the checkpoint has them."""
    crc = 0
    for piece in pieces(source, tensor, 0, tensor.rows):
        crc = crc32c(piece, crc)
        advance(piece.nbytes)
    return crc


@dataclass(slots=True)
class Surveys:
    """What was found in the whole checkpoint."""

    tables: dict[str, Survey] = field(default_factory=dict)
    dense: dict[str, int] = field(default_factory=dict)

    def source_digest(self, tensors: Mapping[str, Tensor]) -> str:
        """A name for the checkpoint's content, whatever file it lies in."""
        crcs = {name: one.crc for name, one in self.tables.items()} | self.dense
        hasher = hashlib.sha256()
        for name in sorted(crcs):
            tensor = tensors[name]
            line = f"{name}\t{tensor.dtype}\t{list(tensor.shape)}\t{crcs[name]:08x}\n"
            hasher.update(line.encode())
        return f"sha256:{hasher.hexdigest()}"
