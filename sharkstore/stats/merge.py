"""Stats files in one: of several processes, or of several days, the older counting less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import StatsError
from sharkstore.plan.stats import FIELD_KINDS, MOST, Stats
from sharkstore.stats.agree import check_agreement
from sharkstore.stats.file import Column, Path, Progress, open_stats, spans, write_stats
from sharkstore.stats.inputs import Inputs, checked, column, distinct, number, table_numbers
from sharkstore.stats.totals import merged_metadata

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MergedFile:
    """An input: the samples it counted, if it says, and what its sums were multiplied by."""

    path: str
    samples: float | None
    share: float


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did.

    Args:
        files: the inputs.
        arrays: keys of what was merged.
        notes: what had to be assumed or was left out.
    """

    files: tuple[MergedFile, ...]
    arrays: tuple[str, ...]
    notes: tuple[str, ...]


def merge_stats(
    paths: Sequence[Path], out: Path, decay: float | None = None, progress: Progress | None = None
) -> Merged:
    """Merge stats files of one model.

    Without `decay` the files are parts of one period, and what they count is added up. With it
    each file is a period, in the order given, and `X ← (1 − decay) · X + decay · X'` for all
    that is counted, the first file as it is (SHARK's rule for priorities, arXiv 2308.09395, on
    counts too). Mean rows are means weighted by the table's counts, metrics by its uses (counts
    where `uses` isn't said), field scores by the samples measured (`samples` where `measured`
    isn't said). Sensitivity follows from merged counts and metric; without metrics it is added.

    Args:
        paths: the files, each once.
        out: replaced if it is there; may be one of `paths`.
        decay: the share of the latest period, in (0, 1].
        progress: called with `write`, the bytes just written, and the bytes in all.

    Raises:
        StatsError: files of other models or measured otherwise, or with values that are none.
        WriteError: the disk is full or refuses. Nothing is written.
    """
    if decay is not None and not 0 < decay <= 1:
        raise StatsError("decay is a share", got=decay, expected="above 0, at most 1")
    files = [open_stats(path) for path in distinct(paths)]
    check_agreement(files)
    merge = Inputs(files, _shares(len(files), decay), exact=decay is None)
    columns = {**_table_columns(merge), **_field_columns(merge)}
    metadata = merged_metadata(merge)
    if decay is not None:
        metadata["decay"] = repr(float(decay))
    write_stats(out, columns, metadata, progress)
    used = [MergedFile(one.where, number(one, "samples"), share) for one, share in merge.pairs()]
    return Merged(tuple(used), tuple(columns), merge.told())


def _shares(count: int, decay: float | None) -> list[float]:
    """What each period counts in the end."""
    if decay is None:
        return [1.0] * count
    last = count - 1
    return [(1 - decay) ** (last - k) * (decay if k else 1.0) for k in range(count)]


def _table_columns(merge: Inputs) -> dict[str, Column]:
    columns: dict[str, Column | None] = {}
    for table in sorted({table for stats in merge.files for table in stats.tables}):
        start = f"tables/{table}/"
        count = _added(merge, start + "count")
        metric = _mean(merge, start + "metric", table)
        columns[start + "count"] = count
        columns[start + "positive"] = _added(merge, start + "positive")
        columns[start + "priority"] = _added(merge, start + "priority", stand_in=start + "count")
        columns[start + "mean"] = _mean(merge, start + "mean", table)
        columns[start + "metric"] = metric
        columns[start + "sensitivity"] = _sensitivity(merge, table, metric)
    return {key: made for key, made in columns.items() if made is not None}


def _field_columns(merge: Inputs) -> dict[str, Column]:
    unknown = {key for stats in merge.files for key in stats.unknown}
    for key in sorted(unknown):
        merge.note("of kinds that are not known, left out", key)
    keys = {key for stats in merge.files for key in stats.arrays if key.startswith("fields/")}
    means = {key: _mean(merge, key) for key in sorted(keys - unknown)}
    return {key: made for key, made in means.items() if made is not None}


