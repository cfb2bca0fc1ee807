"""A table in an allocation: its sample, its encodings, and the codebooks trained for them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharkstore.allocate.ruler import Ruler
from sharkstore.encodings import Encoding
from sharkstore.errors import PlanError
from sharkstore.plan.costs import Costs, choose, once_bytes
from sharkstore.plan.model import TablePlan
from sharkstore.plan.stats import Stats
from sharkstore.plan.weigh import Weights
from sharkstore.quant.codebook import train_codebook
from sharkstore.quant.metric import mean_diagonal
from sharkstore.write.sample import STRATA, Sample, strata_of

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
# how often codebooks are trained again on the rows that take them
ROUNDS = 2
# rows of a sample that codebooks are trained on to be compared with other encodings
COMPARED = 1 << 12
# encodings that a smaller part of the rows of a weight take are not measured for them
RARE = 0.01
# unless these rows would lose so large a part of what rows of the weight cost
MISSED = 0.0005
# rows of one weight and like loss of which so many are in the sample tell what others take
ENOUGH = 50
# one encoding is measured before the others where that leaves so small a part to be measured
WORTH = 0.8
# quarters of an octave of a loss: its exponent and two bits more
LOSS_BITS = 10


@dataclass(frozen=True, slots=True)
class TableChoice:
    """A table, the encodings that its rows choose from, and what they are measured by.

    Args:
        fresh: rows that nothing was trained on, where the table has more than a sample.
        by_stratum: bits of the encodings that rows of each weight may take, int64 (STRATA,);
            None: any row may take all.
        probe: the encoding that is measured first, by index; None: all at once.
        by_loss: bits of what rows may still take by weight and by loss in that one, uint8
            (STRATA, 2 ** LOSS_BITS).
    """

    plan: TablePlan
    weights: Weights
    sample: Sample
    fresh: Sample
    ruler: Ruler
    by_stratum: NDArray[np.int64] | None = None
    probe: int | None = None
    by_loss: NDArray[np.uint8] | None = None

    @classmethod
    def of(
        cls,
        plan: TablePlan,
        weights: Weights,
        sample: Sample,
        fresh: Sample,
        encodings: Sequence[Encoding],
    ) -> TableChoice:
        """With codebooks trained on some rows of the sample, to compare, and its mean row."""
        uses = sample.weights * sample.stands
        step = max(1, -(-len(sample.rows) // COMPARED))
        rows, some = np.ascontiguousarray(sample.rows[::step]), uses[::step]
        coded = [one for one in encodings if one.name == "pq"]
        books = train_books(coded, [rows] * len(coded), [some] * len(coded), weights.metric)
        largest = float(np.abs(sample.rows).max(initial=0.0))
        ruler = Ruler(tuple(encodings), weights.metric, books, mean_row(sample.rows, uses), largest)
        return cls(plan, weights, sample, fresh, ruler)

    def to_measure(self) -> TableChoice:
        """What measuring rows takes of it: small enough to be sent to another process."""
        nothing = Sample.empty(self.plan.dim)
        weights = self.weights.without_values()
        return replace(self, weights=weights, sample=nothing, fresh=nothing)

    def of_stats(self, stats: Stats) -> TableChoice:
        """What was to be measured, with its weights again."""
        return replace(self, weights=self.weights.with_values(stats))

    def losses(self) -> F32:
        """Of the sample's rows: float32 (encodings, n).

        Raises:
            PlanError: a row that none of the encodings can hold.
        """
        found = self.ruler.measure(self.sample.rows, self.sample.weights)
        lost = np.flatnonzero(~np.isfinite(found).any(axis=0))
        if len(lost):
            allowed = ", ".join(str(one) for one in self.ruler.encodings)
            what = f"no encoding holds row {self.sample.ids[lost[0]]}"
            remedy = "allow f32 for it"
            raise PlanError(what, where=self.plan.name, got=allowed, remedy=remedy)
        return found

    def costs(self) -> Costs:
        """What its rows cost in each encoding."""
        return self._costs(self.losses().astype(np.float64), self.sample.stands)

    def _costs(self, losses: F64, stands: F64) -> Costs:
        return Costs(self.ruler.encodings, losses, stands, self.plan.rows, self.plan.dim)

    @property
    def row_bytes(self) -> F64:
        """Bytes of a row in each encoding: float64 (encodings,)."""
        return self._costs(np.zeros((0, 0)), np.zeros(0)).row_bytes

    @property
    def once_bytes(self) -> float:
        """Bytes of row map, codebooks and constant row."""
        costs = self._costs(np.zeros((0, 0)), np.zeros(0))
        return once_bytes(costs, range(len(costs.encodings)))

    def settled(self, kept: Sequence[int], price: float) -> TableChoice:
        """With some of the encodings, and codebooks trained on the rows that take them.

        Which rows these are at a price depends on the codebooks in turn: a few rounds settle it.
        What it is measured on from then on are fresh rows: those trained on would lose too little.
        """
        current = replace(self, ruler=self.ruler.only(kept))
        if not any(one.name in ("pq", "constant") for one in current.ruler.encodings):
            return replace(current, sample=self.fresh)
        for _ in range(ROUNDS):
            costs = current.costs()
            taken, _best = choose(costs.losses, costs.row_bytes, price)
            current = replace(current, ruler=current.retrained(taken))
        return replace(current, sample=self.fresh)

    def retrained(self, taken: NDArray[np.uint8]) -> Ruler:
        """The ruler with codebooks and constant row made for the rows that take them."""
        uses = self.sample.weights * self.sample.stands
        places = [np.flatnonzero(taken == k) for k in range(len(self.ruler.encodings))]
        own = {
            one: (self.sample.rows[at], uses[at])
            for one, at in zip(self.ruler.encodings, places, strict=True)
            if len(at)
        }
        coded = [one for one in own if one.name == "pq"]
        rows, some = [own[one][0] for one in coded], [own[one][1] for one in coded]
        books = {**self.ruler.books, **train_books(coded, rows, some, self.weights.metric)}
        constant = [mean_row(*own[one]) for one in own if one.name == "constant"]
        return self.ruler.with_books(books, constant[0] if constant else self.ruler.stand_in)

    def narrowed(self, prices: Sequence[float]) -> TableChoice:
        """With only the encodings for rows of each weight that some of the sample take.

        Args:
            prices: of a byte; what is taken at one of them counts.
        """
        if len(self.sample.ids) == self.plan.rows:
            return replace(self, by_stratum=None, probe=None, by_loss=None)
        losses = self.losses()
        taken = [_Taken.at(losses, self.row_bytes, price) for price in prices]
        strata = strata_of(self.sample.weights, self.weights.scale).astype(np.int64)
        bits = self._bits(taken, strata, STRATA)
        bits[np.bincount(strata, minlength=STRATA) == 0] = (1 << len(losses)) - 1
        best = replace(self, by_stratum=bits)
        least = WORTH * float((self.sample.stands * _ones(bits[strata])).sum())
        for probe, one in enumerate(self.ruler.encodings):
            if one.name == "constant":
                continue
            places = strata << LOSS_BITS | _quarters(losses[probe])
            fine = self._bits(taken, places, STRATA << LOSS_BITS)
            few = np.bincount(places, minlength=len(fine)) < ENOUGH
            fine = np.where(few, np.repeat(bits, 1 << LOSS_BITS), fine)
            still = fine[places] | 1 << probe
            measured = np.where(bits[strata] >> probe & 1, still, bits[strata])
            count = float((self.sample.stands * _ones(measured)).sum())
            if count < least:
                least, own = count, fine.astype(np.uint8).reshape(STRATA, -1)
                best = replace(self, by_stratum=bits, probe=probe, by_loss=own)
        return best

    def _bits(
        self, taken: Sequence[_Taken], places: NDArray[np.int64], count: int
    ) -> NDArray[np.int64]:
        """Bits of the encodings that rows of the sample would miss in each place."""
        stands = self.sample.stands
        whole = np.bincount(places, stands, count)
        bits = np.zeros(count, np.int64)
        for one in taken:
            cost = np.bincount(places, stands * one.least, count)
            for index in range(len(self.ruler.encodings)):
                own = np.flatnonzero(one.encoding == index)
                some = np.bincount(places[own], stands[own], count)
                missed = np.bincount(places[own], stands[own] * one.missed[own], count)
                much = (some > RARE * whole) | (missed > MISSED * cost)
                bits |= np.where(much, 1 << index, 0)
        return bits

    def wanted(self, weights: F64) -> NDArray[np.int64]:
        """Bits of the encodings to be measured for rows of these weights: int64 (n,)."""
        if self.by_stratum is None:
            return np.full(len(weights), (1 << len(self.ruler.encodings)) - 1)
        return self.by_stratum[strata_of(weights, self.weights.scale)]

    def wanted_still(self, weights: F64, losses: F32) -> NDArray[np.int64]:
        """The same for rows of these losses in the encoding measured first, without that."""
        assert self.probe is not None
        assert self.by_loss is not None
        bits = self.by_loss[strata_of(weights, self.weights.scale), _quarters(losses)]
        return bits.astype(np.int64) & ~(1 << self.probe)

    @property
    def weightless(self) -> bool:
        """Whether the stats say that no error in any row costs anything."""
        metric = self.weights.metric
        nothing = metric is not None and not mean_diagonal(metric) > 0
        return bool(len(self.sample.ids)) and (nothing or not self.sample.weights.any())

    @property
    def mean_loss(self) -> float:
        """Of a row in the first encoding."""
        if not len(self.sample.ids):
            return 0.0
        own = self.ruler.measure(self.sample.rows, self.sample.weights, [0])[0]
        return float((own * self.sample.stands).sum()) / self.plan.rows

    @property
    def books(self) -> Mapping[Encoding, NDArray[np.floating]]:
        """Stored codebooks by encoding."""
        return self.ruler.books


@dataclass(frozen=True, slots=True)
class _Taken:
    """What rows take at a price.

    Args:
        encoding: uint8 (n,).
        least: what that costs, (n,).
        missed: how much more the next best costs, (n,).
    """

    encoding: NDArray[np.uint8]
    least: F32
    missed: F32

    @classmethod
    def at(cls, losses: F32, row_bytes: F64, price: float) -> _Taken:
        """Of losses (encodings, n)."""
        taken, least = choose(losses, row_bytes, price)
        others = losses + (price * row_bytes[:, None]).astype(np.float32)
        others[taken, np.arange(len(taken))] = np.inf
        return cls(taken, least.astype(np.float32), others.min(axis=0) - least)


def train_books(
    encodings: Sequence[Encoding], rows: Sequence[F32], uses: Sequence[F64], metric: F32 | None
) -> dict[Encoding, NDArray[np.floating]]:
    """Codebooks, side by side: each of its own rows alone, so they don't depend on the others."""

    def work(one: Encoding, own: F32, some: F64) -> NDArray[np.floating]:
        return train_codebook(one, own, some, metric)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return dict(zip(encodings, pool.map(work, encodings, rows, uses), strict=True))


def _ones(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many encodings bits name."""
    return np.bitwise_count(bits).astype(np.int64)


def _quarters(losses: F32) -> NDArray[np.int64]:
    """Quarters of an octave of losses, none of them negative: int64 (n,)."""
    raw = np.ascontiguousarray(losses).view(np.uint32) >> np.uint32(31 - LOSS_BITS)
    return raw.astype(np.int64)


def mean_row(rows: F32, uses: F64) -> F32:
    """Mean of rows by use, plain where none is used: float32 (dim,)."""
    if not len(rows):
        return np.zeros(rows.shape[1], np.float32)
    if not uses.sum() > 0:
        uses = np.ones(len(rows))
    mean = (rows.astype(np.float64) * uses[:, None]).sum(axis=0) / uses.sum()
    narrow: F32 = mean.astype(np.float32)
    return narrow
