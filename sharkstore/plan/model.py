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
from sharkstore.format.layout import MAX_TIERS
from sharkstore.plan.stats import MOST

VERSION = 1
CONSTANT = Encoding("constant")
REST = "rest"
START = "--dry-run writes one to start from"
SCORES = ("score", "score_signed", "score_curved")
KINDS = {dict: "an object", list: "a list", str: "a text", int: "an integer"}
Action = Literal["store", "prune", "drop"]
Default = Literal["zero", "mean"]
NonFinite = Literal["error", "zero"]
Order = Literal["priority", "id", "loss"]
Rounding = Literal["nearest", "metric"]
Weigh = Literal["metric", "sensitivity", "count", "alike"]


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
        order: rows fill the tiers by `priority`, highest first and ties by id, or by `id`; with
            `loss` every row takes the encoding of least predicted loss + price × bytes, and how
            many take which is known once all were measured.
        tiers: in this order; none is empty unless the table is.
        default: the row for ids out of bounds: zeros, or the mean row.
        why: why this tensor is a table.
        rounding: codes are the `nearest`, or round in the table's `metric`.
        predicted_loss: increase of the loss by its encodings; None if nothing predicts it.
    """

    name: str
    rows: int
    dim: int
    dtype: str
    action: Action
    order: Order
    tiers: tuple[TierPlan, ...]
    default: Default = "zero"
    why: str = ""
    rounding: Rounding = "nearest"
    predicted_loss: float | None = None

    @property
    def stored_tiers(self) -> tuple[TierPlan, ...]:
        """The tiers that are written: one constant row for a pruned table."""
        return (TierPlan(CONSTANT, self.rows),) if self.action == "prune" else self.tiers


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """A field: its table, and its scores if they were measured.

    Args:
        score: mean over samples of the loss's absolute change when mean rows stand in for its
            rows, to first order.
        score_signed: the same of the signed change: that of the mean loss.
        score_curved: the second-order term of that.
    """

    table: str
    score: float | None = None
    score_signed: float | None = None
    score_curved: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What tables of order `loss` share; one of bytes and loss is None.

    Args:
        nbytes: of the whole store: rows, row maps, codebooks, constant rows.
        loss: predicted increase of the loss.
        price: of a byte, that codebooks are trained at.
        weigh: what an error in a row costs: `metric`, `sensitivity`, `count` or `alike`.
    """

    nbytes: int | None
    loss: float | None
    price: float
    weigh: Weigh


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a checkpoint.

    Args:
        dense: tensors stored as they are.
        left: entries that are not stored, with the reason.
        nonfinite: NaN and infinities in tables stop the conversion, or become zero.
        budget: of the tables of order `loss`; None without such.
    """

    tables: tuple[TablePlan, ...]
    dense: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, FieldPlan] = field(default_factory=dict)
    nonfinite: NonFinite = "error"
    budget: Budget | None = None

    def text(self) -> str:
        """The plan as a file has it."""
        return json.dumps(self.document(), indent=2) + "\n"

    def document(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "sharkstore_plan": VERSION,
            "nonfinite": self.nonfinite,
            **({} if self.budget is None else {"budget": asdict(self.budget)}),
            "tables": [_table_document(table) for table in self.tables],
            "fields": {name: asdict(one) for name, one in self.fields.items()},
            "dense": list(self.dense),
            "left": dict(self.left),
        }


def _table_document(table: TablePlan) -> dict[str, Any]:
    document = asdict(table)
    document["tiers"] = [{"encoding": str(t.encoding), "rows": t.rows} for t in table.tiers]
    for name, usual in (("rounding", "nearest"), ("predicted_loss", None)):
        if document[name] == usual:
            del document[name]
    return document


def parse_plan(text: str, where: str) -> Plan:
    """Read a plan as `--dry-run` wrote it, edited or not.

    Raises:
        PlanError: not a plan, or one that doesn't add up; the message names the table.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"not a plan: {error}", where=where, remedy=START) from error
    if not isinstance(document, dict) or "sharkstore_plan" not in document:
        raise PlanError("not a plan: no 'sharkstore_plan'", where=where, remedy=START)
    version = document["sharkstore_plan"]
    if version != VERSION:
        raise PlanError("plan of another version", where=where, got=version, expected=VERSION)
    return Plan(
        tables=tuple(_table(entry, where) for entry in _member(document, "tables", list, where)),
        dense=tuple(
            _of_kind(name, str, "a name in 'dense'", where)
            for name in _member(document, "dense", list, where)
        ),
        left={
            name: _of_kind(why, str, f"left {name!r}", where)
            for name, why in _member(document, "left", dict, where).items()
        },
        fields=_fields(document, where),
        nonfinite=_choice(document, "nonfinite", ("error", "zero"), where),
        budget=_budget(document, where),
    )


