"""`sharkstore diff`: what a conversion changed, in figures."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from sharkstore.cli.render import (
    Bars,
    Grid,
    amount,
    counted,
    format_option,
    message_options,
    note,
    percent,
    show_json,
)
from sharkstore.diff import Difference, Figures, Part, TableDifference
from sharkstore.diff import diff as compare

STATUS = {
    "compared": "",
    "shape": "another shape",
    "only_a": "only in A",
    "only_b": "only in B",
    "dropped_a": "dropped in A",
    "dropped_b": "dropped in B",
    "dropped": "dropped in both",
}
FIGURES = ["RMSE", "cosine", "changed"]
WORST = ["worst row", "its RMS", "its largest"]
EXAMPLES = """
\b
Examples:
  sharkstore diff model.safetensors model.shark
  sharkstore diff model.safetensors model.shark --stats stats.safetensors
  sharkstore diff yesterday.shark today.shark --tables 'emb.*' --json
  sharkstore diff model.safetensors model.shark --max-rmse 0.001    exit 1 above it
"""


def _bound(_context: click.Context, _parameter: click.Parameter, value: float | None) -> Any:
    if value is not None and not 0 <= value < math.inf:
        raise click.BadParameter(f"{value} is no bound: 0 or more, and finite.")
    return value


@click.command(epilog=EXAMPLES)
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--stats", type=click.Path(), help="Row counts: show also what a lookup sees.")
@click.option("--tables", multiple=True, metavar="GLOB", help="Only these tables.")
@click.option(
    "--rank-files",
    metavar="PATTERN",
    help="A checkpoint that is a folder is one of files of ranks, named so: '*_rank_{rank}.pt'.",
)
@click.option(
    "--sharded",
    multiple=True,
    metavar="GLOB",
    help="Keys of --rank-files that hold some rows of a table each, in the order of ranks.",
)
@click.option(
    "--max-rmse",
    type=float,
    metavar="X",
    callback=_bound,
    help="Exit 1 if a table's RMSE is above, or B has NaN or infinities that A has not. Tables "
    "pruned in B are meant to differ and don't count.",
)
@format_option
@message_options
def diff(
    a: str,
    b: str,
    *,
    stats: str | None,
    tables: Sequence[str],
    rank_files: str | None,
    sharded: Sequence[str],
    max_rmse: float | None,
    style: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compare A with B: each a checkpoint or a store.

    For each table and tier (of B, or of A if B is a checkpoint): root mean squared error over
    all values; the row with the largest RMS error, and its largest error; mean cosine of a row
    of A and of B (1 if both are zero, 0 if one is); share of rows of which any bit differs; NaN
    and infinite values in A / in B, which the other figures leave out. With --stats the figures
    again, rows weighted by their counts. Values are compared in float32.

    Exit 1 if tables or parameters are missing on a side or have another shape (tables that
    were dropped at conversion are told, no more), or by --max-rmse.
    """
    with Bars(quiet=quiet) as bars:
        found = compare(
            a,
            b,
            stats=stats,
            tables=tables,
            rank_files=rank_files,
            sharded=sharded,
            progress=bars,
        )
    above = () if max_rmse is None else found.above(max_rmse)
    if style == "json":
        show_json(_document(found, a, b, stats, max_rmse))
    else:
        click.echo((_exact_grid(found) if style == "csv" else _grid(found, style)).text(style))
    for text in _messages(found, verbose=verbose):
        note(text, quiet=quiet)
    for text in _failures(found, above, max_rmse):
        note(text)
    if above or not found.same_structure:
        sys.exit(1)


def _document(
    found: Difference, a: str, b: str, stats: str | None, max_rmse: float | None
) -> dict[str, Any]:
    tables = [
        {
            "name": one.name,
            "status": one.status,
            "shape_a": one.shapes[0],
            "shape_b": one.shapes[1],
            "pruned_a": one.pruned[0],
            "pruned_b": one.pruned[1],
            **({} if one.whole is None else _part(one.whole)),
            "tiers": [{"encoding": label, **_part(tier)} for label, tier in one.tiers],
        }
        for one in found.tables
    ]
    return {
        "a": a,
        "b": b,
        "stats": stats,
        "same_structure": found.same_structure,
        "max_rmse": max_rmse,
        "above": [] if max_rmse is None else [one.name for one in found.above(max_rmse)],
        "tables": tables,
        "total": {k: v for k, v in _part(found.total).items() if not k.startswith("worst")},
        "parameters": None if found.parameters is None else asdict(found.parameters),
        "left": dict(found.left),
        "uncounted": found.uncounted,
    }


def _part(part: Part) -> dict[str, Any]:
    """The figures side by side; those that lookups see under `seen`."""
    values = asdict(part)
    plain = values.pop("plain")
    return {"rows": values.pop("rows"), **plain, **values}


def _grid(found: Difference, style: str) -> Grid:
    """A line a table and, where it has several, one for each tier."""
    headers = ["table", "tier", "rows", *FIGURES, *WORST, "non-finite"]
    seen = ["uses", *(f"{name} seen" for name in FIGURES)]
    rows = []
    for table in found.tables:
        rows.append([table.name, _label(table), *_cells(table)])
        name = "" if style == "human" else table.name
        tiers = table.tiers if len(table.tiers) > 1 else ()
        rows += [[name, label, *_shown(tier)] for label, tier in tiers]
    rows.append(["total", "", *_shown(found.total)])
    return _filled([*headers, *seen], rows)


