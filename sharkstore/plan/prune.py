"""Which fields go, and which tables go with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from sharkstore.errors import PlanError
from sharkstore.plan.amounts import Amount
from sharkstore.plan.model import FieldPlan

REMEDY = "pass --stats with scores"


def weakest_fields(fields: Mapping[str, FieldPlan], keep: int) -> list[str]:
    """All fields but the `keep` of the highest score; of equal ones the first are kept.

    Raises:
        PlanError: a field has no score, or `keep` is out of range.
    """
    scores = _scores(fields, "--keep")
    if not 0 < keep <= len(fields):
        raise PlanError(f"--keep {keep}", expected=f"1 to {len(fields)}, the number of fields")
    return _ranked(scores)[keep:]


def weakest_share(fields: Mapping[str, FieldPlan], share: Fraction) -> list[str]:
    """All fields but this share of the highest score, to the nearest number and at least one.

    Raises:
        PlanError: a field has no score.
    """
    scores = _scores(fields, "--keep-share")
    kept = math.floor(share * len(fields) + Fraction(1, 2))
    return _ranked(scores)[max(1, kept) :]


def fields_below(fields: Mapping[str, FieldPlan], least: float) -> list[str]:
    """Fields that score less than `least`.

    Raises:
        PlanError: a field has no score, or none scores as much.
    """
    scores = _scores(fields, "--prune-below")
    best = max(scores.values())
    if best < least:
        what = f"--prune-below {least:g} leaves no field"
        raise PlanError(what, expected=f"at most {best!r}, the best score")
    return [name for name in _ranked(scores) if scores[name] < least]


def check_least(least: float, where: str = "") -> None:
    """Refuse what no score can be compared with.

    Raises:
        PlanError: not a finite number from 0.
    """
    number = isinstance(least, int | float) and not isinstance(least, bool)
    if not number or not 0 <= least < math.inf:
        expected = "a finite number, not negative"
        raise PlanError("not a score", where=where, got=repr(least), expected=expected)


def cheapest_tables(
    fields: Mapping[str, FieldPlan], sizes: Mapping[str, int], amount: Amount
) -> list[str]:
    """Tables to prune so that this much is saved: those of least score per byte.

    They are taken by ascending score per byte (of equal ones the largest first) until the
    amount is reached. Then those without which it is still reached are given back, highest
    score first, so no table goes for nothing. A table's score is the sum of its fields'; one
    that no field names, or a field without a score, is never taken.

    Args:
        sizes: bytes in float32 of each table of the checkpoint.
        amount: bytes to save, or their share of all of `sizes`.

    Returns:
        Tables, in the order of `sizes`.

    Raises:
        PlanError: no scores, or so much can't be saved with a field left.
    """
    scores = {t: score for t, score in table_scores(fields).items() if score is not None}
    if not scores:
        raise PlanError("--prune-bytes needs field scores", remedy=REMEDY)
    target = amount.of(sum(sizes.values()))
    _check_target(target, fields, sizes, set(scores))
    cost = {t: Fraction(score) / sizes[t] for t, score in scores.items() if sizes[t]}
    taken: dict[str, int] = {}
    for table in sorted(cost, key=lambda t: (cost[t], -sizes[t])):
        if sum(taken.values()) < target:
            taken[table] = sizes[table]
    for table in sorted(taken, key=lambda t: (-scores[t], sizes[t])):
        if sum(taken.values()) - sizes[table] >= target:
            del taken[table]
    return [table for table in sizes if table in taken]


def _check_target(
    target: Fraction, fields: Mapping[str, FieldPlan], sizes: Mapping[str, int], scored: set[str]
) -> None:
    """Refuse to save more than the scored tables hold; where all fields are theirs, one stays."""
    most = sum(sizes[table] for table in scored)
    which = "all tables whose fields have scores"
    if {one.table for one in fields.values() if sizes[one.table]} <= scored:
        most -= min((sizes[table] for table in scored if sizes[table]), default=0)
        which = "all tables of fields but the smallest"
    if target > most:
        got = f"{math.ceil(target):,} of {sum(sizes.values()):,} bytes"
        what = "--prune-bytes asks for more than can be saved"
        raise PlanError(what, got=got, expected=f"at most {most:,}: {which}")


def table_scores(fields: Mapping[str, FieldPlan]) -> dict[str, float | None]:
    """Sum of the scores of each table's fields; None where a field has no score."""
    found: dict[str, list[float | None]] = {}
    for one in fields.values():
        found.setdefault(one.table, []).append(one.score)
    return {table: sum_or_none(scores) for table, scores in found.items()}


def sum_or_none(values: Iterable[float | None]) -> float | None:
    """The sum; None if one is not known."""
    known = list(values)
    return None if None in known else math.fsum(one for one in known if one is not None)


def tables_without_fields(
    fields: Mapping[str, FieldPlan],
    tables: Sequence[str],
    pruned: Sequence[str],
    *,
    explicit: bool,
) -> list[str]:
    """Tables all of whose fields are pruned.

    Args:
        fields: field -> table; a table that no field names is a field of its own name.
        tables: of the checkpoint.
        pruned: fields to prune.
        explicit: refuse to prune some fields only of a shared table; else it stays.

    Raises:
        PlanError: an unknown field, or some fields only of a shared table.
    """
    users: dict[str, set[str]] = {table: set() for table in tables}
    for name, one in fields.items():
        users[one.table].add(name)
    for table in tables:
        users[table] = users[table] or {table}
    known = {name for names in users.values() for name in names}
    for name in pruned:
        if name not in known:
            raise PlanError(f"no field {name!r}", expected=", ".join(sorted(known)[:12]))
    gone = set(pruned)
    for table, names in users.items():
        if explicit and names & gone and not names <= gone:
            raise PlanError(
                f"field {min(names & gone)!r} shares this table with {', '.join(names - gone)}",
                where=table,
                remedy="a table is pruned when all its fields go: name them all, or none",
            )
    return [table for table, names in users.items() if names <= gone]


def _scores(fields: Mapping[str, FieldPlan], option: str) -> dict[str, float]:
    """Each field's score, or a refusal that names those without one."""
    without = [name for name, one in fields.items() if one.score is None]
    if not fields or without:
        which = f": {', '.join(without[:4])} have none" if without else ""
        raise PlanError(f"{option} needs field scores{which}", remedy=REMEDY)
    return {name: one.score or 0.0 for name, one in fields.items()}


def _ranked(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda name: -scores[name])
