"""`sharkstore inspect`: what a store holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from sharkstore.cli.render import (
    Grid,
    format_option,
    message_options,
    note,
    percent,
    show_json,
    size,
)
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
@message_options
def inspect(store: str, style: str, *, quiet: bool, verbose: bool) -> None:
    """Show the tables of STORE: rows, tiers, sizes, scores; totals and provenance."""
    found = describe(store)
    if style == "json":
        show_json(found)
        return
    click.echo(_grid(found, style).text(style))
    for text in _summary(found) + (_details(found) if verbose else []):
        note(text, quiet=quiet)


def _grid(found: dict[str, Any], style: str) -> Grid:
    """A line a table, and one for each part of it: tiers, codebooks, row map."""
    if style == "csv":
        return _exact_grid(found)
    headers = ["table", "part", "rows", "dim", "bytes", "stored", "ratio", "score"]
    rows = []
    for table in found["tables"]:
        score = "" if table["score"] is None else f"{table['score']:.3g}"
        whole = "pruned" if table["pruned"] else ""
        sizes = [f"{table['rows']:,}", str(table["dim"]), *_bytes(table["nbytes"])]
        rows.append([table["name"], whole, *sizes, percent(table["ratio"]), score])
        name = "" if style == "human" else table["name"]
        rows += [
            [name, part, "" if count is None else f"{count:,}", "", *_bytes(nbytes), "", ""]
            for part, count, nbytes in _parts(table)
        ]
    total = f"{sum(table['rows'] for table in found['tables']):,}"
    rows.append(["total", "", total, "", *_bytes(found["nbytes"]), percent(found["ratio"]), ""])
    return Grid(headers, rows, left=2)


def _parts(table: dict[str, Any]) -> Iterator[tuple[str, int | None, int]]:
    """Name, rows if it has any, and bytes of each part of a table."""
    for tier in table["tiers"]:
        yield tier["encoding"], tier["rows"], tier["nbytes"]
        if tier["codebook_nbytes"]:
            yield f"{tier['encoding']} codebook", None, tier["codebook_nbytes"]
    if table["rowmap_nbytes"]:
        yield "row map", None, table["rowmap_nbytes"]


def _bytes(count: int) -> list[str]:
    return [f"{count:,}", size(count)]


def _exact_grid(found: dict[str, Any]) -> Grid:
    """Plain numbers for other programs: a line a tier, codebook and row map."""
    rows = []
    for table in found["tables"]:
        name, dim, score = table["name"], str(table["dim"]), table["score"]
        tail = [str(table["ratio"]), "" if score is None else str(score), str(table["pruned"])]
        rows += [
            [name, part, "" if count is None else str(count), dim, str(nbytes), *tail]
            for part, count, nbytes in _parts(table)
        ]
    headers = ["table", "part", "rows", "dim", "bytes", "table_ratio", "table_score", "pruned"]
    return Grid(headers, rows)


def _summary(found: dict[str, Any]) -> list[str]:
    provenance = found["provenance"]
    source = provenance.get("source")
    source = source if isinstance(source, dict) else {}
    texts = [
        f"in float32  {size(found['source_nbytes'])} of tables, now {size(found['nbytes'])}",
        f"on disk     {found['disk_bytes']:,} bytes, all files",
        f"parameters  {len(found['dense'])} beside the tables, {size(found['dense_nbytes'])}",
        f"source      {source.get('name', '?')} {source.get('digest', '')}",
        f"format      {found['format']}, written by {provenance.get('tool', '?')}",
        f"digest      {found['digest']}",
    ]
    if found["dropped"]:
        texts.insert(0, f"dropped     {', '.join(found['dropped'])}")
    return texts


def _details(found: dict[str, Any]) -> list[str]:
    texts = [
        f"field       {name}: {one['table']}, score {one.get('score', 'not measured')}"
        for name, one in found["fields"].items()
    ]
    return texts + [
        f"parameter   {one['name']}: {one['dtype']} {one['shape']}" for one in found["dense"]
    ]
