"""Two checkpoints or stores compared, block by block, on all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sharkstore.diff.model import Difference, Parameters, Part, Status, TableDifference, part
from sharkstore.diff.rows import COLUMNS, Sums, Worst
from sharkstore.diff.sides import Side, open_side
from sharkstore.encodings import ROWS_PER_BLOCK
from sharkstore.errors import ArgumentError
from sharkstore.plan.select import can_be_table, choose_tables
from sharkstore.plan.stats import Stats, check_stats
from sharkstore.stats.file import open_stats
from sharkstore.tensors import FLOATS, Tensor, as_float32

T = TypeVar("T")
Path = str | os.PathLike[str]
# told of a stage, the bytes just done, and the bytes of the whole stage
Progress = Callable[[str, int, int], None]

PIECE_VALUES = 1 << 20  # a thread's task
BLOCK_VALUES = 1 << 15  # stays, with its float64 copies, in a core's own cache
MOST_WORKERS = 8


def diff(
    a: Path,
    b: Path,
    *,
    stats: Path | None = None,
    tables: Sequence[str] = (),
    rank_files: str | None = None,
    sharded: Sequence[str] = (),
    progress: Progress | None = None,
) -> Difference:
    """Compare two checkpoints or stores.

    Values are compared in float32, as conversion reads them and lookups give them; figures are
    summed in float64, in the rows' order: they repeat bit for bit. Memory is bounded.

    Args:
        a: the original: a checkpoint or a store.
        b: what became of it: the same. Tiers are those of B; of A, if B is a checkpoint.
        stats: counts of rows, for figures weighted by use.
        tables: globs over names: only these tables, and no parameters. Of two checkpoints
            they say which tensors are tables, instead of conversion's rule.
        rank_files: how files of ranks are named, where a side is a folder of them.
        sharded: globs over keys of rank files that hold a part of a table's rows each.
        progress: called with "diff", the float32 bytes just compared, and those in all.

    Raises:
        CheckpointNotFoundError, CheckpointError, FormatError, VersionError, CorruptStoreError:
            a side that can't be read.
        StatsError: stats of another model.
        ArgumentError: a glob that matches no table.
        PlanError: the same, or no tables found, of two checkpoints.
    """
    left, right = open_side(a, rank_files, sharded), open_side(b, rank_files, sharded)
    measured = None if stats is None else open_stats(stats)
    known = {**right.dropped, **left.dropped, **right.tensors, **left.tensors}
    if measured is not None:
        check_stats(measured, known)
    names = _table_names(left, right, tables)
    found = [_placed(name, left, right) for name in names]
    compared = [one.name for one in found if one.status == "compared"]
    sums = _sum_tables(left, right, compared, measured or Stats(), progress)
    counted = [n for n in compared if measured is not None and measured.count(n) is not None]
    return Difference(
        tables=tuple(
            _with_figures(one, sums[one.name], left, right, counted=one.name in counted)
            if one.name in sums
            else one
            for one in found
        ),
        total=_total(sums, counted),
        parameters=None if tables else _parameters(left, right, set(names)),
        left={**right.left, **left.left},
        uncounted=None if measured is None else tuple(n for n in compared if n not in counted),
    )


def _table_names(left: Side, right: Side, patterns: Sequence[str]) -> list[str]:
    """What is a table on either side, or was one; A's first."""
    if left.tables is None and right.tables is None:
        return list(choose_tables({**left.tensors, **right.tensors}, patterns, set()))
    sides = (left, right)
    named = {name for side in sides for name in (*(side.tables or {}), *side.dropped)}
    order = [name for side in sides for name in (*side.tensors, *side.dropped) if name in named]
    names = list(dict.fromkeys(order))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
            message = f"--tables {pattern!r} matches no table"
            raise ArgumentError(message, remedy=f"the tables are {shown or 'none'}")
    chosen = [one for one in names if any(fnmatchcase(one, pattern) for pattern in patterns)]
    return chosen if patterns else names


def _placed(name: str, left: Side, right: Side) -> TableDifference:
    """Where a table is, and whether it can be compared."""
    tensors = tuple(side.tensors.get(name) or side.dropped.get(name) for side in (left, right))
    a, b = (None if one is None else one.shape for one in tensors)
    status: Status = "compared"
    if name in left.tensors and name in right.tensors:
        fit = all(can_be_table(side.tensors[name]) for side in (left, right))
        status = "compared" if a == b and fit else "shape"
    elif a is not None and b is not None and a != b:
        status = "shape"
    elif name in right.dropped:
        status = "dropped" if name in left.dropped else "dropped_b"
    elif name in left.dropped:
        status = "dropped_a"
    else:
        status = "only_a" if b is None else "only_b"
    return TableDifference(name, status, (a, b), (name in left.pruned, name in right.pruned))


def _encodings(name: str, left: Side, right: Side) -> tuple[str, ...]:
    """Tiers of B; of A, if B has none."""
    for side in (right, left):
        if side.tables is not None and name in side.tables:
            return side.tables[name]
    return (right.tensors[name].dtype,)


