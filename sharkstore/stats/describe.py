"""A stats file as plain values: fields by what they are worth, tables by how they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.plan.stats import FIELD_KINDS, MOST, PER_ROW, Stats
from sharkstore.stats.agree import check_agreement
from sharkstore.stats.file import spans
from sharkstore.stats.inputs import checked, column, number, table_numbers

# thousandths of a table's rows below a quantile, and among the top
QUANTILES = {"50": 500, "90": 900, "99": 990, "99.9": 999}
TOPS = {"1": 10, "10": 100}


def describe(stats: Stats) -> dict[str, Any]:
    """A stats file as JSON values; null where the file doesn't say.

    fields: the best first, by what `ranked_by` tells; `share` is of the sum of those scores.
    tables: `priority` has quantiles over all rows, those never used too: the one for 99 % is the
    least priority of the top 1 %, so a threshold for tiers (counts, where there are no
    priorities). `top_uses` is the share of the uses that the most used 1 % and 10 % of all rows
    have. `positive_rate` is positives over uses, corrected where fewer samples had labels
    than were counted. `spread` is the metric's largest eigenvalue over its least; null when
    the least is 0.

    Memory follows the rows used of one table.

    Raises:
        StatsError: arrays of a shape or with values that stats don't have.
    """
    check_agreement([stats])
    return {
        "path": stats.where,
        **{name: number(stats, name) for name in ("samples", "labelled", "measured")},
        "fields": _fields(stats),
        "tables": [_table(stats, table) for table in sorted(stats.tables)],
        "metadata": {
            name: text
            for name, text in sorted(stats.metadata.items())
            if name not in ("fields", "uses")
        },
        "unknown": stats.unknown,
    }


def _fields(stats: Stats) -> list[dict[str, Any]]:
    scored = {key.split("/", 1)[1].rpartition("/")[0] for key in stats.arrays if _of_field(key)}
    found = []
    for name in sorted(scored | set(stats.fields)):
        scores: dict[str, Any] = {k: _score(stats, f"fields/{name}/{k}") for k in FIELD_KINDS}
        found.append({"name": name, "table": stats.fields.get(name), **scores, "share": None})
    rank = ranked_by(found)
    total = math.fsum(one[rank] or 0.0 for one in found)
    for one in found:
        if one[rank] is not None and total > 0:
            one["share"] = one[rank] / total
    return sorted(found, key=lambda one: (one[rank] is None, -(one[rank] or 0.0)))


def ranked_by(fields: Sequence[Mapping[str, Any]]) -> str:
    """The score that fields are ranked by, as in conversion: the second order's if all have it."""
    curved = bool(fields) and all(one["score_curved"] is not None for one in fields)
    return "score_curved" if curved else "score"


def _of_field(key: str) -> bool:
    return key.startswith("fields/") and key.rpartition("/")[2] in FIELD_KINDS


def _score(stats: Stats, key: str) -> float | None:
    found = column(stats, key)
    if found is None:
        return None
    checked(found.reshape(-1), key, stats.where, least=-MOST)
    return float(found.reshape(-1)[0])


def _table(stats: Stats, table: str) -> dict[str, Any]:
    per_row = {kind: column(stats, f"tables/{table}/{kind}") for kind in PER_ROW}
    lengths = {len(array) for array in per_row.values() if array is not None}
    count, positive = _used(stats, table, "count"), _used(stats, table, "positive")
    priority = _used(stats, table, "priority")
    rows = max(lengths, default=None)
    ranked = count if priority is None else priority
    used = None if ranked is None else len(ranked if count is None else count)
    uses, positives = _sum(count), _sum(positive)
    return {
        "name": table,
        "fields": sorted(name for name, one in stats.fields.items() if one == table),
        "rows": rows,
        "used": used,
        "used_share": used / rows if used is not None and rows else None,
        "uses": uses,
        "positives": positives,
        "positive_rate": _rate(stats, uses, positives),
        "ranked_by": None if ranked is None else "count" if priority is None else "priority",
        "priority": None if ranked is None or not rows else _quantiles(ranked, rows),
        "top_uses": None if count is None or not rows else _tops(count, rows),
        **_metric(stats, table),
        "measured_uses": table_numbers(stats, "uses").get(table),
    }


def _used(stats: Stats, table: str, kind: str) -> NDArray[Any] | None:
    """The values above 0, ascending; None if it wasn't measured."""
    key = f"tables/{table}/{kind}"
    found = column(stats, key)
    if found is None:
        return None
    blocks = [found[:0]]
    for start, stop in spans(len(found)):
        block = found[start:stop]
        checked(block, key, stats.where, least=0, row=start)
        blocks.append(block[block > 0])
    return np.sort(np.concatenate(blocks))


def _sum(values: NDArray[Any] | None) -> float | None:
    if values is None:
        return None
    whole = values.dtype.kind in "iu"
    return int(values.sum()) if whole else float(values.sum(dtype=np.float64))


def _rate(stats: Stats, uses: float | None, positives: float | None) -> float | None:
    if not uses or positives is None:
        return None
    samples, labelled = number(stats, "samples"), number(stats, "labelled")
    return positives / uses * (samples / labelled if samples and labelled else 1.0)


def _quantiles(used: NDArray[Any], rows: int) -> dict[str, float]:
    """Quantiles over all rows; those not among `used` are 0."""
    places = {name: rows * part // 1000 for name, part in QUANTILES.items()}
    unused = rows - len(used)
    found = {n: float(used[at - unused]) if at >= unused else 0.0 for n, at in places.items()}
    return {**found, "max": float(used[-1]) if len(used) else 0.0}


def _tops(used: NDArray[Any], rows: int) -> dict[str, float | None]:
    total = float(used.sum(dtype=np.float64))
    most = {name: -(-rows * part // 1000) for name, part in TOPS.items()}
    return {
        name: float(used[-count:].sum(dtype=np.float64)) / total if total else None
        for name, count in most.items()
    }


def _metric(stats: Stats, table: str) -> dict[str, Any]:
    key = f"tables/{table}/metric"
    metric, mean = column(stats, key), column(stats, f"tables/{table}/mean")
    dim = next((len(one) for one in (metric, mean) if one is not None), None)
    if metric is None or not dim:
        return {"dim": dim, "trace": None, "spread": None}
    checked(metric, key, stats.where, least=-MOST)
    values = np.linalg.eigvalsh(metric.astype(np.float64))
    # what rounding to float32 leaves of a 0
    least = values[0] if values[0] > np.finfo(np.float32).eps * values[-1] else 0.0
    spread = float(values[-1] / least) if least > 0 else None
    return {"dim": dim, "trace": float(np.trace(metric.astype(np.float64))), "spread": spread}
