"""`sharkstore inspect`: what a store holds."""

from __future__ import annotations

from typing import Any

import click

from sharkstore.cli.render import Grid, format_option, note, percent, quiet_option, show_json, size
from sharkstore.report import describe

EXAMPLES = """
\b
Examples:
  sharkstore inspect model.shark
  sharkstore inspect model.shark --json | jq '.tables[] | {name, ratio}'
"""


@click.command(epilog=EXAMPLES)
@click.argument("store", type=click.Path())
@format_option
@quiet_option
def inspect(store: str, style: str, *, quiet: bool) -> None:
    """Show the tables of STORE: rows, tiers, sizes, scores; totals and provenance."""
    found = describe(store)
    if style == "json":
        show_json(found)
        return
    click.echo(_grid(found).text(style))
    for text in _summary(found):
        note(text, quiet=quiet)


def _grid(found: dict[str, Any]) -> Grid:
    headers = ["table", "tiers", "rows", "dim", "stored", "row map", "ratio", "score"]
    rows = [
        [
            table["name"],
            "pruned: mean row" if table["pruned"] else _tiers(table),
            f"{table['rows']:,}",
            str(table["dim"]),
            size(table["nbytes"]),
            size(table["rowmap_nbytes"]),
            percent(table["ratio"]),
            "" if table["score"] is None else f"{table['score']:.3g}",
        ]
        for table in found["tables"]
    ]
    total = ["total", "", f"{sum(t['rows'] for t in found['tables']):,}", "", size(found["nbytes"])]
    maps = sum(table["rowmap_nbytes"] for table in found["tables"])
    rows.append([*total, size(maps), percent(found["ratio"]), ""])
    return Grid(headers, rows, left=2)


def _tiers(table: dict[str, Any]) -> str:
    return ", ".join(f"{t['encoding']} {t['rows']:,} ({size(t['nbytes'])})" for t in table["tiers"])


def _summary(found: dict[str, Any]) -> list[str]:
    source = found["provenance"].get("source", {})
    texts = [
        f"float32     {size(found['source_nbytes'])} of tables -> {size(found['nbytes'])}",
        f"on disk     {found['disk_bytes']:,} bytes, all files",
        f"parameters  {len(found['dense'])} beside the tables, {size(found['dense_nbytes'])}",
        f"source      {source.get('name', '?')} {source.get('digest', '')}",
        f"format      {found['format']}, written by {found['provenance'].get('tool', '?')}",
        f"digest      {found['digest']}",
    ]
    if found["dropped"]:
        texts.insert(0, f"dropped     {', '.join(found['dropped'])}")
    return texts
