"""The reference of product quantisation: a code names one entry of its block's codebook.

All arithmetic is float32, rounded half to even after each operation, in the order written here,
every sum from +0. The native kernels equal these functions bit for bit.

Spec: "pq". Method: Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search",
2011; the distance is that of a metric, by expanding its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.kernels.scales import F32, U8

# rows whose scores are held at once
ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Entries, and what encoding needs of them. `entries` alone is stored, the rest derived.

    Args:
        entries: as stored, float16 or float32 (blocks, entries, sub).
        dim: values of a row; the last block may go past it.
        values: the entries in float32 (blocks, entries, sub).
        center: mean of each block's entries, float32 (blocks, sub).
        terms: half the squared size of an entry less the center, in the metric, then that entry
            less the center: float32 (blocks, entries, 1 + sub).
        metric: what the metric has on its diagonal, float32 (blocks, sub, sub); None: identity.
    """

    entries: NDArray[Any]
    dim: int
    values: F32
    center: F32
    terms: F32
    metric: F32 | None

    @classmethod
    def of(cls, entries: NDArray[Any], metric: F32 | None, dim: int) -> Codebook:
        """What encoding needs.

        Args:
            entries: as stored, float16 or float32 (ceil(dim / sub), entries, sub).
            metric: symmetric, float32 (dim, dim); None: identity.
        """
        blocks, count, sub = entries.shape
        inner = None if metric is None else metric_blocks(metric, blocks, sub)
        with np.errstate(all="ignore"):
            values = np.require(entries, np.float32, ["C", "A"])
            center = np.zeros((blocks, sub), np.float32)
            for k in range(count):
                center += values[:, k]
            center /= np.float32(count)
            centred = values - center[:, None]
            half = np.float32(0.5) * _dot(centred, _pulled(centred, inner))
        terms = np.concatenate([half[..., None], centred], axis=2)
        return cls(entries, dim, values, center, terms, inner)


def metric_blocks(metric: F32, blocks: int, sub: int) -> F32:
    """The blocks on a metric's diagonal, zeros behind its end: float32 (blocks, sub, sub)."""
    dim = len(metric)
    padded = np.zeros((blocks * sub, blocks * sub), np.float32)
    padded[:dim, :dim] = metric
    each = np.arange(blocks)
    return np.ascontiguousarray(padded.reshape(blocks, sub, blocks, sub)[each, :, each])


def encode(codebook: Codebook, rows: F32) -> U8:
    """The entry nearest to each block of each row; of equal ones the first.

    Args:
        rows: float32 (n, dim).

    Returns:
        uint8 (n, blocks).
    """
    codes = np.empty((len(rows), len(codebook.center)), np.uint8)
    for start in range(0, len(rows), ROWS):
        codes[start : start + ROWS] = _nearest(codebook, rows[start : start + ROWS])
    return codes


def decode(codebook: Codebook, codes: U8, dim: int) -> F32:
    """Values of codes: uint8 (n, blocks) -> float32 (n, dim). Codes past the entries give 0."""
    blocks, entries, sub = codebook.values.shape
    values = np.zeros((blocks, 256, sub), np.float32)
    values[:, :entries] = codebook.values
    chosen = values[np.arange(blocks), codes]
    return np.ascontiguousarray(chosen.reshape(len(codes), blocks * sub)[:, :dim])


def _nearest(codebook: Codebook, rows: F32) -> U8:
    blocks, entries, sub = codebook.values.shape
    dim = rows.shape[1]
    away = np.zeros((len(rows), blocks * sub), np.float32)
    codes = np.zeros((len(rows), blocks), np.uint8)
    with np.errstate(all="ignore"):
        away[:, :dim] = rows - codebook.center.reshape(-1)[:dim]
        for b in range(blocks):
            inner = None if codebook.metric is None else codebook.metric[b]
            target = _pulled(away[:, b * sub : (b + 1) * sub], inner)
            scores = np.broadcast_to(codebook.terms[b, :, 0], (len(rows), entries))
            for d in range(sub):
                scores = scores - target[:, d, None] * codebook.terms[b, :, 1 + d]
            # NaN is never the least, nor is infinity less than what the search starts from
            codes[:, b] = np.where(np.isnan(scores), np.inf, scores).argmin(axis=1)
    return codes


def _pulled(values: F32, metric: F32 | None) -> F32:
    """Metrics (..., sub, sub) times vectors (..., n, sub)."""
    if metric is None:
        return values
    out = np.zeros_like(values)
    for e in range(values.shape[-1]):
        out += metric[..., None, :, e] * values[..., e, None]
    return out


def _dot(left: F32, right: F32) -> F32:
    total = np.zeros(left.shape[:-1], np.float32)
    for d in range(left.shape[-1]):
        total += left[..., d] * right[..., d]
    return total
