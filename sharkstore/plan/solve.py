"""The encoding of every row: least predicted loss for a number of bytes, over all tables at once.

With a price on bytes, every row can decide alone: it takes the encoding of least loss + price ×
bytes (Lagrangian relaxation, Everett 1963), and the price that uses the budget up is the one that
all rows share. What a table pays once, its row map and its codebooks, depends on which encodings
it has at all, so these are chosen with the price.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import PlanError
from sharkstore.format.layout import MAX_TIERS
from sharkstore.plan.costs import Costs, Mixture, mixture, once_bytes

F64 = NDArray[np.float64]
Kept = tuple[int, ...]

# prices are tried at 2 ** (step / STEPS)
STEPS = 8
OCTAVES = 160
# a price at which nothing but bytes counts
DEAR = 2.0**400
# tables that change at one price are tried so many, one by one
MOST_BETWEEN = 8
# all sets of so many encodings are tried
EXHAUSTIVE = 5
BISECTIONS = 28


@dataclass(frozen=True, slots=True)
class Solution:
    """A mixture for each table, at one price of a byte."""

    price: float
    mixtures: tuple[Mixture, ...]

    @property
    def nbytes(self) -> float:
        """Bytes of all tables."""
        return sum(one.nbytes for one in self.mixtures)

    @property
    def loss(self) -> float:
        """Predicted increase of the loss."""
        return sum(one.loss for one in self.mixtures)


def _between(rich: Solution, poor: Solution) -> list[list[Kept]]:
    """Sets of encodings for all tables: those of two solutions, and what lies between them.

    From one price to the next a table may change all its rows at once, and the sum jump past a
    budget: with the encodings of both, some of its rows can.
    """
    ends = [[one.kept for one in solution.mixtures] for solution in (rich, poor)]
    both = [tuple(sorted({*a, *b}))[-MAX_TIERS:] for a, b in zip(*ends, strict=True)]
    moved = [place for place, (a, b) in enumerate(zip(*ends, strict=True)) if a != b]
    found = [*ends] if moved else ends[:1]
    if moved:
        found.append(both)
    if len(moved) > 1:
        found += [
            [*ends[0][:place], both[place], *ends[1][place + 1 :]] for place in moved[:MOST_BETWEEN]
        ]
    return found


def best_mixture(costs: Costs, price: float) -> Mixture:
    """The best encodings of a table at a price, at most 8.

    All sets of a few encodings are tried. Else encodings go one by one, the one that is missed
    least first, and the best set on the way is bettered by exchanges.
    """
    count = len(costs.encodings)
    if count <= EXHAUSTIVE:
        sets = [
            kept
            for size in range(1, min(count, MAX_TIERS) + 1)
            for kept in combinations(range(count), size)
        ]
        return min((mixture(costs, kept, price) for kept in sets), key=_priced(price))
    search = _Search(costs, price)
    return mixture(costs, search.exchange(search.eliminate()), price)


def _priced(price: float) -> Callable[[Mixture], float]:
    return lambda one: one.loss + price * one.nbytes


class _Search:
    """A search for the best set of encodings at one price."""

    def __init__(self, costs: Costs, price: float) -> None:
        self.costs, self.price = costs, price
        self.each = (costs.losses + price * costs.row_bytes[:, None]) * costs.stands

    def total(self, kept: Sequence[int]) -> float:
        """What a set costs: loss + price × bytes."""
        rows = float(np.minimum.reduce(self.each[list(kept)]).sum())
        return rows + self.price * once_bytes(self.costs, kept)

    def least_missed(self, kept: list[int]) -> list[int]:
        """The set without the encoding that adds least when it goes."""
        best = self.each[kept[0]].copy()
        second = np.full_like(best, np.inf)
        taken = np.zeros(len(best), np.intp)
        for place in range(1, len(kept)):
            cost = self.each[kept[place]]
            taken[cost < best] = place
            np.minimum(second, np.maximum(best, cost), out=second)
            np.minimum(best, cost, out=best)
        added: F64 = np.bincount(taken, second - best, len(kept)).astype(np.float64)
        added -= self.price * self.costs.fixed_bytes[kept]
        gone = int(added.argmin())
        return kept[:gone] + kept[gone + 1 :]

    def eliminate(self) -> list[int]:
        """The best of the sets that are left as encodings go one by one."""
        kept = list(range(len(self.costs.encodings)))
        sets = [kept]
        while len(kept) > 1:
            kept = self.least_missed(kept)
            sets.append(kept)
        return min((one for one in sets if len(one) <= MAX_TIERS), key=self.total)

    def exchange(self, kept: list[int]) -> list[int]:
        """The set bettered, as long as that goes, by one encoding more or in another's place."""
        least = self.total(kept)
        while True:
            others = [one for one in range(len(self.costs.encodings)) if one not in kept]
            more = [sorted([*kept, one]) for one in others]
            sets = [one for one in more if len(one) <= MAX_TIERS]
            sets += [self.least_missed(one) for one in more]
            best = min(sets, key=self.total, default=kept)
            if not (total := self.total(best)) < least * (1 - 1e-9):
                return kept
            kept, least = best, total


