"""What the tables that go cost and save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sharkstore.plan.model import Plan
from sharkstore.plan.prune import sum_or_none


@dataclass(frozen=True, slots=True)
class PrunedTable:
    """A table that goes.

    Scores are sums over the fields, None where one was not measured: what replacing the rows
    by their mean row changes, to first order (SHARK, arXiv 2308.09395).

    Args:
        fields: its fields; its own name where none names it.
        score: mean over samples of the loss's absolute change: the most that the mean loss
            can change.
        score_signed: change of the mean loss.
        score_curved: its second-order term (ours).
        saved_nbytes: bytes in float32, less those that the table still takes.
    """

    table: str
    fields: tuple[str, ...]
    score: float | None
    score_signed: float | None
    saved_nbytes: int
    score_curved: float | None = None

    @property
    def predicted(self) -> float | None:
        """Change of the mean loss, as far as its terms were measured."""
        return _predicted(self.score_signed, self.score_curved)


@dataclass(frozen=True, slots=True)
class Pruned:
    """All tables that go, and their sums.

    Args:
        unit: of the scores: `nats`, or empty where it is the loss's own.
    """

    tables: tuple[PrunedTable, ...] = ()
    unit: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of all these tables."""
        return tuple(field for table in self.tables for field in table.fields)

    @property
    def score(self) -> float | None:
        """The most that the mean loss changes, to first order; None if a field has no score."""
        return sum_or_none(table.score for table in self.tables)

    @property
    def score_signed(self) -> float | None:
        """Change of the mean loss, to first order; None if a field has no signed score."""
        return sum_or_none(table.score_signed for table in self.tables)

    @property
    def score_curved(self) -> float | None:
        """The second-order term of that change; None if a field's was not measured."""
        return sum_or_none(table.score_curved for table in self.tables)

    @property
    def predicted(self) -> float | None:
        """Change of the mean loss, as far as its terms were measured."""
        return _predicted(self.score_signed, self.score_curved)

    @property
    def saved_nbytes(self) -> int:
        """Bytes in float32, less those that the tables still take."""
        return sum(table.saved_nbytes for table in self.tables)


def pruned_tables(plan: Plan, stored: Mapping[str, int]) -> tuple[PrunedTable, ...]:
    """The tables that a plan prunes or drops, in its order.

    Args:
        stored: bytes of each table in the store.
    """
    found = []
    for table in plan.tables:
        if table.action == "store":
            continue
        fields = {name: one for name, one in plan.fields.items() if one.table == table.name}
        found.append(
            PrunedTable(
                table=table.name,
                fields=tuple(fields) or (table.name,),
                score=sum_or_none(f.score for f in fields.values()) if fields else None,
                score_signed=(
                    sum_or_none(f.score_signed for f in fields.values()) if fields else None
                ),
                score_curved=(
                    sum_or_none(f.score_curved for f in fields.values()) if fields else None
                ),
                saved_nbytes=table.rows * table.dim * 4 - stored.get(table.name, 0),
            )
        )
    return tuple(found)


def _predicted(signed: float | None, curved: float | None) -> float | None:
    return signed if signed is None or curved is None else signed + curved
