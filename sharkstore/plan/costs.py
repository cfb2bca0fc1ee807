"""What rows cost in each encoding, in bytes and predicted loss, and what they choose at a price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import Encoding
from sharkstore.format.layout import rowmap_shape

F64 = NDArray[np.float64]
Losses = NDArray[np.floating[Any]]
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


def _rowmap_bytes(rows: int, tiers: int) -> int:
    return math.prod(rowmap_shape(rows, tiers)) if tiers > 1 else 0
