"""Totals as a stats file."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.importance.table import TableTotals
from sharkstore.importance.totals import Totals
from sharkstore.stats.file import Column, Path, check_destination, spans, write_stats
from sharkstore.stats.rows import RowCounts


def save_totals(totals: Totals, path: Path) -> None:
    """Write a stats file: what was counted, and what was measured if anything was.

    Raises:
        DestinationError: the path holds something that is no stats file.
        StatsError: nothing was counted, or some field was never looked up.
        WriteError: the disk is full or refuses.
    """
    check_destination(path, overwrite=True)
    columns: dict[str, Column] = {}
    weights = totals.weights
    if not totals.prioritised and weights.alpha_positive != weights.alpha_negative:
        few = f"{totals.labelled:,.0f} of the {totals.counted:,.0f} samples counted have labels"
        remedy = "counting(labelled=True) takes them"
        warnings.warn(f"no row priorities: {few}; {remedy}", RuntimeWarning, stacklevel=3)
    for name, table in totals.tables.items():
        for kind, column in _columns(table, totals).items():
            columns[f"tables/{name}/{kind}"] = column
    if totals.batches:
        for field, scores in totals.scores().items():
            for kind, value in scores.items():
                columns[f"fields/{field}/{kind}"] = Column("float64", (1,), [np.array([value])])
    write_stats(path, columns, _metadata(totals))


def _columns(table: TableTotals, totals: Totals) -> dict[str, Column]:
    counted = table.counted.ended(totals.weights)
    rows, dim = table.rows, table.dim
    kind = "int64" if counted.count.dtype.kind == "i" else "float32"
    columns = {
        "count": Column(kind, (rows,), _blocks(counted, "count", rows)),
        "mean": Column("float32", (dim,), [table.mean_row(totals.weights)]),
    }
    told = counted
    if totals.labelled:
        told = counted if totals.counted_labels else table.used.ended(totals.weights)
        columns["positive"] = Column(kind, (rows,), _blocks(told, "positive", rows))
    if totals.prioritised:
        told = counted if totals.counted_priority else told
        columns["priority"] = Column("float32", (rows,), _blocks(told, "priority", rows))
    if totals.measured:
        metric = table.mean_metric()
        curve = float(np.trace(metric)) / dim
        columns["metric"] = Column("float32", (dim, dim), [metric])
        columns["sensitivity"] = Column("float32", (rows,), _curves(counted, curve, rows))
    return columns


def _blocks(counts: RowCounts, name: str, rows: int) -> Iterator[NDArray[Any]]:
    values = ("count", "positive", "priority").index(name)
    return (counts.block(start, stop)[values] for start, stop in spans(rows))


def _curves(counts: RowCounts, curve: float, rows: int) -> Iterator[NDArray[Any]]:
    return ((counts.block(start, stop)[0] + 0.5) * curve for start, stop in spans(rows))


def _metadata(totals: Totals) -> dict[str, str]:
    weights = totals.weights
    metadata = {
        "version": "1",
        "fields": json.dumps(totals.fields),
    }
    if totals.counted:
        metadata["samples"] = _number(totals.counted)
    if totals.labelled:
        metadata["labelled"] = _number(totals.labelled)
    if totals.prioritised:
        metadata |= {name: repr(value) for name, value in dataclasses.asdict(weights).items()}
    if totals.counts_from:
        metadata["counts"] = totals.counts_from
    if totals.measured:
        metadata |= {
            "measured": str(totals.measured),
            "uses": json.dumps({n: table.used.uses() for n, table in totals.tables.items()}),
            "loss": "+".join(totals.losses),
            "curvature": "empirical" if totals.empirical else "gauss-newton",
        }
    return metadata


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
