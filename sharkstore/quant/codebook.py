"""Codebooks of product quantisation: weighted k-means over each block of some rows.

Spec: "pq". Methods: Lloyd, "Least squares quantization in PCM", 1982; seeds by Arthur and
Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007, with the better of some
candidates at each step as they propose in its section 6, and entries that move (moves.py): an
entry that lost its rows is one of them.

The same rows give the same codebook on every machine: sums go in a fixed order, and the kernels
assign alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import Encoding
from sharkstore.kernels.pq import own_root, padded_root
from sharkstore.quant.metric import F64, factor, mean_diagonal
from sharkstore.quant.moves import move_entries
from sharkstore.quant.together import fit_together

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

ROUNDS = 25
# a round that moves no larger a part of the codes is the last
SETTLED = 0.002
# the last rounds, in which no entry moves
SMOOTHING = 10
# rows that seeds are chosen from: a power of two
SEEDING_ROWS = 4096
CANDIDATES = 3
LARGEST_FLOAT16 = 65504.0


def train_codebook(
    encoding: Encoding, rows: F32, weights: F64, metric: F32 | None = None, seed: int = 0
) -> NDArray[Any]:
    """Entries of least weighted squared error, as far as k-means finds them.

    A block with at most as many distinct parts of rows as entries gets each of them; the last is
    repeated.

    Args:
        encoding: of pq.
        rows: float32 (n, dim), finite; without any, entries are zeros.
        weights: of the rows, float64 (n,), not negative; all zero count as all one.
        metric: that codes will be rounded in, symmetric (dim, dim), finite; None: identity.

    Returns:
        As stored: float16 or float32 (blocks, entries, sub), finite.

    Raises:
        ValueError: the metric is not a square of finite numbers.
    """
    if not len(rows):
        return np.zeros(encoding.codebook_shape(rows.shape[1]), encoding.book_dtype)
    exponent = int(np.frexp(np.abs(rows).max())[1])
    middling = None if metric is None else _middling(metric)
    means = KMeans(encoding, np.ldexp(rows, -exponent), _shares(weights), middling)
    entries = means.train(np.random.default_rng(seed))
    if middling is not None and not means.exact:
        whole = factor(middling, encoding.sub)
        entries = fit_together(encoding, means.rows, means.weights, middling, whole, entries)
    trained = np.ldexp(entries, exponent)
    if encoding.codebook_dtype == "float16":
        trained = np.clip(trained, -LARGEST_FLOAT16, LARGEST_FLOAT16)
    return trained.astype(encoding.book_dtype)


class KMeans:
    """K-means over all blocks of some rows at once.

    Args:
        rows: float32 (n, dim), of which the largest is about 1.
        weights: float64 (n,), of which the largest is 1.
        metric: float64 (dim, dim), with a mean diagonal of about 1, of which the blocks on the
            diagonal are heeded; None: identity.

    Attributes:
        exact: after training, whether the rows' values in some block are all among its entries.
    """

    def __init__(self, encoding: Encoding, rows: F32, weights: F64, metric: F64 | None) -> None:
        self.encoding = replace(encoding, codebook_dtype="float32")
        self.rows, self.weights = np.ascontiguousarray(rows), weights
        self.blocks, self.entries, self.sub = encoding.codebook_shape(rows.shape[1])
        # by block and value, padded with zeros; +0 for -0
        padded = np.zeros((self.blocks * self.sub, len(rows)), np.float32)
        padded[: rows.shape[1]] = rows.T + np.float32(0)
        self.points = padded.reshape(self.blocks, self.sub, len(rows))
        self.factor = None if metric is None else factor(_own_blocks(metric, self.sub), self.sub)
        self.roots = self._roots()
        self.exact = False

    def train(self, rng: np.random.Generator) -> F32:
        """Float32 (blocks, entries, sub)."""
        held = [self._distinct(points) for points in self.points]
        self.exact = any(one is not None for one in held)
        if all(one is not None for one in held):
            return np.stack([one for one in held if one is not None])
        entries = self._seeds(rng)
        last = np.zeros((0, self.blocks), np.uint8)
        for left in reversed(range(ROUNDS)):
            codes = self._assign(entries)
            if len(last) and np.count_nonzero(codes != last) <= SETTLED * codes.size:
                break
            for b in range(self.blocks):
                entries[b] = self._improved(b, codes[:, b], entries[b], move=left >= SMOOTHING)
            last = codes
        for b, exact in enumerate(held):
            if exact is not None:
                entries[b] = exact
        return entries

    def _assign(self, entries: F32) -> U8:
        codebook = kernels.Codebook.of(entries, self.rows.shape[1], self.factor)
        return kernels.encode_rows(self.encoding, self.rows, codebook=codebook)

    def _distinct(self, points: F32) -> F32 | None:
        """All distinct columns, float32 (entries, sub), if they are no more than the entries."""
        for some in (points[:, : 4 * self.entries], points):
            found = np.unique(some.T, axis=0)
            if len(found) > self.entries:
                return None
        return np.concatenate([found, np.repeat(found[-1:], self.entries - len(found), axis=0)])

    def _improved(self, b: int, codes: U8, entries: F32, *, move: bool) -> F32:
        """Entries of a block after one round, in which some may move."""
        index = codes.astype(np.intp)
        means = self._means(b, index, entries)
        if not move:
            return means
        roots = None if self.roots is None else self.roots[b : b + 1]
        points = _rooted(self.points[b : b + 1], roots)[0]
        rooted = _rooted(np.ascontiguousarray(means.T)[None], roots)[0].T
        moved = move_entries(points, self.weights, rooted, index)
        return self._means(b, index, means) if moved else means

    def _means(self, b: int, index: NDArray[np.intp], entries: F32) -> F32:
        """Weighted means of the rows of each entry; one without weight stays."""
        shares = np.bincount(index, self.weights, self.entries)
        means = entries.copy()
        held = shares > 0
        for d in range(self.sub):
            sums = np.bincount(index, self.weights * self.points[b, d], self.entries)
            means[held, d] = sums[held] / shares[held]
        return means

    def _roots(self) -> F32 | None:
        """Roots of the metric's blocks: float32 (blocks, sub, sub), or None for the identity."""
        if self.factor is None:
            return None
        roots = np.zeros((self.blocks, self.sub, self.sub), np.float32)
        whole = padded_root(self.factor)
        for position, b in enumerate(self.factor.blocks):
            roots[b] = own_root(whole, position, self.sub)
        return roots

    # --- seeds -------------------------------------------------------------------------------

    def _seeds(self, rng: np.random.Generator) -> F32:
        """Entries to begin with: rows, each drawn by how far it is from those before."""
        chosen, weights = _sample(self.weights, SEEDING_ROWS, rng)
        points = self.points[:, :, chosen]
        rooted = _rooted(points, self.roots)
        each = np.arange(self.blocks)
        entries = np.empty((self.blocks, self.entries, self.sub), np.float32)
        closest = np.ones((self.blocks, len(weights)), np.float32)
        for k in range(self.entries):
            tried = _drawn(closest * weights, CANDIDATES if k else 1, rng)
            nearer = _nearer(rooted, tried, closest if k else None)
            best = _totals(nearer * weights).argmin(axis=1)
            closest = nearer[each, best]
            entries[:, k] = points[each, :, tried[each, best]]
        return entries


