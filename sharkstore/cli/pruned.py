"""What a conversion prunes: what it costs in predicted loss, and what it saves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sharkstore.cli.render import Grid, counted, size
from sharkstore.convert import Conversion
from sharkstore.plan.pruned import Pruned

SUMS = ("score", "score_signed", "score_curved", "saved_nbytes")


def pruned_document(pruned: Pruned) -> dict[str, Any]:
    """The tables that go, and their total, as JSON values."""
    total = {"fields": len(pruned.fields)} | {name: getattr(pruned, name) for name in SUMS}
    return {"pruned": [asdict(table) for table in pruned.tables], "pruned_total": total}


def pruned_messages(done: Conversion) -> list[str]:
    """A line for each table that goes, and one for all; nothing if none goes."""
    pruned = done.pruned
    if not pruned.tables:
        return []
    lines = _grid(pruned).text("human").splitlines()
    saved = f"saves {size(pruned.saved_nbytes)} of {size(done.metadata.source_nbytes)}"
    cost = _cost(pruned) if pruned.score is not None else _unknown(done)
    lines.append(f"pruned {counted(len(pruned.fields), 'field')}: predicted loss {cost}, {saved}")
    dropped = [table.name for table in done.plan.tables if table.action == "drop"]
    if dropped and pruned.score is not None:
        lines.append("note: that loss is predicted for mean rows, which dropped tables lack")
    return lines


def _grid(pruned: Pruned) -> Grid:
    rows = [
        [
            table.table,
            ", ".join(table.fields),
            "" if table.predicted is None else f"{table.predicted:+.3g}",
            "" if table.score_signed is None else f"{table.score_signed:+.3g}",
            "" if table.score is None else f"{table.score:.3g}",
            size(table.saved_nbytes),
        ]
        for table in pruned.tables
    ]
    return Grid(
        ["pruned table", "fields", "predicted loss", "first order", "at most", "saves"],
        rows,
        left=2,
    )


def _cost(pruned: Pruned) -> str:
    """Change of the mean loss; its bound alone where no sign was measured."""
    unit = f"{pruned.unit} a sample".strip()
    if pruned.score_signed is None:
        return f"at most {pruned.score:.3g} {unit} to first order"
    first = f"{pruned.score_signed:+.3g} (at most {pruned.score:.3g}) {unit} to first order"
    if pruned.score_curved is None:
        return first
    return f"{pruned.predicted:+.3g} {unit} to second order, {first.replace(f' {unit}', '')}"


def _unknown(done: Conversion) -> str:
    fields = done.plan.fields
    names = [f for f in done.pruned.fields if f not in fields or fields[f].score is None]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"not known, no score of {', '.join(names[:4])}{more}"