def _added(merge: Inputs, key: str, stand_in: str | None = None) -> Column | None:
    """Sums row by row, `stand_in` where a file doesn't have the key; None if no file has it."""
    having = merge.having(key)
    if not having:
        return None
    kind = key.rpartition("/")[2]
    if stand_in is not None:
        more = [one for one in merge.having(stand_in) if key not in one[0].arrays]
        for stats, _, _ in more:
            merge.note(f"without priorities, so counts stand in for {key}", stats.where)
        having += more
    whole = kind in ("count", "positive") and all(a.dtype.kind in "iu" for _, _, a in having)
    dtype = "int64" if whole and merge.exact else "float32"
    rows = len(having[0][2])
    return Column(dtype, (rows,), _sums(merge, key, having, dtype))


def _sums(
    merge: Inputs, key: str, having: Sequence[tuple[Stats, float, NDArray[Any]]], dtype: str
) -> Iterator[NDArray[Any]]:
    wide = np.int64 if dtype == "int64" else np.float64
    for start, stop in spans(len(having[0][2])):
        total: NDArray[Any] = np.zeros(stop - start, wide)
        for stats, share, array in having:
            block = array[start:stop]
            checked(block, key, stats.where, least=0, row=start)
            total += block.astype(wide) if merge.exact else block * np.float64(share)
        checked(total, key, "the sum", least=0, row=start)
        yield total


def _sensitivity(merge: Inputs, table: str, metric: Column | None) -> Column | None:
    """(count + ½) · trace(metric) / dim; the sum where the files have it without metrics."""
    start = f"tables/{table}/"
    having = merge.having(start + "sensitivity")
    counts = merge.having(start + "count")
    follows = metric is not None and all(
        {start + "metric", start + "count"} <= set(stats.arrays) for stats, _, _ in having
    )
    if not having or not follows or metric is None:
        return _added(merge, start + "sensitivity")
    (matrix,) = metric.blocks
    curve = float(np.trace(matrix)) / metric.shape[0] if metric.shape[0] else 0.0
    rows = len(counts[0][2])
    sums = _sums(merge, start + "count", counts, "float32")
    return Column("float32", (rows,), _scaled(sums, curve, start + "sensitivity"))


def _scaled(counts: Iterator[F64], curve: float, key: str) -> Iterator[F64]:
    start = 0
    for block in counts:
        made = (block + 0.5) * curve
        checked(made, key, "the product", least=0, row=start)
        start += len(made)
        yield made


def _mean(merge: Inputs, key: str, table: str = "") -> Column | None:
    """The mean over the files that have it, each by its weight."""
    having = merge.having(key)
    if not having:
        return None
    weights = _weights(merge, key, table, having) if len(having) > 1 else [1.0]
    total = np.zeros(having[0][2].shape, np.float64)
    for (stats, _, array), weight in zip(having, weights, strict=True):
        if weight:
            checked(array, key, stats.where, least=-MOST)
            total += array * (weight / sum(weights))
    dtype = "float32" if table else "float64"
    return Column(dtype, total.shape, [total])


def _weights(
    merge: Inputs, key: str, table: str, having: Sequence[tuple[Stats, float, NDArray[Any]]]
) -> list[float]:
    """What each file's mean counts; alike where one doesn't say what it is over."""
    kind = key.rpartition("/")[2]
    over = [_over(stats, kind, table) for stats, _, _ in having]
    for (stats, _, _), known in zip(having, over, strict=True):
        if known is None:
            merge.note(f"no weight known, so files weigh alike in {key}", stats.where)
    shares = [share for _, share, _ in having]
    weights = [share * (known or 0.0) for share, known in zip(shares, over, strict=True)]
    weights = shares if None in over or not sum(weights) else weights
    return weights if sum(weights) else [1.0] * len(having)


def _over(stats: Stats, kind: str, table: str) -> float | None:
    """What a file's mean is over: uses, or samples; None if it doesn't say."""
    if kind in FIELD_KINDS:
        measured = number(stats, "measured")
        return number(stats, "samples") if measured is None else measured
    uses = table_numbers(stats, "uses").get(table) if kind == "metric" else None
    key = f"tables/{table}/count"
    count = column(stats, key)
    if uses is not None or count is None:
        return uses
    total = 0.0
    for start, stop in spans(len(count)):
        checked(count[start:stop], key, stats.where, least=0, row=start)
        total += float(count[start:stop].sum(dtype=np.float64))
    return total
