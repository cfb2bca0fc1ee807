"""`sharkstore stats show`: what a stats file holds."""

from __future__ import annotations

from typing import Any

import click

from sharkstore.cli.render import (
    Grid,
    amount,
    bar,
    format_option,
    message_options,
    note,
    percent,
    room_beside,
    show_json,
)
from sharkstore.stats.describe import QUANTILES, TOPS, describe, ranked_by
from sharkstore.stats.file import open_stats

BAR = (8, 40)  # characters
EXAMPLES = """
\b
Examples:
  sharkstore stats show stats.safetensors
  sharkstore stats show stats.safetensors --json | jq '.fields[] | {name, score}'
"""


@click.command(epilog=EXAMPLES, short_help="Fields by score, tables by use, priorities.")
@click.argument("file", type=click.Path())
@format_option
@message_options
def show(file: str, style: str, *, quiet: bool, verbose: bool) -> None:
    """Show FILE: fields by score, tables by use, quantiles of row priorities.

    Quantiles are over all rows of a table, those never used too; top 1 % is the share of uses
    that the most used 1 % of the rows have; trace and spread (largest eigenvalue over least)
    are the metric's. As CSV: a line for each value.
    """
    found = describe(open_stats(file))
    if style == "json":
        show_json(found)
        return
    if style == "csv":
        click.echo(_values(found).text(style))
    else:
        grids = [_fields(found, style), _tables(found, style), _quantiles(found, style)]
        click.echo("\n\n".join(text for text in grids if text))
    for text in _summary(found, verbose=verbose):
        note(text, quiet=quiet)


def _fields(found: dict[str, Any], style: str) -> str:
    """Fields, the best first; for people with bars as long as the terminal has room for."""
    fields = found["fields"]
    if not fields:
        return ""
    rank = ranked_by(fields)
    headers = ["field", "table", "curved", "score", "signed", "sfs", "share"]
    headers = headers if rank == "score_curved" else [h for h in headers if h != "curved"]
    rows = [
        [
            one["name"],
            "?" if one["table"] is None else one["table"],
            *([_short(one["score_curved"])] if rank == "score_curved" else []),
            _short(one["score"]),
            _short(one["score_signed"]),
            _short(one["sfs"]),
            "" if one["share"] is None else percent(one["share"]),
        ]
        for one in fields
    ]
    grid = _filled(headers, rows, left=2)
    best = max((one[rank] or 0.0 for one in fields), default=0.0)
    if style != "human" or best <= 0:
        return grid.text(style)
    width = min(max(room_beside(grid.text(style)) - 3, BAR[0]), BAR[1])
    bars = [bar((one[rank] or 0.0) / best, width) for one in fields]
    rows = [[*row[:2], text, *row[2:]] for row, text in zip(grid.rows, bars, strict=True)]
    return Grid([*grid.headers[:2], "", *grid.headers[2:]], rows, left=3).text(style)


def _tables(found: dict[str, Any], style: str) -> str:
    tops = [f"top {name} %" for name in TOPS]
    headers = ["table", "rows", "used", "", "uses", "positive", *tops, "trace", "spread"]
    rows = [
        [
            one["name"],
            amount(one["rows"]),
            amount(one["used"]),
            "" if one["used_share"] is None else percent(one["used_share"]),
            amount(one["uses"]),
            "" if one["positive_rate"] is None else percent(one["positive_rate"]),
            *("" if share is None else percent(share) for share in _each(one["top_uses"], TOPS)),
            _short(one["trace"]),
            _short(one["spread"]),
        ]
        for one in found["tables"]
    ]
    return _filled(headers, rows, left=1).text(style) if rows else ""


def _quantiles(found: dict[str, Any], style: str) -> str:
    ranked = [one for one in found["tables"] if one["priority"] is not None]
    headers = ["row priority", "of", *(f"{name} %" for name in QUANTILES), "max"]
    rows = [
        [one["name"], one["ranked_by"], *map(amount, _each(one["priority"], [*QUANTILES, "max"]))]
        for one in ranked
    ]
    return Grid(headers, rows, left=2).text(style) if rows else ""


def _filled(headers: list[str], rows: list[list[str]], left: int) -> Grid:
    """A grid without the columns that nothing stands in."""
    full = [i for i in range(len(headers)) if i < left or any(row[i] for row in rows)]
    return Grid([headers[i] for i in full], [[row[i] for i in full] for row in rows], left)


def _each(values: dict[str, Any] | None, names: Any) -> list[Any]:
    return [None if values is None else values[name] for name in names]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _values(found: dict[str, Any]) -> Grid:
    """Every value on a line of its own: fields and tables don't fit one grid."""
    rows = []
    for kind, items in (("field", found["fields"]), ("table", found["tables"])):
        for one in items:
            for name, value in one.items():
                inner = value if isinstance(value, dict) else {"": value}
                rows += [
                    [kind, one["name"], f"{name} {part}".strip(), str(number)]
                    for part, number in inner.items()
                    if name not in ("name", "fields") and number is not None
                ]
    rows += [["file", found["path"], name, text] for name, text in found["metadata"].items()]
    return Grid(["kind", "name", "quantity", "value"], rows, left=4)


def _summary(found: dict[str, Any], *, verbose: bool) -> list[str]:
    told = ("samples", "labelled", "measured")
    texts = [f"{name:<12}{amount(found[name])}" for name in told if found[name] is not None]
    shown = ("loss", "curvature", "alpha_positive", "alpha_negative", "beta", "decay")
    for name, text in found["metadata"].items():
        if name in shown or (verbose and name not in told):
            texts.append(f"{name.replace('_', ' '):<15} {text}")
    if found["unknown"]:
        texts.append(f"note: of kinds that are not known: {', '.join(found['unknown'][:4])}")
    if not any(one["score"] is not None for one in found["fields"]):
        texts.append("note: no field scores in it")
    return texts