def _sum_tables(
    left: Side, right: Side, names: Sequence[str], stats: Stats, progress: Progress | None
) -> dict[str, Sums]:
    tiers = {name: len(_encodings(name, left, right)) for name in names}
    sums = {name: Sums(count) for name, count in tiers.items()}
    counts = {name: stats.count(name) for name in names}
    total = sum(left.tensors[name].rows * left.tensors[name].shape[1] * 4 for name in names)

    def compare(piece: tuple[str, int, int]) -> Sums:
        name, start, stop = piece
        return _sum_piece(left, right, name, counts[name], (start, stop), tiers[name])

    pieces = [left.tensors[name] for name in names]
    for (name, start, stop), found in _in_order(compare, _pieces(pieces)):
        sums[name].merge(found)
        if progress is not None:
            progress("diff", (stop - start) * left.tensors[name].shape[1] * 4, total)
    return sums


def _pieces(tables: Iterable[Tensor]) -> Iterator[tuple[str, int, int]]:
    for tensor in tables:
        step = _rows_of(PIECE_VALUES, tensor)
        for start in range(0, tensor.rows, step):
            yield tensor.name, start, min(start + step, tensor.rows)


def _rows_of(values: int, tensor: Tensor) -> int:
    """Rows that make about so many values, in whole blocks of the row map."""
    return max(1, values // tensor.shape[1] // ROWS_PER_BLOCK) * ROWS_PER_BLOCK


def _sum_piece(
    left: Side,
    right: Side,
    name: str,
    counts: NDArray[Any] | None,
    rows: tuple[int, int],
    tiers: int,
) -> Sums:
    sums = Sums(tiers)
    side = right if right.tables is not None and name in right.tables else left
    step = _rows_of(BLOCK_VALUES, left.tensors[name])
    for start in range(*rows, step):
        stop = min(start + step, rows[1])
        uses = None if counts is None else counts[start:stop].astype(np.float64)
        blocks = left.rows(name, start, stop), right.rows(name, start, stop)
        sums.add(*blocks, side.tiers(name, start, stop), uses, start)
    return sums


def _in_order(
    work: Callable[[tuple[str, int, int]], T], tasks: Iterable[tuple[str, int, int]]
) -> Iterator[tuple[tuple[str, int, int], T]]:
    """Results in the order of tasks, of which few are under way at a time."""
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    waiting: deque[tuple[tuple[str, int, int], Future[T]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                waiting.append((task, pool.submit(work, task)))
                if len(waiting) > 2 * workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _with_figures(
    table: TableDifference, sums: Sums, left: Side, right: Side, *, counted: bool
) -> TableDifference:
    encodings = _encodings(table.name, left, right)
    parts = [
        part(sums.plain[i], sums.seen[i] if counted else None, sums.worst[i])
        for i in range(len(encodings))
    ]
    seen = sums.seen.sum(axis=0) if counted else None
    worst = max(sums.worst, key=lambda one: (one.square, -one.row))
    whole = part(sums.plain.sum(axis=0), seen, worst)
    tiers = tuple(zip(encodings, parts, strict=True))
    return TableDifference(
        table.name, table.status, table.shapes, table.pruned, whole=whole, tiers=tiers
    )


def _total(sums: Mapping[str, Sums], counted: Sequence[str]) -> Part:
    plain, seen = np.zeros(COLUMNS), np.zeros(COLUMNS)
    for one in sums.values():
        plain += one.plain.sum(axis=0)
        seen += one.seen.sum(axis=0)
    return part(plain, seen if counted else None, Worst())


def _parameters(left: Side, right: Side, tables: set[str]) -> Parameters:
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys((*left.tensors, *right.tensors)):
        if name not in tables:
            found.setdefault(_parameter(name, left, right), []).append(name)
    return Parameters(**{status: tuple(names) for status, names in found.items()})


def _parameter(name: str, left: Side, right: Side) -> str:
    if name not in left.tensors or name not in right.tensors:
        return "only_a" if name in left.tensors else "only_b"
    a, b = left.tensors[name], right.tensors[name]
    if a.shape != b.shape:
        return "shape"
    return "equal" if _equal(left.read(name), a.dtype, right.read(name), b.dtype) else "differ"


def _equal(a: NDArray[Any], a_dtype: str, b: NDArray[Any], b_dtype: str) -> bool:
    """Bit for bit; floating values of different dtypes in float32."""
    if a_dtype != b_dtype and not {a_dtype, b_dtype} <= set(FLOATS):
        return False
    a, b = a.reshape(-1), b.reshape(-1)
    for start in range(0, len(a), PIECE_VALUES):
        one, other = a[start : start + PIECE_VALUES], b[start : start + PIECE_VALUES]
        if a_dtype != b_dtype:
            one, other = as_float32(one, a_dtype), as_float32(other, b_dtype)
        if not np.array_equal(one.view(np.uint8), other.view(np.uint8)):
            return False
    return True
