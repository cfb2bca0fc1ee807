"""`sharkstore convert`: a checkpoint to a store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sharkstore.cli import converted
from sharkstore.cli.budget import (
    budget_options,
    check_picture,
    check_usage,
    checked,
    curve_grid,
    draw_curve,
)
from sharkstore.cli.render import (
    Bars,
    format_option,
    message_options,
    note,
    show_json,
)
from sharkstore.convert import convert_checkpoint, unfinished
from sharkstore.errors import DestinationError, SharkstoreError, WriteError
from sharkstore.plan.amounts import parse_amount, parse_share, parse_size
from sharkstore.plan.policy import PRUNING, RANKS
from sharkstore.plan.prune import check_least
from sharkstore.plan.tiers import parse_tiers

# options that a plan has decided over
DECIDED = (
    *("tiers", "budget", "max_loss", "encodings", "floors", "method", "weigh", "rounding"),
    *("tables", *PRUNING, "drop", "default_row", "nonfinite"),
)
EXAMPLES = """
\b
Examples:
  sharkstore convert model.safetensors model.shark
  sharkstore convert model.pt model.shark --tiers f32=1%,f16=9%,int8=rest
  sharkstore convert model.pt model.shark --stats stats.safetensors \\
      --tiers f32@1000,f16@50,int8 --keep 30
  sharkstore convert model.pt model.shark --stats stats.safetensors --prune-bytes 30%
  sharkstore convert model.pt model.shark --stats stats.safetensors --budget 5%
  sharkstore convert checkpoints/step-9000 model.shark --workers 8 --max-memory 4GiB
  sharkstore convert s3://bucket/model.safetensors model.shark
  sharkstore convert ranks/ model.shark --rank-files 'model_rank_{rank}.pt' --sharded '*.weight'
  sharkstore convert model.pt model.shark --dry-run --plan-out plan.json
  sharkstore convert model.pt model.shark --plan plan.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("checkpoint", type=click.Path())
