"""The encoding of every row: least predicted loss for a number of bytes, over all tables at once.

With a price on bytes, every row can decide alone: it takes the encoding of least loss + price ×
bytes (Lagrangian relaxation, Everett 1963), and the price that uses the budget up is the one that
all rows share. What a table pays once, its row map and its codebooks, depends on which encodings
it has at all, so these are chosen with the price.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import Encoding
from sharkstore.errors import PlanError
from sharkstore.format.layout import MAX_TIERS, rowmap_shape

F64 = NDArray[np.float64]
Losses = NDArray[np.floating[Any]]
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
# sets of encodings are chosen on so many points of a table
THIN = 2048


def bytes_a_row(encodings: Sequence[Encoding], dim: int) -> F64:
    """Bytes of a row in each encoding, 0 for `constant`: float64 (encodings,)."""
    sizes = [0 if one.name == "constant" else one.row_bytes(dim) for one in encodings]
    return np.asarray(sizes, np.float64)


def bytes_once(encodings: Sequence[Encoding], dim: int) -> F64:
    """Bytes of the codebook, or of the constant row, of each encoding: float64 (encodings,)."""
    sizes = [4 * dim if e.name == "constant" else e.codebook_bytes(dim) for e in encodings]
    return np.asarray(sizes, np.float64)


def table_bytes(
    rows: int, dim: int, encodings: Sequence[Encoding], counts: NDArray[np.int64]
) -> float:
    """Bytes of a table with so many rows in each encoding; encodings without rows cost nothing."""
    used = counts > 0
    once = float(bytes_once(encodings, dim)[used].sum())
    return float(bytes_a_row(encodings, dim) @ counts) + once + _rowmap_bytes(rows, int(used.sum()))


@dataclass(frozen=True, slots=True)
class Costs:
    """What rows of a table cost in each encoding.

    Args:
        encodings: the most precise first.
        losses: float64 (encodings, points): increase of the loss where a row is stored so;
            infinite where the encoding can't hold it.
        stands: float64 (points,): how many rows each point stands for.
        rows: of the table; the sum of `stands`.
        dim: values a row.
    """

    encodings: tuple[Encoding, ...]
    losses: F64
    stands: F64
    rows: int
    dim: int

    def thinned(self) -> Costs:
        """Fewer points that stand for the same rows, more of them where more is to lose.

        Points are drawn at even distances along the sum of their weights, so the same ones come
        every time.
        """
        if len(self.stands) <= THIN:
            return self
        finite = np.where(np.isfinite(self.losses), self.losses, 0.0)
        stake = finite.mean(axis=0) * self.stands
        weight = self.stands / self.stands.sum() + stake / max(stake.sum(), np.finfo(float).tiny)
        ends = np.cumsum(weight)
        places = (np.arange(THIN) + 0.5) * (ends[-1] / THIN)
        drawn, times = np.unique(np.searchsorted(ends, places), return_counts=True)
        stands = self.stands[drawn] * times / weight[drawn]
        # of points that only some encodings hold, one at least: else those could be left out
        more = np.setdiff1d(self._refused(), drawn)
        drawn, stands = np.append(drawn, more), np.append(stands, self.stands[more])
        stands *= self.rows / stands.sum()
        return replace(self, losses=self.losses[:, drawn], stands=stands)

    def _refused(self) -> NDArray[np.intp]:
        """A point for each set of encodings that can't hold it."""
        refused = np.isinf(self.losses)
        points = np.flatnonzero(refused.any(axis=0))
        _, first = np.unique(refused[:, points], axis=1, return_index=True)
        return points[first]

    def only(self, kept: Sequence[int]) -> Costs:
        """The same for some of the encodings."""
        encodings = tuple(self.encodings[k] for k in kept)
        return replace(self, encodings=encodings, losses=self.losses[list(kept)])

    @property
    def largest(self) -> float:
        """More than all rows could lose."""
        finite = np.where(np.isfinite(self.losses), self.losses, 0.0)
        return float(finite.max(initial=0.0)) * max(self.rows, 1)

    @property
    def row_bytes(self) -> F64:
        """Bytes of a row in each encoding."""
        return bytes_a_row(self.encodings, self.dim)

    @property
    def fixed_bytes(self) -> F64:
        """Bytes that a table pays once for each encoding."""
        return bytes_once(self.encodings, self.dim)


@dataclass(frozen=True, slots=True)
class Mixture:
    """The encodings of a table and what comes of them.

    Args:
        kept: which of its encodings, rising.
        rows: in each of them.
        nbytes: rows, row map, codebooks, constant row.
        loss: sum over its rows.
    """

    kept: tuple[int, ...]
    rows: tuple[float, ...]
    nbytes: float
    loss: float

    def within(self, places: Sequence[int]) -> Mixture:
        """The same, with its encodings counted as they are among others, at these places."""
        return replace(self, kept=tuple(places[k] for k in self.kept))


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


def choose(losses: Losses, row_bytes: F64, price: float) -> tuple[NDArray[np.uint8], Losses]:
    """The encoding of each row at a price, and its cost; the most precise on ties.

    Args:
        losses: (encodings, n), in any float dtype.
        row_bytes: (encodings,).

    Returns:
        uint8 (n,), and loss + price × bytes (n,).
    """
    best = losses[0] + losses.dtype.type(price * row_bytes[0])
    taken = np.zeros(len(best), np.uint8)
    for index in range(1, len(losses)):
        cost = losses[index] + losses.dtype.type(price * row_bytes[index])
        np.copyto(taken, np.uint8(index), where=cost < best)
        np.minimum(best, cost, out=best)
    return taken, best


def mixture(costs: Costs, kept: Sequence[int], price: float) -> Mixture:
    """The best that these encodings can do at a price. Encodings that no row takes go."""
    columns = list(kept)
    while True:
        row_bytes = costs.row_bytes[columns]
        losses = costs.losses if len(columns) == len(costs.losses) else costs.losses[columns]
        taken, best = choose(losses, row_bytes, price)
        rows = np.bincount(taken, costs.stands, len(columns))
        if len(columns) == 1 or not len(best) or (rows > 0).all():
            break
        columns = [column for column, some in zip(columns, rows > 0, strict=True) if some]
    # sums, not BLAS: the same on every machine
    nbytes = float((rows * row_bytes).sum()) + once_bytes(costs, columns)
    own = losses[taken, np.arange(len(taken))]
    loss = float((own * costs.stands).sum())
    return Mixture(tuple(columns), tuple(rows.tolist()), nbytes, loss)


def once_bytes(costs: Costs, kept: Sequence[int]) -> float:
    """Bytes that don't depend on which row takes what."""
    return float(costs.fixed_bytes[list(kept)].sum()) + _rowmap_bytes(costs.rows, len(kept))


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


def _rowmap_bytes(rows: int, tiers: int) -> int:
    return math.prod(rowmap_shape(rows, tiers)) if tiers > 1 else 0


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
