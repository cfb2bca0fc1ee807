"""Entries of all blocks, fitted together to codes that are rounded in a metric.

A block's entries need not lie in the middle of its own values: what they are off can make up for
errors of the other blocks. For codes that are given, the best entries of one block are the means
of its values plus what of the others' errors it can undo; blocks take turns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import Encoding
from sharkstore.kernels import Factor
from sharkstore.quant.metric import F64, ridged

F32 = NDArray[np.float32]

ROUNDS = 12
# of the error: a round that leaves more is the last
SETTLED = 0.99
# dims, squared, times rows of more than this would take minutes: entries stay as they are
MOST_WORK = 1 << 30


def fit_together(
    encoding: Encoding, rows: F32, weights: F64, metric: F64, factor: Factor, entries: F32
) -> F32:
    """The entries, or better ones.

    Args:
        encoding: of pq.
        rows: float32 (n, dim).
        weights: float64 (n,).
        metric: (dim, dim).
        factor: of the metric.
        entries: float32 (blocks, entries, sub).
    """
    dim = rows.shape[1]
    if factor.feed is None or dim * dim * len(rows) > MOST_WORK:
        return entries
    wide = replace(encoding, codebook_dtype="float32")
    undo = _undoing(ridged(metric), encoding.sub)
    points = np.zeros((undo.shape[0] * encoding.sub, len(rows)))
    points[:dim] = rows.T
    best, least = entries, np.inf
    for left in reversed(range(ROUNDS + 1)):
        book = kernels.Codebook.of(entries, dim, factor)
        error = _total(weights * kernels.distortions(wide, rows, factor, book))
        settled = not error < SETTLED * least
        if error < least:
            best, least = entries, error
        if settled:
            break
        if left:
            codes = kernels.encode_rows(wide, rows, None, book, factor)
            entries = _fitted(points, weights, codes, entries, undo)
    return best


def _fitted(points: F64, weights: F64, codes: NDArray[np.uint8], entries: F32, undo: F64) -> F32:
    """Entries after each block had its turn.

    Args:
        points: rows by value, float64 (blocks * sub, n).
        codes: uint8 (n, blocks).
        undo: of each block's values by other blocks' errors, (blocks, sub, blocks * sub).
    """
    blocks, count, sub = entries.shape
    entries = entries.copy()
    index = codes.T.astype(np.intp)
    errors = points - np.concatenate([entries[b].T[:, index[b]] for b in range(blocks)])
    for b in range(blocks):
        shares = np.bincount(index[b], weights, count)
        held = shares > 0
        for d in range(sub):
            wanted = points[b * sub + d].copy()
            for i in np.flatnonzero(undo[b, d]).tolist():
                wanted += undo[b, d, i] * errors[i]
            sums = np.bincount(index[b], weights * wanted, count)
            entries[b, held, d] = sums[held] / shares[held]
        here = slice(b * sub, (b + 1) * sub)
        errors[here] = points[here] - entries[b].T[:, index[b]]
    return entries


def _undoing(metric: F64, sub: int) -> F64:
    """G_bb⁻¹ G_b of each block b, zeros on its own place: (blocks, sub, blocks * sub)."""
    blocks = -(-len(metric) // sub)
    padded = np.eye(blocks * sub)
    padded[: len(metric), : len(metric)] = metric
    undo = np.stack(np.split(padded, blocks))
    for b, lines in enumerate(undo):
        here = slice(b * sub, (b + 1) * sub)
        for d in range(sub):
            lines[d] /= lines[d, b * sub + d]
            for other in range(sub):
                if other != d:
                    lines[other] -= lines[other, b * sub + d] * lines[d]
        lines[:, here] = 0
    return undo


def _total(values: NDArray[Any]) -> float:
    return float(np.add.accumulate(values, dtype=np.float64)[-1])
