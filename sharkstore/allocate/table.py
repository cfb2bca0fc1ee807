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


@dataclass(frozen=True, slots=True)
class TableChoice:
    """A table, the encodings that its rows choose from, and what they are measured by.

    Args:
        fresh: rows that nothing was trained on, where the table has more than a sample.
        by_stratum: bits of the encodings that rows of each weight may take, int64 (STRATA,);
            None: any row may take all.
    """

    plan: TablePlan
    weights: Weights
    sample: Sample
    fresh: Sample
    ruler: Ruler
    by_stratum: NDArray[np.int64] | None = None

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
            return replace(self, by_stratum=None)
        losses = self.losses()
        strata = strata_of(self.sample.weights, self.weights.scale)
        whole = np.bincount(strata, self.sample.stands, STRATA)
        bits = np.zeros(STRATA, np.int64)
        for price in prices:
            taken, _ = choose(losses, self.row_bytes, price)
            for index in range(len(losses)):
                own = taken == index
                some = np.bincount(strata[own], self.sample.stands[own], STRATA)
                bits |= np.where(some > RARE * whole, 1 << index, 0)
        bits[whole == 0] = (1 << len(losses)) - 1
        return replace(self, by_stratum=bits)

    def wanted(self, weights: F64) -> NDArray[np.int64]:
        """Bits of the encodings to be measured for rows of these weights: int64 (n,)."""
        if self.by_stratum is None:
            return np.full(len(weights), (1 << len(self.ruler.encodings)) - 1)
        return self.by_stratum[strata_of(weights, self.weights.scale)]

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


def train_books(
    encodings: Sequence[Encoding], rows: Sequence[F32], uses: Sequence[F64], metric: F32 | None
) -> dict[Encoding, NDArray[np.floating]]:
    """Codebooks, side by side: each of its own rows alone, so they don't depend on the others."""

    def work(one: Encoding, own: F32, some: F64) -> NDArray[np.floating]:
        return train_codebook(one, own, some, metric)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return dict(zip(encodings, pool.map(work, encodings, rows, uses), strict=True))


def mean_row(rows: F32, uses: F64) -> F32:
    """Mean of rows by use, plain where none is used: float32 (dim,)."""
    if not len(rows):
        return np.zeros(rows.shape[1], np.float32)
    if not uses.sum() > 0:
        uses = np.ones(len(rows))
    mean = (rows.astype(np.float64) * uses[:, None]).sum(axis=0) / uses.sum()
    narrow: F32 = mean.astype(np.float32)
    return narrow
