"""The plan: what will happen to each table, as a document that a person can read and edit.

The JSON form is what `--dry-run` writes and `--plan` reads; every value but `why` counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sharkstore.encodings import Encoding, parse_encoding
from sharkstore.errors import PlanError

VERSION = 1
CONSTANT = Encoding("constant")
Action = Literal["store", "prune", "drop"]
Default = Literal["zero", "mean"]
NonFinite = Literal["error", "zero"]


@dataclass(frozen=True, slots=True)
class TierPlan:
    """So many rows in one encoding."""

    encoding: Encoding
    rows: int


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What happens to one table.

    Args:
        dtype: of the checkpoint's tensor.
        action: `store` the rows, `prune` to the mean row, or `drop`.
        order: rows fill the tiers by `priority`, highest first and ties by id, or by `id`.
        tiers: in this order; none is empty unless the table is.
        default: the row for ids out of bounds: zeros, or the mean row.
        why: why this tensor is a table.
    """

    name: str
    rows: int
    dim: int
    dtype: str
    action: Action
    order: Literal["priority", "id"]
    tiers: tuple[TierPlan, ...]
    default: Default = "zero"
    why: str = ""

    @property
    def stored_tiers(self) -> tuple[TierPlan, ...]:
        """The tiers that are written: one constant row for a pruned table."""
        return (TierPlan(CONSTANT, self.rows),) if self.action == "prune" else self.tiers


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """A field: its table, and its score if it was measured."""

    table: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a checkpoint.

    Args:
        dense: tensors stored as they are.
        left: entries that are not stored, with the reason.
        nonfinite: NaN and infinities in tables stop the conversion, or become zero.
    """

    tables: tuple[TablePlan, ...]
    dense: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, FieldPlan] = field(default_factory=dict)
    nonfinite: NonFinite = "error"

    def document(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "sharkstore_plan": VERSION,
            "nonfinite": self.nonfinite,
            "tables": [_table_document(table) for table in self.tables],
            "fields": {name: asdict(one) for name, one in self.fields.items()},
            "dense": list(self.dense),
            "left": dict(self.left),
        }


def _table_document(table: TablePlan) -> dict[str, Any]:
    document = asdict(table)
    document["tiers"] = [{"encoding": str(t.encoding), "rows": t.rows} for t in table.tiers]
    return document


def parse_plan(text: str, where: str) -> Plan:
    """Read a plan as `--dry-run` wrote it, edited or not.

    Raises:
        PlanError: not a plan, or one that doesn't add up; the message names the table.
    """
    try:
        document = json.loads(text)
        version = document["sharkstore_plan"]
        if version != VERSION:
            raise PlanError("plan of another version", where=where, got=version, expected=VERSION)
        return Plan(
            tables=tuple(_table(entry, where) for entry in document["tables"]),
            dense=tuple(document["dense"]),
            left=dict(document["left"]),
            fields={n: FieldPlan(f["table"], f["score"]) for n, f in document["fields"].items()},
            nonfinite=_choice(document["nonfinite"], ("error", "zero"), where),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, PlanError):
            raise
        message = f"not a plan: {type(error).__name__} {error}"
        raise PlanError(
            message, where=where, remedy="--dry-run writes one to start from"
        ) from error


def _table(entry: Mapping[str, Any], where: str) -> TablePlan:
    place = f"{where}: table {entry['name']!r}"
    rows = int(entry["rows"])
    table = TablePlan(
        name=str(entry["name"]),
        rows=rows,
        dim=int(entry["dim"]),
        dtype=str(entry["dtype"]),
        action=_choice(entry["action"], ("store", "prune", "drop"), place),
        order=_choice(entry["order"], ("priority", "id"), place),
        tiers=_tiers(entry["tiers"], rows, place),
        default=_choice(entry["default"], ("zero", "mean"), place),
        why=str(entry["why"]),
    )
    told = sum(tier.rows for tier in table.tiers)
    if table.action == "store" and told != rows:
        raise PlanError(
            "the tiers' rows must add up to the table's", where=place, got=told, expected=rows
        )
    return table


def _tiers(entries: list[Mapping[str, Any]], rows: int, where: str) -> tuple[TierPlan, ...]:
    given = sum(entry["rows"] for entry in entries if entry["rows"] != "rest")
    tiers = []
    for entry in entries:
        count = rows - given if entry["rows"] == "rest" else entry["rows"]
        if type(count) is not int or count < 0:
            raise PlanError("rows of a tier must be a count or 'rest'", where=where, got=count)
        tiers.append(TierPlan(parse_encoding(entry["encoding"]), count))
    if not 1 <= len(tiers) <= 8:
        raise PlanError("a table takes 1 to 8 tiers", where=where, got=len(tiers))
    return tuple(tier for tier in tiers if tier.rows) or (tiers[0],)


def _choice(value: Any, known: tuple[str, ...], where: str) -> Any:
    if value not in known:
        raise PlanError(f"{value!r} is not one of {', '.join(known)}", where=where)
    return value