def _middling(metric: NDArray[Any]) -> F64 | None:
    """The metric with its mean diagonal in [1, 2): products of float32 stay in range.

    None, for the identity, if it is zero.
    """
    if not np.isfinite(metric).all():
        raise ValueError("a metric is a square of finite numbers")
    mean = mean_diagonal(metric)
    if not mean > 0:
        return None
    return np.ldexp(metric.astype(np.float64), 1 - int(np.frexp(mean)[1]))


def _own_blocks(metric: F64, sub: int) -> F64:
    """The metric's blocks on the diagonal, zeros elsewhere."""
    block = np.arange(len(metric)) // sub
    return np.where(block[:, None] == block, metric, 0.0)


def _shares(weights: F64) -> F64:
    """Weights of which the largest is 1."""
    most = weights.max()
    return weights / most if most > 0 else np.ones_like(weights)


def _sample(weights: F64, count: int, rng: np.random.Generator) -> tuple[I64, F32]:
    """Rows and their weights, `count` of both; half by weight, half evenly: popular and rare ones.

    Fewer rows than `count` are all taken; row 0 with no weight fills up.
    """
    if len(weights) <= count:
        padded = np.zeros(count, np.float32)
        padded[: len(weights)] = weights
        return np.concatenate(
            [np.arange(len(weights)), np.zeros(count - len(weights), int)]
        ), padded
    total = np.cumsum(weights)
    chance = weights / total[-1] + 1 / len(weights)
    ends = np.cumsum(chance)
    # evenly spaced from a random start, each takes the row that it falls on
    places = (np.arange(count) + rng.random()) * (ends[-1] / count)
    rows = np.minimum(np.searchsorted(ends, places, side="right"), len(weights) - 1)
    drawn = weights[rows] / chance[rows]
    return rows, (drawn / drawn.max()).astype(np.float32)


def _drawn(chances: F32, count: int, rng: np.random.Generator) -> I64:
    """Columns drawn by their chances: int64 (blocks, count), of chances (blocks, n)."""
    ends = np.cumsum(chances, axis=1, dtype=np.float64)
    places = rng.random((len(chances), count)) * ends[:, -1:]
    found: I64 = np.empty((len(chances), count), np.int64)
    for b, end in enumerate(ends):
        found[b] = np.searchsorted(end, places[b], side="right")
    last: I64 = np.minimum(found, chances.shape[1] - 1)
    return last


def _nearer(points: F32, tried: I64, closest: F32 | None) -> F32:
    """How near each column is to the nearest entry, with one of the candidates: (blocks, count, n).

    Args:
        points: float32 (blocks, sub, n).
        tried: columns that are candidates (blocks, count).
        closest: squared distances to the entries so far (blocks, n).
    """
    each = np.arange(len(points))[:, None]
    total = np.zeros((*tried.shape, points.shape[2]), np.float32)
    for d in range(points.shape[1]):
        off = points[:, d, None] - points[each, d, tried][..., None]
        total += off * off
    return total if closest is None else np.minimum(total, closest[:, None], out=total)


def _totals(values: F32) -> F32:
    """Sums over the last axis, a power of two long, by halves: in one order on every machine."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values[..., 0]


def _rooted(points: F32, roots: F32 | None) -> F32:
    """Columns in coordinates in which the metric is the identity: Rᵀ times (blocks, sub, n)."""
    if roots is None:
        return points
    out = np.zeros_like(points)
    for d in range(points.shape[1]):
        for e in range(d + 1):
            out[:, d] += roots[:, e, d, None] * points[:, e]
    return out
