"""A budget over all tables: encodings chosen on samples, then every row decided over."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.allocate.decide import (
    LEVELS,
    NARROW,
    TIER_BITS,
    WIDE,
    Tally,
    prices,
    tiers_from,
)
from sharkstore.allocate.measure import (
    CHOICE_BYTES,
    Measured,
    Measuring,
    block_rows,
    measure_span,
    measure_there,
)
from sharkstore.allocate.table import TableChoice
from sharkstore.errors import PlanError
from sharkstore.plan.model import Plan, TierPlan
from sharkstore.plan.solve import Solution, Solver
from sharkstore.tensors import Tensor, TensorSource
from sharkstore.write.files import reported
from sharkstore.write.rows import cores
from sharkstore.write.scan import Span, spans
from sharkstore.write.site import Site

U8 = NDArray[np.uint8]
CHOICES = "choices"

# prices that don't bracket the budget are moved so often, each time over twice the octaves
TRIES = 9
# a budget that is used up so far needs no richer prices
USED = 0.998


@dataclass(frozen=True, slots=True)
class Limit:
    """What an allocation keeps to: bytes, or a predicted loss; one of them is None."""

    nbytes: float | None = None
    loss: float | None = None

    def solve(self, solver: Solver) -> Solution:
        """The best solution within.

        Raises:
            PlanError: there is none.
        """
        if self.nbytes is not None:
            return solver.within_bytes(self.nbytes)
        assert self.loss is not None
        return solver.within_loss(self.loss)


@dataclass(slots=True)
class Cut:
    """Where rows stop changing: those before price `level` have, and the first ones at it.

    Args:
        changed: by table, how many at this price.
    """

    level: int
    changed: list[int]


@dataclass(slots=True)
class Allocation:
    """Tables whose rows share a limit, each with the encodings that they take.

    Args:
        plan: of all tables; those allocated have order `loss`.
        tables: that are allocated.
        limit: for these.
        price: of a byte, by the samples.
        unit: what losses, that of the limit and the price included, are multiplied by.
    """

    source: TensorSource
    plan: Plan
    tables: Sequence[TableChoice]
    limit: Limit
    price: float
    unit: float = 1.0
    codebooks: Mapping[str, Mapping[int, NDArray[Any]]] = field(default_factory=dict)
    _folder: str = ""
    _cut: Cut = field(default_factory=lambda: Cut(0, []))
    _taken: dict[str, list[int]] = field(default_factory=dict)

    @property
    def weightless(self) -> tuple[str, ...]:
        """Tables of which the stats say that errors cost nothing."""
        return tuple(one.plan.name for one in self.tables if one.weightless)

    def decide(self, site: Site) -> Plan:
        """Decide over all rows: see `sharkstore.write.allotment.Allotment`."""
        if CHOICES not in site.journal:
            # a name that nobody else writes to
            site.journal.add(CHOICES, uuid.uuid4().hex)
        self._folder = os.path.join(site.journal.folder, site.journal[CHOICES])
        os.makedirs(self._folder, exist_ok=True)
        tallies = self._tally_near(site)
        self._cut = self._find_cut(tallies)
        decided = {}
        books = {}
        for index, (table, tally) in enumerate(zip(self.tables, tallies, strict=True)):
            rows, loss = self._outcome(index, tally)
            taken = [k for k, count in enumerate(rows) if count] or [0]
            name, encodings = table.plan.name, table.ruler.encodings
            self._taken[name] = taken
            tiers = tuple(TierPlan(encodings[k], int(rows[k])) for k in taken)
            decided[name] = replace(table.plan, tiers=tiers, predicted_loss=loss / self.unit)
            books[name] = {
                place: table.books[encodings[k]]
                for place, k in enumerate(taken)
                if encodings[k].name == "pq"
            }
        self.codebooks = books
        return replace(self.plan, tables=tuple(decided.get(t.name, t) for t in self.plan.tables))

    def tiers(self, table: str) -> Iterator[U8]:
        """Tiers of consecutive rows: see `sharkstore.write.allotment.Allotment`."""
        index = next(i for i, one in enumerate(self.tables) if one.plan.name == table)
        places = np.zeros(1 << TIER_BITS, np.uint8)
        for place, encoding in enumerate(self._taken[table]):
            places[encoding] = place
        for block in self._choices(index):
            yield places[block]

    def _choices(self, index: int) -> Iterator[U8]:
        rows = self.tables[index].plan.rows
        if len(self.tables[index].row_bytes) == 1:
            return iter(())
        return tiers_from(self._path(index), self._cut.level, self._cut.changed[index], rows)

    def _path(self, index: int) -> str:
        return os.path.join(self._folder, f"choices.{index}")

    def _tally_near(self, site: Site) -> list[Tally]:
        """Tallies at prices of which some keep the limit and some don't, if there are such."""
        sampled = any(len(one.sample.ids) < one.plan.rows for one in self.tables)
        octaves, price = WIDE if sampled else NARROW, self.price
        for turn in range(TRIES):
            levels = prices(price, octaves)
            tallies = self._tally(levels, site, turn)
            used = self._used(tallies)
            most = self._most()
            if self.limit.nbytes is not None:
                if used[0] < most * USED:
                    price = levels[0] / 2**octaves
                elif used[-1] > most:
                    price = levels[-1] * 2**octaves
                else:
                    break
            elif used[0] > most:
                price = levels[0] / 2**octaves
            elif used[-1] < most * USED:
                price = levels[-1] * 2**octaves
            else:
                break
            octaves *= 2
        return tallies

    def _tally(self, levels: Sequence[float], site: Site, turn: int) -> list[Tally]:
        """Measure all rows; a table of one encoding has nothing to decide, its sample tells."""
        tasks = []
        for index, table in enumerate(self.tables):
            if len(table.row_bytes) > 1:
                with reported(self._path(index)), open(self._path(index), "ab") as file:
                    file.truncate(CHOICE_BYTES * table.plan.rows)
                site.journal.keep(self._path(index))
                own = table.narrowed((levels[0], levels[-1])).to_measure()
                tasks += [Measuring(own, levels, self._path(index), span) for span in _spans(table)]
        stage = "measure" if turn == 0 else f"measure again {turn}"
        inputs = Measured(self.source, site.inputs.stats, cores())
        submit = site.submit(measure_span, measure_there, inputs)
        costs = [task.span.nbytes for task in tasks]
        results = site.carry_out(stage, tasks, costs, submit)
        tallies = []
        for table in self.tables:
            row_bytes = table.row_bytes
            if len(row_bytes) == 1:
                tallies.append(Tally.fixed(table.plan.rows, row_bytes, table.mean_loss))
                continue
            whole = Tally.empty(len(row_bytes))
            for _ in _spans(table):
                whole.add(Tally.parse(next(results)))
            tallies.append(whole)
        return tallies

    def _most(self) -> float:
        """The limit, less what doesn't depend on rows."""
        if self.limit.nbytes is None:
            assert self.limit.loss is not None
            return self.limit.loss
        return self.limit.nbytes - sum(one.once_bytes for one in self.tables)

    def _used(self, tallies: Sequence[Tally]) -> NDArray[np.float64]:
        """Bytes, or loss, of all rows at each price."""
        parts = [one.loss if self.limit.nbytes is None else one.nbytes for one in tallies]
        return np.cumsum(np.sum(parts, axis=0))[:LEVELS]

    def _find_cut(self, tallies: Sequence[Tally]) -> Cut:
        """Where the limit is kept.

        Raises:
            PlanError: nowhere: the rows are unlike the samples.
        """
        used, most = self._used(tallies), self._most()
        none = [0] * len(tallies)
        within = np.flatnonzero(used <= most)
        if not len(within):
            remedy = "allow more bytes, more loss or other encodings"
            what = "rows that were not sampled pass the limit"
            unit = self.unit if self.limit.nbytes is None else 1.0
            got, expected = f"{used.min() / unit:,.6g}", f"{most / unit:,.6g}"
            raise PlanError(what, got=got, expected=expected, remedy=remedy)
        if self.limit.nbytes is None:
            return Cut(int(within[-1]) + 1, none)
        level = int(within[0])
        if level == 0:
            return Cut(1, none)
        return Cut(level, self._share_out(tallies, level, used[level - 1] - most))

    def _share_out(self, tallies: Sequence[Tally], level: int, excess: float) -> list[int]:
        """How many rows of each table change at a price until so many bytes are saved."""
        changed = []
        for index, (table, tally) in enumerate(zip(self.tables, tallies, strict=True)):
            saved = -tally.nbytes[level]
            if excess <= 0:
                changed.append(0)
            elif saved <= excess:
                changed.append(table.plan.rows)
            else:
                changed.append(self._rows_saving(index, level, excess))
            excess -= saved
        return changed

    def _rows_saving(self, index: int, level: int, excess: float) -> int:
        """How many rows that change at a price save so many bytes."""
        table = self.tables[index]
        rows = table.plan.rows
        count = 0
        pairs = zip(
            tiers_from(self._path(index), level, 0, rows),
            tiers_from(self._path(index), level, rows, rows),
            strict=True,
        )
        for before, after in pairs:
            moved = np.flatnonzero(before != after)
            saved = np.cumsum(table.row_bytes[before[moved]] - table.row_bytes[after[moved]])
            enough = np.flatnonzero(saved >= excess)
            if len(enough):
                return count + int(enough[0]) + 1
            count += len(moved)
            excess -= float(saved[-1]) if len(moved) else 0.0
        return rows

    def _outcome(self, index: int, tally: Tally) -> tuple[NDArray[np.int64], float]:
        """Rows of each encoding and predicted loss, at the cut."""
        level, changed = self._cut.level, self._cut.changed[index]
        if len(self.tables[index].row_bytes) == 1:
            return tally.rows[0], float(tally.loss[0])
        rows = tally.rows[:level].sum(axis=0)
        loss = float(tally.loss[:level].sum())
        if changed and level < LEVELS:
            rows = np.zeros_like(rows)
            for block in self._choices(index):
                rows += np.bincount(block, minlength=len(rows))
            moved = float(tally.rows[level].clip(0).sum())
            loss += float(tally.loss[level]) * (min(1.0, changed / moved) if moved else 0.0)
        # differences of float32 may leave less than nothing
        return rows, max(loss, 0.0)


def _spans(table: TableChoice) -> list[Span]:
    """The rows of a table in spans, the same whoever measures them."""
    plan = table.plan
    tensor = Tensor(plan.name, (plan.rows, plan.dim), "float32")
    return list(spans(tensor, block_rows(plan.dim)))