def _budget(document: dict[str, Any], where: str) -> Budget | None:
    entry = document.get("budget")
    orders = [t.get("order") for t in document["tables"] if isinstance(t, dict)]
    if entry is None:
        if "loss" in orders:
            raise PlanError("tables of order 'loss' need a 'budget'", where=where)
        return None
    place = f"{where}: budget"
    entry = _of_kind(entry, dict, "'budget'", where)
    nbytes, loss = entry.get("nbytes"), entry.get("loss")
    if (nbytes is None) == (loss is None):
        raise PlanError("one of 'nbytes' and 'loss' must be given", where=place)
    if nbytes is not None and (type(nbytes) is not int or nbytes < 1):
        raise PlanError("'nbytes' must be a number of bytes", where=place, got=f"{nbytes!r:.80}")
    for name in ("loss", "price"):
        value = entry.get(name)
        if value is None and name == "loss":
            continue
        if type(value) not in (int, float) or not 0 < value <= MOST:
            raise PlanError(f"{name!r} must be above 0", where=place, got=f"{value!r:.80}")
    weigh = _choice(entry, "weigh", ("metric", "sensitivity", "count", "alike"), place)
    return Budget(nbytes, None if loss is None else float(loss), float(entry["price"]), weigh)


def _fields(document: dict[str, Any], where: str) -> dict[str, FieldPlan]:
    fields = {}
    for name, entry in _member(document, "fields", dict, where).items():
        place = f"{where}: field {name!r}"
        entry = _of_kind(entry, dict, "a field", place)  # noqa: PLW2901
        table = _member(entry, "table", str, place)
        scores = (_score(entry, kind, place) for kind in SCORES)
        fields[name] = FieldPlan(table, *scores)
    return fields


def _score(entry: dict[str, Any], kind: str, where: str) -> float | None:
    """A score in the range that stats have, so that scores can be added up."""
    score: float | None = entry.get(kind)
    if score is None or (type(score) in (int, float) and -MOST <= score <= MOST):
        return score
    got = f"{score!r:.80}"
    raise PlanError(f"its {kind} must be a finite number or null", where=where, got=got)


def _table(entry: Any, where: str) -> TablePlan:
    entry = _of_kind(entry, dict, "a table", where)
    place = f"{where}: table {_member(entry, 'name', str, where)!r}"
    rows = _member(entry, "rows", int, place)
    table = TablePlan(
        name=entry["name"],
        rows=rows,
        dim=_member(entry, "dim", int, place),
        dtype=_member(entry, "dtype", str, place),
        action=_choice(entry, "action", ("store", "prune", "drop"), place),
        order=_choice(entry, "order", ("priority", "id", "loss"), place),
        # which rows take which encoding is not decided yet where losses decide
        tiers=_tiers(
            _member(entry, "tiers", list, place), rows, place, empty=entry.get("order") == "loss"
        ),
        default=_choice(entry, "default", ("zero", "mean"), place),
        why=_member(entry, "why", str, place),
        rounding=_choice({"rounding": "nearest"} | entry, "rounding", ("nearest", "metric"), place),
        predicted_loss=_score(entry, "predicted_loss", place),
    )
    told = sum(tier.rows for tier in table.tiers)
    if table.action == "store" and told != rows:
        raise PlanError(
            "the tiers' rows must add up to the table's", where=place, got=told, expected=rows
        )
    return table


def _tiers(
    entries: list[Any], rows: int, where: str, *, empty: bool = False
) -> tuple[TierPlan, ...]:
    """The tiers; those without rows only if asked for."""
    entries = [_of_kind(entry, dict, "a tier", where) for entry in entries]
    counts = [entry.get("rows") for entry in entries]
    if not 1 <= len(entries) <= MAX_TIERS:
        raise PlanError(f"a table takes 1 to {MAX_TIERS} tiers", where=where, got=len(entries))
    if counts.count(REST) > 1:
        raise PlanError("only one tier takes the rest", where=where)
    given = sum(count for count in counts if type(count) is int)
    tiers = []
    for entry, count in zip(entries, counts, strict=True):
        taken = rows - given if count == REST else count
        if type(taken) is not int or taken < 0:
            what = f"rows of a tier must be a count or {REST!r}, within the table's {rows}"
            raise PlanError(what, where=where, got=taken)
        try:
            encoding = parse_encoding(_member(entry, "encoding", str, where))
        except ValueError as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(str(error), where=where) from error
        tiers.append(TierPlan(encoding, taken))
    return tuple(tier for tier in tiers if tier.rows or empty) or (tiers[0],)


def _member(owner: dict[str, Any], key: str, kind: type, where: str) -> Any:
    return _of_kind(owner.get(key), kind, repr(key), where)


def _of_kind(value: Any, kind: type, what: str, where: str) -> Any:
    if type(value) is not kind:
        raise PlanError(f"{what} must be {KINDS[kind]}", where=where, got=f"{value!r:.80}")
    return value


def _choice(owner: dict[str, Any], key: str, known: tuple[str, ...], where: str) -> Any:
    value = owner.get(key)
    if value not in known:
        raise PlanError(f"{key}: {value!r:.80} is not one of {', '.join(known)}", where=where)
    return value
