"""`sharkstore verify`: whether a store is sound."""

from __future__ import annotations

import sys

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
from sharkstore.report import verify as verify_store

EXAMPLES = """
\b
Examples:
  sharkstore verify model.shark --quick    sizes, trailers and digest
  sharkstore verify model.shark            every byte
"""


@click.command(epilog=EXAMPLES)
@click.argument("store", type=click.Path())
@click.option("--quick", is_flag=True, help="Read no rows: sizes, documents, trailers, digest.")
@format_option
@message_options
def verify(store: str, style: str, *, quick: bool, quiet: bool, verbose: bool) -> None:
    """Check STORE: every checksum, row maps against tiers, the digest. Exit 1 if unsound."""
    with Bars(quiet=quiet) as bars:
        metadata, found = verify_store(store, quick=quick, progress=bars)
    chunks = sum(array.chunks for array in metadata.arrays)
    if style == "json":
        show_json(
            {
                "store": store,
                "sound": not found,
                "quick": quick,
                "digest": metadata.digest,
                "chunks": chunks,
                "findings": [{"where": one.where, "message": one.message} for one in found],
            }
        )
    elif found or style != "human":
        rows = [[one.where, one.message] for one in found]
        click.echo(Grid(["where", "what"], rows, left=2).text(style))
    for array in metadata.arrays if verbose else ():
        note(f"checked {array.path}: {counted(array.chunks, 'chunk file')}", quiet=quiet)
    if found:
        note(f"{store}: {counted(len(found), 'finding')}; not sound")
        sys.exit(1)
    depth = "sizes, trailers and digest" if quick else "every byte"
    note(
        f"{store}: sound ({depth}; {counted(chunks, 'chunk file')}), {metadata.digest}", quiet=quiet
    )
