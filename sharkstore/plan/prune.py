"""Which fields go, and which tables go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sharkstore.errors import PlanError
from sharkstore.plan.model import FieldPlan


def weakest_fields(fields: Mapping[str, FieldPlan], keep: int) -> list[str]:
    """All fields but the `keep` of the highest score; ties stay in the order given.

    Raises:
        PlanError: a field has no score, or `keep` is out of range.
    """
    without = [name for name, one in fields.items() if one.score is None]
    if not fields or without:
        which = f": {', '.join(without[:4])} have none" if without else ""
        raise PlanError(f"--keep needs field scores{which}", remedy="pass --stats with scores")
    if not 0 < keep <= len(fields):
        raise PlanError(f"--keep {keep}", expected=f"1 to {len(fields)}, the number of fields")
    ranked = sorted(fields, key=lambda name: -(fields[name].score or 0.0))
    return ranked[keep:]


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
