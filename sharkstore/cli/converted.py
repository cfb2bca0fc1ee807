"""How a conversion looks: its tables for people and programs, and what is said beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharkstore.cli.budget import curve_document
from sharkstore.cli.pruned import pruned_document, pruned_messages
from sharkstore.cli.render import Grid, percent, size
from sharkstore.convert import Conversion
from sharkstore.format.metadata import TableMetadata
from sharkstore.plan.model import TablePlan
from sharkstore.report import ratio

SHOWN = 4


def document(done: Conversion, store: str, plan_out: str | None) -> dict[str, Any]:
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


def grid(done: Conversion, style: str) -> Grid:
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


def messages(done: Conversion, store: str, plan_out: str | None, *, verbose: bool) -> list[str]:
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
    texts += _left(done.plan.left, verbose=verbose)
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


def _left(left: Mapping[str, str], *, verbose: bool) -> list[str]:
    """A line each; of very many for one reason, a line for all."""
    names: dict[str, list[str]] = {}
    for name, why in left.items():
        names.setdefault(why, []).append(name)
    texts = []
    for why, some in names.items():
        if verbose or len(some) <= SHOWN:
            texts += [f"left out: {name}: {why}" for name in some]
        else:
            texts.append(f"left out: {len(some)}, {why} ({_some(some, verbose=verbose)})")
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