@click.argument("store", type=click.Path())
@click.option(
    "--tiers",
    callback=checked(parse_tiers),
    help="Encodings by share of the rows ('f32=1%,f16=9%,int8=rest') or by least priority "
    "('f32@1000,f16@50,int8'). Encodings: f32, f16, int8, int4, int2, constant (the tier's "
    "mean row), pq2, pq4, pq8 (a code for 2, 4 or 8 values); after int8, int4 or int2, .affine "
    "(scale and bias), .f32 (both in float32) or .affine.f32. int8 if there is no budget.",
)
@budget_options
@click.option(
    "--rank-files",
    metavar="PATTERN",
    help="CHECKPOINT is a folder of files of ranks, named like this: '*_rank_{rank}.pt'.",
)
@click.option(
    "--sharded",
    multiple=True,
    metavar="GLOB",
    help="Keys of --rank-files that hold some rows of a table each, in the order of ranks.",
)
@click.option("--stats", type=click.Path(), help="Row priorities and field scores (safetensors).")
@click.option("--tables", multiple=True, metavar="GLOB", help="Which tensors are tables.")
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Keep the N best fields.")
@click.option(
    "--keep-share",
    metavar="SHARE",
    callback=checked(parse_share),
    help="Keep the best fields, this share of all ('60%').",
)
@click.option(
    "--prune-below",
    type=float,
    metavar="SCORE",
    callback=checked(check_least),
    help="Prune the fields that score less.",
)
@click.option(
    "--prune-bytes",
    metavar="AMOUNT",
    callback=checked(parse_amount),
    help="Prune the tables of least score per byte until this much of all tables' float32 bytes "
    "is saved ('30%', '8GiB', '500MB').",
)
@click.option("--prune", multiple=True, metavar="FIELD", help="Prune a field: see --drop.")
@click.option(
    "--rank-by",
    type=click.Choice(RANKS),
    help="What tells weak fields: the first-order score (SHARK's) or the second-order one; the "
    "latter where the stats have it.",
)
@click.option("--drop", is_flag=True, help="Leave pruned tables out; else they are a mean row.")
@click.option(
    "--default-row",
    type=click.Choice(["zero", "mean"]),
    default="zero",
    show_default=True,
    help="The row for ids out of bounds.",
)
@click.option(
    "--nonfinite",
    type=click.Choice(["error", "zero"]),
    default="error",
    show_default=True,
    help="NaN and infinities in tables: stop, or store 0.",
)
@click.option("--plan", type=click.Path(), help="Carry out a plan that --dry-run wrote.")
@click.option("--dry-run", is_flag=True, help="Plan and sizes only; no store.")
@click.option("--plan-out", type=click.Path(), help="Write the plan to a file.")
@click.option("--overwrite", is_flag=True, help="Replace the store that is there, in one step.")
@click.option(
    "--max-memory",
    metavar="SIZE",
    callback=checked(parse_size),
    help="Keep to so much memory beyond mapped files ('1GiB'), all processes together.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Share the work among N processes, a core each. Without: threads of this one.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Have the workers of this Dask scheduler do it (tcp://HOST:8786); they must see the same "
    "files.",
)
@format_option
@message_options
def convert(
    checkpoint: str,
    store: str,
    *,
    style: str,
    quiet: bool,
    verbose: bool,
    plan_out: str | None,
    plot: str | None,
    **options: Any,
) -> None:
    """Convert CHECKPOINT to STORE.

    CHECKPOINT is a .safetensors file, a sharded *.safetensors.index.json, a state dict in a .pt
    or .pth file, a folder of torch.distributed.checkpoint, a folder of ranks' files (see
    --rank-files), an .npz or .npy file, or a URL of one of these (s3://…). STORE is the directory
    to make; it appears whole or not at all. A run that is stopped or killed goes on where it was
    when the same command is given again.
    """
    _refuse_options_beside_plan(options["plan"])
    check_usage(options, plot)
    if options["workers"] is not None and options["dask"] is not None:
        raise click.UsageError("--workers and --dask don't mix: who does the work?")
    check_picture(plot)
    plan_out = _plan_path(plan_out, store, options)
    with Bars(quiet=quiet, units={"train": "tables"}) as bars, _told_if_stopped(store, quiet=quiet):
        done = convert_checkpoint(
            checkpoint,
            store,
            default_row=options.pop("default_row"),
            progress=bars,
            tell=lambda text: note(text, quiet=quiet),
            curve=plot is not None,
            **options,
        )
    if plot is not None:
        draw_curve(done, plot)
    if plan_out is not None:
        Path(plan_out).write_text(done.plan.text())
    if style == "json":
        show_json(converted.document(done, store, plan_out))
    else:
        click.echo(converted.grid(done, style).text(style))
        if done.curve and style != "csv":
            click.echo("\n" + curve_grid(done.curve).text(style))
    for text in converted.messages(done, store, plan_out, verbose=verbose):
        note(text, quiet=quiet)


@contextmanager
def _told_if_stopped(store: str, *, quiet: bool) -> Iterator[None]:
    """Say what a conversion that is stopped leaves, and what for."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, SharkstoreError) as error:
        left = unfinished(store, error)
        if left is not None:
            how = f"the same command goes on from here, or remove {left}"
            if isinstance(error, SharkstoreError):
                error.args = (f"{error}; {how}",)
            else:
                note(f"stopped; {how}", quiet=quiet)
        raise


def _refuse_options_beside_plan(plan: str | None) -> None:
    """A plan has decided what these options would."""
    context = click.get_current_context()
    for name in DECIDED:
        given = context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if plan is not None and given:
            option = "--" + name.replace("_", "-").replace("floors", "floor")
            raise click.UsageError(f"{option} and --plan don't mix: edit the plan instead.")


def _plan_path(path: str | None, store: str, options: dict[str, Any]) -> str | None:
    """Where the plan goes, if anywhere; refused now and not after hours of work."""
    if path is None and options["dry_run"]:
        path = f"{store.rstrip('/')}.plan.json"
    if path is None:
        return None
    folder = os.path.dirname(os.path.abspath(path))
    inside = os.path.realpath(path).startswith(os.path.realpath(store) + os.sep)
    same = os.path.realpath(path) == os.path.realpath(store)
    if inside or same or os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise WriteError("the plan can't be written there", where=path)
    if os.path.lexists(path) and not (options["overwrite"] and _is_plan(path)):
        remedy = "--overwrite replaces a plan; --plan-out names another place"
        raise DestinationError("exists; a plan may have been edited", where=path, remedy=remedy)
    return path


def _is_plan(path: str) -> bool:
    try:
        return "sharkstore_plan" in json.loads(Path(path).read_text())
    except (OSError, ValueError, TypeError):
        return False
