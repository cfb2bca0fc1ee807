"""`sharkstore stats count`: row counts and priorities out of logs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import click

from sharkstore.cli.render import (
    Bars,
    Grid,
    counted,
    format_option,
    message_options,
    note,
    show_json,
)
from sharkstore.errors import StatsError
from sharkstore.stats.count import Counted, count_logs
from sharkstore.stats.file import check_destination
from sharkstore.stats.rows import Weights

EXAMPLES = """
\b
Examples:
  sharkstore stats count log.parquet --field user_id=emb.user.weight \\
      --checkpoint model.safetensors
  sharkstore stats count mon.parquet tue.parquet --field user_id=emb.user.weight \\
      --rows emb.user.weight=1000000 --label click --alpha-positive 2 --periods --beta 0.3
"""


def _pairs(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """COLUMN=TABLE, each column once."""
    pairs: dict[str, str] = {}
    for value in values:
        column, sign, table = value.partition("=")
        if not (column and sign and table):
            raise click.BadParameter(f"{value!r} is not COLUMN=TABLE.")
        if column in pairs:
            raise click.BadParameter(f"column {column!r} is given twice.")
        pairs[column] = table
    return pairs


def _rows(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, int]:
    """TABLE=N."""
    rows: dict[str, int] = {}
    for value in values:
        table, _, count = value.rpartition("=")
        if not (table and count.isascii() and count.isdecimal() and 0 < len(count) < 20):
            raise click.BadParameter(f"{value!r} is not TABLE=N.")
        rows[table] = int(count)
    return rows


@click.command(epilog=EXAMPLES, short_help="Row counts and priorities out of Parquet logs.")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--field",
    "fields",
    multiple=True,
    required=True,
    metavar="COLUMN=TABLE",
    callback=_pairs,
    help="A column of ids, or of lists of ids, and the table they are of.",
)
@click.option("--label", metavar="COLUMN", help="Booleans or numbers, positive above 0.5.")
@click.option("--checkpoint", type=click.Path(), help="Where tables have their lengths.")
@click.option(
    "--rows",
    multiple=True,
    metavar="TABLE=N",
    callback=_rows,
    help="Length of a table; else the checkpoint's, else the largest id + 1.",
)
@click.option("--alpha-positive", type=float, help="What a positive use counts.  [default: 1]")
@click.option("--alpha-negative", type=float, help="What another use counts.  [default: 1]")
@click.option("--periods", is_flag=True, help="Each LOG is a period, oldest first.")
@click.option("--beta", type=float, help="The share of the latest period in a priority.")
@click.option(
    "--bounds",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="Ids outside the table: an error, or left out and counted.",
)
@click.option(
    "-o", "--out", type=click.Path(), default="stats.safetensors", show_default=True, help="Output."
)
@click.option("--overwrite", is_flag=True, help="Replace a stats file that is there.")
@format_option
@message_options
def count(
    logs: tuple[str, ...],
    out: str,
    style: str,
    *,
    fields: dict[str, str],
    label: str | None,
    checkpoint: str | None,
    rows: dict[str, int],
    periods: bool,
    bounds: Literal["raise", "skip"],
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    **weights: float | None,
) -> None:
    """Count how often rows are used in Parquet LOGs; with --label, how positively.

    The priority of a row is alpha-positive times its uses with a positive label and
    alpha-negative times its others. With --periods, `priority = (1 - beta) * priority + beta *
    that of the period` after each LOG.
    """
    for table in rows:
        if table not in fields.values():
            raise click.UsageError(f"--rows: no --field names table {table!r}.")
    checked = _weights(weights, labelled=label is not None, periods=periods)
    check_destination(out, overwrite=overwrite)
    with Bars(quiet=quiet, units={"count": " rows"}) as bars:
        done = count_logs(
            logs,
            fields,
            out,
            label,
            rows,
            checked,
            checkpoint,
            periods=periods,
            bounds=bounds,
            progress=bars,
        )
    if style == "json":
        show_json({"out": out, **asdict(done)})
    else:
        click.echo(_counted(done, style).text(style))
    for table, found in done.tables.items() if verbose and label is not None else ():
        note(f"positive    {table}: {found.positive:,} of {found.uses:,} uses", quiet=quiet)
    for text in done.notes:
        note(f"note: {text}", quiet=quiet)
    note(f"{out}: {counted(done.samples, 'sample')} counted", quiet=quiet)


def _weights(given: dict[str, float | None], *, labelled: bool, periods: bool) -> Weights:
    """Of the options; those that would do nothing are refused."""
    said = {name: value for name, value in given.items() if value is not None}
    if not labelled and ("alpha_positive" in said or "alpha_negative" in said):
        raise click.UsageError("--alpha-positive and --alpha-negative need --label.")
    if periods != ("beta" in said):
        raise click.UsageError("--periods and --beta need each other: beta is the latest's share.")
    try:
        return Weights(**said)
    except StatsError as error:
        raise click.UsageError(f"{error}.") from error


def _counted(done: Counted, style: str) -> Grid:
    rows = []
    for column, one in done.fields.items():
        table = done.tables[one.table]
        numbers = [table.rows, table.used, one.uses, one.nulls, one.outside]
        texts = map(str, numbers) if style == "csv" else (f"{number:,}" for number in numbers)
        rows.append([column, one.table, *texts])
    return Grid(["column", "table", "rows", "used", "uses", "nulls", "outside"], rows, left=2)
