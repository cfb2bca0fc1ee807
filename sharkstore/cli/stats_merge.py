"""`sharkstore stats merge`: stats of processes or periods in one file."""

from __future__ import annotations

from dataclasses import asdict

import click

from sharkstore.cli.render import (
    Bars,
    Grid,
    amount,
    counted,
    format_option,
    message_options,
    note,
    show_json,
)
from sharkstore.stats.file import check_destination
from sharkstore.stats.merge import Merged, merge_stats

EXAMPLES = """
\b
Examples:
  sharkstore stats merge rank0.safetensors rank1.safetensors -o stats.safetensors
  sharkstore stats merge stats.safetensors today.safetensors --decay 0.1 \\
      -o stats.safetensors --overwrite
"""


def _share(
    _context: click.Context, _parameter: click.Parameter, value: float | None
) -> float | None:
    if value is not None and not 0 < value <= 1:
        raise click.BadParameter(f"{value} is not above 0 and at most 1.")
    return value


@click.command(epilog=EXAMPLES, short_help="Stats of processes, shards or periods in one file.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--out", required=True, type=click.Path(), help="The file to write.")
@click.option(
    "--decay",
    type=float,
    callback=_share,
    help="Each FILE is a period, oldest first, and X = (1 - DECAY) * X + DECAY * the next X.",
)
@click.option("--overwrite", is_flag=True, help="Replace a stats file; it may be one of FILE.")
@format_option
@message_options
def merge(
    files: tuple[str, ...],
    out: str,
    style: str,
    *,
    decay: float | None,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Merge stats of one model: of processes and shards, or with --decay of periods.

    Counts, positives and priorities are added; scores, mean rows and metrics are means, each
    file by the samples or uses that it measured.
    """
    check_destination(out, overwrite=overwrite)
    with Bars(quiet=quiet) as bars:
        done = merge_stats(files, out, decay, bars)
    if style == "json":
        show_json({"out": out, **asdict(done)})
    else:
        click.echo(_merged(done, style).text(style))
    for key in done.arrays if verbose else ():
        note(f"array       {key}", quiet=quiet)
    for text in done.notes:
        note(f"note: {text}", quiet=quiet)
    note(f"{out}: {counted(len(files), 'file')} merged", quiet=quiet)


def _merged(done: Merged, style: str) -> Grid:
    exact = style == "csv"
    rows = [
        [
            one.path,
            ("" if one.samples is None else repr(one.samples)) if exact else amount(one.samples),
            repr(one.share) if exact else f"{one.share:.4g}",
        ]
        for one in done.files
    ]
    return Grid(["file", "samples", "times"], rows)
