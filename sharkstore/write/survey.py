"""What a pass over the checkpoint ahead of writing comes to: what is wrong, how large, which mean.

Nothing is written before every table was found sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import NonFiniteError
from sharkstore.plan.model import TablePlan
from sharkstore.quant import encode
from sharkstore.quant.measure import BINS, LOWEST
from sharkstore.tensors import Tensor
from sharkstore.write.scan import WHOLE, Scan


@dataclass(slots=True)
class Survey:
    """What was found in one table.

    Args:
        largest: largest absolute value of each tier.
        magnitudes: of each tier, rows by the binary exponent of their range if affine, else of
            their largest absolute value, zero left out: int64 (tiers, BINS).
        faint: rows, at least, that are too small for their tier's encoding.
        zeroed: values that were NaN or infinite and become zero.
        means: of the tiers that are stored as their mean row: float32 (dim,), weighted by the
            rows' counts; by index of the tier.
        mean: the same over all rows, where ids out of bounds get it.
        crcs: crc32c of the tensor's spans as the checkpoint has them.
    """

    largest: list[float]
    magnitudes: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, BINS), np.int64))
    faint: int = 0
    zeroed: int = 0
    means: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    mean: NDArray[np.float32] | None = None
    crcs: list[int] = field(default_factory=list)


def survey_of(table: TablePlan, scan: Scan) -> Survey:
    """What the scan of a whole table means.

    Raises:
        NonFiniteError: NaN or infinities, or values that a tier's encoding can't hold;
            names the table and the first rows.
    """
    _refuse_nonfinite(table.name, scan)
    found = Survey(scan.largest.tolist(), scan.magnitudes, zeroed=scan.zeroed, crcs=scan.crcs)
    if table.action != "drop":
        _refuse_overflow(table, found)
        found.faint = _faint(table, found)
    means = {index: one.mean() for index, one in scan.sums.items()}
    found.mean = means.pop(WHOLE, None)
    found.means = means
    return found


def _refuse_nonfinite(name: str, found: Scan) -> None:
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


@dataclass(slots=True)
class Surveys:
    """What was found in the whole checkpoint.

    Args:
        dense: crc32c of the spans of parameters that are no tables.
    """

    tables: dict[str, Survey] = field(default_factory=dict)
    dense: dict[str, list[int]] = field(default_factory=dict)

    def source_digest(self, tensors: Mapping[str, Tensor]) -> str:
        """A name for the checkpoint's content, whatever files it lies in."""
        crcs = {name: one.crcs for name, one in self.tables.items()} | self.dense
        hasher = hashlib.sha256()
        for name in sorted(crcs):
            tensor = tensors[name]
            spans = ",".join(f"{crc:08x}" for crc in crcs[name] or [0])
            line = f"{name}\t{tensor.dtype}\t{list(tensor.shape)}\t{spans}\n"
            hasher.update(line.encode())
        return f"sha256:{hasher.hexdigest()}"
