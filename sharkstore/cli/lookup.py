"""`sharkstore lookup`: rows of a table, dequantised."""

from __future__ import annotations

from typing import Literal

import click

from sharkstore.cli.render import Grid, format_option, message_options, note, show_json
from sharkstore.load.open import open_store

EXAMPLES = """
\b
Examples:
  sharkstore lookup model.shark emb.user.weight 3 14 15
  sharkstore lookup model.shark emb.user.weight 3 --json
"""


# negative ids are ids, not options
@click.command(epilog=EXAMPLES, context_settings={"ignore_unknown_options": True})
@click.argument("store", type=click.Path())
@click.argument("table")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=int)
@click.option(
    "--bounds",
    type=click.Choice(["raise", "default"]),
    default="raise",
    show_default=True,
    help="Ids outside the table: an error, or the table's default row.",
)
@format_option
@message_options
def lookup(
    store: str,
    table: str,
    ids: tuple[int, ...],
    style: str,
    *,
    bounds: Literal["raise", "default"],
    quiet: bool,
    verbose: bool,
) -> None:
    """Print the rows ID... of TABLE in STORE."""
    with open_store(store, bounds=bounds) as opened:
        rows = opened[table].lookup(list(ids))
        note(repr(opened[table]), quiet=quiet or not verbose)
    if style == "json":
        show_json({"table": table, "ids": list(ids), "rows": rows.tolist()})
        return
    headers = ["id", *(str(j) for j in range(rows.shape[1]))]
    exact = style == "csv"
    cells = [
        [str(i), *(repr(float(v)) if exact else f"{v:.5g}" for v in row)]
        for i, row in zip(ids, rows, strict=True)
    ]
    click.echo(Grid(headers, cells).text(style))