@dataclass(slots=True)
class Solver:
    """The best mixtures of some tables for any budget.

    Args:
        tables: their costs; every point can be held by an encoding.
    """

    tables: Sequence[Costs]
    _thin: list[Costs] = field(init=False)
    _known: dict[float, Solution] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._thin = [costs.thinned() for costs in self.tables]

    @property
    def least(self) -> Solution:
        """The fewest bytes that are possible."""
        return self.at_price(DEAR)

    def within_bytes(self, limit: float) -> Solution:
        """The least loss within a number of bytes.

        Raises:
            PlanError: fewer bytes than are possible.
        """
        if self.least.nbytes > limit:
            expected = f"{self.least.nbytes:,.0f} bytes or more"
            raise PlanError("the budget is too small", got=f"{limit:,.0f}", expected=expected)
        found = self._around(lambda one: one.nbytes <= limit, dear=True)
        return min(found, key=lambda one: (one.loss, one.nbytes))

    def within_loss(self, limit: float) -> Solution:
        """The fewest bytes within a predicted loss.

        Raises:
            PlanError: not even the most precise encodings reach it.
        """
        richest = self.at_price(0.0)
        if richest.loss > limit:
            expected = f"{richest.loss:.3g} or more"
            raise PlanError("the loss can't be kept so low", got=f"{limit:g}", expected=expected)
        found = self._around(lambda one: one.loss <= limit, dear=False)
        return min(found, key=lambda one: (one.nbytes, one.loss))

    def _around(self, fits: Callable[[Solution], bool], *, dear: bool) -> list[Solution]:
        """The solutions that fit, next to where fitting ends.

        Args:
            dear: whether it is high prices that fit, or low ones.
        """
        found = [self.at_price(DEAR if dear else 0.0)]
        first, last = self._steps()
        while first + 1 < last:
            middle = (first + last) // 2
            if fits(self._near(2.0 ** (middle / STEPS))) == dear:
                last = middle
            else:
                first = middle
        ends = [self._near(2.0 ** (step / STEPS)) for step in (first, last)]
        for kept in _between(*ends):
            found += self._refine(kept, fits, dear=dear)
        return [one for one in found if fits(one)]

    def _steps(self) -> tuple[int, int]:
        """Steps of a price that is low, and of one that is high, for every row."""
        largest = max((costs.largest for costs in self.tables), default=0.0)
        last = int(np.ceil(STEPS * np.log2(largest))) if largest > 0 else 0
        return last - STEPS * OCTAVES, last

    def at_price(self, price: float) -> Solution:
        """The least loss + price × bytes."""
        kept = [one.kept for one in self._near(price).mixtures]
        pairs = zip(self.tables, kept, strict=True)
        return Solution(price, tuple(mixture(costs, one, price) for costs, one in pairs))

    def _near(self, price: float) -> Solution:
        """The same as far as few points tell."""
        if price not in self._known:
            mixtures = tuple(best_mixture(costs, price) for costs in self._thin)
            self._known[price] = Solution(price, mixtures)
        return self._known[price]

    def _refine(
        self, kept: Sequence[tuple[int, ...]], fits: Callable[[Solution], bool], *, dear: bool
    ) -> list[Solution]:
        """Solutions with these encodings, on either side of the price where fitting ends."""
        own = [costs.only(one) for costs, one in zip(self.tables, kept, strict=True)]

        def at(exponent: float) -> Solution:
            price = 2.0**exponent
            found = (mixture(costs, range(len(costs.encodings)), price) for costs in own)
            pairs = zip(found, kept, strict=True)
            return Solution(price, tuple(one.within(names) for one, names in pairs))

        first, last = (step / STEPS for step in self._steps())
        for _ in range(BISECTIONS):
            middle = (first + last) / 2
            if fits(at(middle)) == dear:
                last = middle
            else:
                first = middle
        return [at(first), at(last)]
