"""`sharkstore convert`: a checkpoint to a store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sharkstore.cli.budget import (
    budget_options,
    check_picture,
    check_usage,
    checked,
    curve_document,
    curve_grid,
    draw_curve,
)
from sharkstore.cli.pruned import pruned_document, pruned_messages
from sharkstore.cli.render import (
    Bars,
    Grid,
    format_option,
    message_options,
    note,
    percent,
    show_json,
    size,
)
from sharkstore.convert import Conversion, convert_checkpoint, unfinished
from sharkstore.errors import DestinationError, WorkerError, WriteError
from sharkstore.format.metadata import TableMetadata
from sharkstore.plan.amounts import parse_amount, parse_share, parse_size
from sharkstore.plan.model import TablePlan
from sharkstore.plan.policy import PRUNING, RANKS
from sharkstore.plan.prune import check_least
from sharkstore.plan.tiers import parse_tiers
from sharkstore.report import ratio

SHOWN = 4
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
        show_json(_document(done, store, plan_out))
    else:
        click.echo(_grid(done, style).text(style))
        if done.curve and style != "csv":
            click.echo("\n" + curve_grid(done.curve).text(style))
    for text in _messages(done, store, plan_out, verbose=verbose):
        note(text, quiet=quiet)


@contextmanager
def _told_if_stopped(store: str, *, quiet: bool) -> Iterator[None]:
    """Say what a conversion that is stopped leaves, and what for."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, WorkerError):
        left = unfinished(store)
        if left is not None:
            text = f"stopped; the same command goes on from here, or remove {left}"
            note(text, quiet=quiet)
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


def _document(done: Conversion, store: str, plan_out: str | None) -> dict[str, Any]:
    stored = {table.name: table for table in done.metadata.tables}
    return {
        "store": store if done.written else None,
        "plan": plan_out,
        "digest": done.metadata.digest if done.written else None,
        "nbytes": done.metadata.nbytes,
        "source_nbytes": done.metadata.source_nbytes,
        "ratio": ratio(done.metadata.nbytes, done.metadata.source_nbytes),
        "data_bytes": done.data_bytes,
        "predicted_loss": done.predicted_loss,
        "tables": [_table_document(table, stored.get(table.name)) for table in done.plan.tables],
        **({"curve": curve_document(done.curve)} if done.curve else {}),
        "dense": list(done.plan.dense),
        "left": dict(done.plan.left),
        **pruned_document(done.pruned),
        "notes": list(done.notes),
    }


def _table_document(table: TablePlan, stored: TableMetadata | None) -> dict[str, Any]:
    return {
        "name": table.name,
        "action": table.action,
        "why": table.why,
        "rows": table.rows,
        "dim": table.dim,
        "tiers": [
            {"encoding": str(tier.encoding), "rows": tier.rows} for tier in table.stored_tiers
        ],
        "nbytes": 0 if stored is None else stored.nbytes,
        "predicted_loss": table.predicted_loss,
    }


def _grid(done: Conversion, style: str) -> Grid:
    exact = style == "csv"
    stored = {table.name: table for table in done.metadata.tables}
    rows = []
    for planned in done.plan.tables:
        table = stored.get(planned.name)
        kept = 0 if table is None else table.nbytes
        source = planned.rows * planned.dim * 4
        tiers = "dropped"
        if table is not None:
            tiers = ", ".join(f"{tier.encoding} {tier.rows:,}" for tier in table.tiers)
        rows.append(
            [
                planned.name,
                f"{tiers} (pruned)" if planned.action == "prune" else tiers,
                str(planned.rows) if exact else f"{planned.rows:,}",
                str(planned.dim),
                str(source) if exact else size(source),
                str(kept) if exact else size(kept),
                str(ratio(kept, source)) if exact else percent(ratio(kept, source)),
            ]
        )
        if done.predicted_loss is not None:
            rows[-1].append(_loss(planned.predicted_loss, exact=exact))
    headers = ["table", "tiers", "rows", "dim", "float32", "stored", "ratio"]
    if done.predicted_loss is not None:
        headers.append("predicted loss")
    return Grid(headers, rows, left=2)


def _loss(loss: float | None, *, exact: bool) -> str:
    if loss is None:
        return ""
    return str(loss) if exact else f"{loss:.1e}"


def _messages(done: Conversion, store: str, plan_out: str | None, *, verbose: bool) -> list[str]:
    metadata = done.metadata
    reasons: dict[str, list[str]] = {}
    for table in done.plan.tables:
        reasons.setdefault(table.why, []).append(table.name)
    texts = [
        f"taken as tables: {len(names)}, {why} ({_some(names, verbose=verbose)})"
        for why, names in reasons.items()
    ]
    texts += [f"note: {text}" for text in done.notes]
    dense = done.plan.dense
    if dense:
        texts.append(f"kept as they are, no tables: {len(dense)} ({_some(dense, verbose=verbose)})")
    texts += [f"left out: {name}: {why}" for name, why in done.plan.left.items()]
    texts += pruned_messages(done)
    if done.predicted_loss is not None:
        texts.append(_predicted(done))
    share = percent(ratio(metadata.nbytes, metadata.source_nbytes))
    before = f"{size(metadata.source_nbytes)} of tables in float32"
    sizes = f"{before}, now {size(metadata.nbytes)} ({share})"
    if done.written:
        texts.append(f"{store}: {sizes}, digest {metadata.digest}")
    else:
        files = f"{done.data_bytes:,} bytes of chunk files"
        texts.append(f"dry run: {sizes}, {files}; nothing written but {plan_out}")
    return texts


def _predicted(done: Conversion) -> str:
    """What the encodings cost by prediction, and in which unit."""
    budget = done.plan.budget
    plain = budget is not None and budget.weigh in ("count", "alike")
    unit = "squared errors" if plain else "nats a sample"
    return f"predicted increase of the loss by encodings: {done.predicted_loss:.3g} {unit}"


def _some(names: Sequence[str], *, verbose: bool) -> str:
    """The first few names, or all."""
    if verbose or len(names) <= SHOWN:
        return ", ".join(names)
    return ", ".join(names[:SHOWN]) + ", …; -v names all"