def _label(table: TableDifference) -> str:
    """The only tier, or why a table isn't compared; whether it is pruned."""
    sides = [side for side, pruned in zip("AB", table.pruned, strict=True) if pruned]
    pruned = f"pruned in {' and '.join(sides)}" if sides else ""
    only = table.tiers[0][0] if len(table.tiers) == 1 else ""
    return ", ".join(text for text in (STATUS[table.status], only, pruned) if text)


def _cells(table: TableDifference) -> list[str]:
    if table.whole is not None:
        return _shown(table.whole)
    shapes = {shape for shape in table.shapes if shape}
    told = amount(shapes.pop()[0]) if len(shapes) == 1 else ""
    return [told, *[""] * (2 * len(FIGURES) + len(WORST) + 2)]


def _shown(part: Part) -> list[str]:
    bad = f"{part.nonfinite_a:,} / {part.nonfinite_b:,}"
    return [
        amount(part.rows),
        *_figures(part.plain),
        "" if part.worst_row is None else str(part.worst_row),
        _short(part.worst_rms),
        _short(part.worst_abs),
        bad if part.nonfinite_a or part.nonfinite_b else "",
        amount(part.uses),
        *_figures(part.seen),
    ]


def _figures(figures: Figures | None) -> list[str]:
    if figures is None:
        return [""] * len(FIGURES)
    cosine, changed = figures.cosine, figures.changed
    return [
        _short(figures.rmse),
        "" if cosine is None else f"{cosine:.6f}",
        "" if changed is None else percent(changed),
    ]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _filled(headers: list[str], rows: list[list[str]]) -> Grid:
    """A grid without the columns that nothing stands in."""
    full = [i for i in range(len(headers)) if i < 3 or any(row[i] for row in rows)]
    return Grid([headers[i] for i in full], [[row[i] for i in full] for row in rows], left=2)


def _exact_grid(found: Difference) -> Grid:
    """Plain numbers for other programs: a line for a table, a tier, the total, a parameter."""
    lines: list[list[Any]] = []
    keys = list(_flat(found.total))
    for table in found.tables:
        pruned = [str(one) for one in table.pruned]
        figures = [""] * len(keys) if table.whole is None else list(_flat(table.whole).values())
        lines.append(["table", table.name, "", table.status, *pruned, *figures])
        for label, tier in table.tiers:
            lines.append(["tier", table.name, label, table.status, *pruned, *_flat(tier).values()])
    lines.append(["total", "", "", "", "", "", *_flat(found.total).values()])
    blank = [""] * (len(keys) + 2)
    for status, names in () if found.parameters is None else asdict(found.parameters).items():
        lines += [["parameter", name, "", status, *blank] for name in names]
    headers = ["kind", "name", "encoding", "status", "pruned_a", "pruned_b", *keys]
    return Grid(headers, [["" if v is None else str(v) for v in line] for line in lines])


def _flat(part: Part) -> dict[str, Any]:
    values = _part(part)
    seen = values.pop("seen") or dict.fromkeys(("rmse", "cosine", "changed"))
    return values | {f"seen_{name}": value for name, value in seen.items()}


def _messages(found: Difference, *, verbose: bool) -> list[str]:
    compared = [table for table in found.tables if table.whole is not None]
    texts = [f"compared    {counted(len(compared), 'table')}, values in float32"]
    for side in (0, 1):
        pruned = [table.name for table in found.tables if table.pruned[side]]
        texts += [f"pruned in {'AB'[side]} {_some(pruned, verbose=verbose)}"] if pruned else []
    for status in ("dropped_a", "dropped_b", "dropped"):
        dropped = [table.name for table in found.tables if table.status == status]
        texts += [f"{STATUS[status]} {_some(dropped, verbose=verbose)}"] if dropped else []
    other = found.parameters
    if other is not None:
        texts.append(f"parameters  {len(other.equal)} equal, {len(other.differ)} differ")
        texts += [f"parameter   differs: {name}" for name in other.differ]
        texts += [f"parameter   equal: {name}" for name in other.equal if verbose]
    texts += [f"not looked at: {name}: {why}" for name, why in found.left.items()]
    if found.uncounted:
        shown = _some(found.uncounted, verbose=verbose)
        texts.append(f"note: no counts in the stats, so not weighted: {shown}")
    return texts


def _failures(
    found: Difference, above: Iterable[TableDifference], max_rmse: float | None
) -> list[str]:
    """Why the exit is 1."""
    texts = []
    for table in found.tables:
        if table.status == "shape":
            shapes = [" × ".join(map(str, shape or ())) for shape in table.shapes]
            texts.append(f"table {table.name}: {shapes[0]} in A, {shapes[1]} in B")
        elif table.status in ("only_a", "only_b"):
            texts.append(f"table {table.name}: {STATUS[table.status]}")
    if found.parameters is not None:
        for status in ("shape", "only_a", "only_b"):
            names = getattr(found.parameters, status)
            texts += [f"parameter {name}: {STATUS[status]}" for name in names]
    for table in above:
        assert table.whole is not None
        new = table.whole.nonfinite_new
        bad = f"; {counted(new, 'value')} not finite in B alone" if new else ""
        rmse = _short(table.whole.plain.rmse)
        texts.append(f"table {table.name}: RMSE {rmse or 'unknown'}, at most {max_rmse:g}{bad}")
    return texts


def _some(names: Sequence[str], *, verbose: bool) -> str:
    """The first few names, or all."""
    if verbose or len(names) <= 4:
        return ", ".join(names)
    return ", ".join(names[:4]) + f" and {len(names) - 4} more; -v names all"
