"""The reference of product quantisation: a code names one entry of its block's codebook.

All arithmetic is float32, rounded half to even after each operation, in the order written here,
every sum from +0. The native kernels equal these functions bit for bit.

Spec: "pq", "Rounding in a metric". Method: Jégou, Douze and Schmid, "Product Quantization for
Nearest Neighbor Search", 2011; in a metric, blocks are told one after the other, as in factor.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.kernels.codebooks import decode_codes
from sharkstore.kernels.factor import Factor
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
        terms: half the squared size of an entry less the center, then that: float32 (blocks,
            entries, 1 + sub). With a factor both are of that times its part of the root, and what
            is behind a row's end counts as 0.
        order: the block at each position, int64 (blocks,).
        root: of the factor, blocks filled up with zeros: float32 (blocks * sub, blocks * sub), or
            its diagonal; None without one.
    """

    entries: NDArray[Any]
    dim: int
    values: F32
    center: F32
    terms: F32
    order: NDArray[np.int64]
    root: F32 | None

    @classmethod
    def of(cls, entries: NDArray[Any], dim: int, factor: Factor | None = None) -> Codebook:
        """What encoding needs.

        Args:
            entries: as stored, float16 or float32 (ceil(dim / sub), entries, sub).
            factor: of the metric that codes are told in, with the same `sub`; None: identity.

        Raises:
            ValueError: the factor is of another dim or sub.
        """
        blocks, count, sub = entries.shape
        if factor and (len(factor.order) != dim or factor.sub != sub):
            raise ValueError(f"factor of {len(factor.order)} dims by {factor.sub}")
        with np.errstate(all="ignore"):
            values = np.require(entries, np.float32, ["C", "A"])
            center = np.zeros((blocks, sub), np.float32)
            for k in range(count):
                center += values[:, k]
            center /= np.float32(count)
            centred = values - center[:, None]
            told, order, root = centred, np.arange(blocks), None
            if factor:
                order, root = factor.blocks, padded_root(factor)
                centred[-1, :, dim - (blocks - 1) * sub :] = 0
                told = np.empty_like(centred)
                for position, b in enumerate(order):
                    told[b] = _rooted(own_root(root, position, sub), centred[b])
            terms = np.concatenate([_half_size(told)[..., None], told], axis=2)
        return cls(entries, dim, values, center, terms, order, root)


def encode(codebook: Codebook, rows: F32) -> U8:
    """The entry nearest to each block of each row; of equal ones the first.

    Args:
        rows: float32 (n, dim).

    Returns:
        uint8 (n, blocks).
    """
    return encode_measured(codebook, rows)[0]


def encode_measured(codebook: Codebook, rows: F32) -> tuple[U8, F32]:
    """Codes as of `encode`, and the squared errors in the codebook's metric: float32 (n,)."""
    codes = np.empty((len(rows), len(codebook.center)), np.uint8)
    sizes = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), ROWS):
        some = slice(start, start + ROWS)
        with np.errstate(all="ignore"):
            codes[some], sizes[some] = _nearest(codebook, rows[some])
    return codes, sizes


def decode(codebook: Codebook, codes: U8, dim: int) -> F32:
    """Values of codes: uint8 (n, blocks) -> float32 (n, dim). Codes past the entries give 0."""
    return decode_codes(codes, dim, codebook.entries)


def padded_root(factor: Factor) -> F32:
    """The factor's root, short blocks filled up with zeros."""
    sub, blocks = factor.sub, factor.blocks
    place = np.empty(len(blocks), np.int64)
    place[blocks] = np.arange(len(blocks))
    places = place[factor.order // sub] * sub + factor.order % sub
    padded = np.zeros((len(blocks) * sub,) * factor.root.ndim, np.float32)
    padded[np.ix_(*[places] * factor.root.ndim)] = factor.root
    return padded


def own_root(root: F32, position: int, sub: int) -> F32:
    """What the root has on its diagonal at a block's position: (sub, sub)."""
    here = slice(position * sub, (position + 1) * sub)
    return np.diag(root[here]) if root.ndim == 1 else root[here, here]


def _nearest(codebook: Codebook, rows: F32) -> tuple[U8, F32]:
    blocks, entries, sub = codebook.values.shape
    dim, root = codebook.dim, codebook.root
    away, errors = np.zeros((2, len(rows), blocks * sub), np.float32)  # errors by position
    away[:, :dim] = rows - codebook.center.reshape(-1)[:dim]
    codes = np.zeros((len(rows), blocks), np.uint8)
    total = np.zeros(len(rows), np.float32)
    for position, b in enumerate(codebook.order):
        here = slice(position * sub, (position + 1) * sub)
        values = away[:, b * sub : (b + 1) * sub]
        own = np.eye(sub, dtype=np.float32) if root is None else own_root(root, position, sub)
        pull = _pull(root, errors, here)
        target = values if root is None else _rooted(own, values, pull)
        scores = np.broadcast_to(codebook.terms[b, :, 0], (len(rows), entries))
        for d in range(sub):
            scores = scores - target[:, d, None] * codebook.terms[b, :, 1 + d]
        # NaN is never the least, nor is infinity less than what the search starts from
        codes[:, b] = np.where(np.isnan(scores), np.inf, scores).argmin(axis=1)
        held = rows[:, b * sub : (b + 1) * sub]
        off = held - codebook.values[b, codes[:, b], : held.shape[1]]
        errors[:, here.start : here.start + held.shape[1]] = off
        for one in _rooted(own, errors[:, here], pull).T:
            total += one * one
    return codes, total


def _pull(root: F32 | None, errors: F32, here: slice) -> F32:
    """What the errors before a block come to in its part of the root: (n, sub)."""
    pull = np.zeros((len(errors), here.stop - here.start), np.float32)
    if root is not None and root.ndim == 2:
        for i in range(here.start):
            pull += root[i, here] * errors[:, i, None]
    return pull


def _rooted(own: F32, values: F32, start: F32 | None = None) -> F32:
    """Values (n, sub) times an upper triangular (sub, sub), added to `start` (n, sub)."""
    out = np.zeros_like(values) if start is None else start.copy()
    for i in range(len(own)):
        out[:, i:] += own[i, i:] * values[:, i, None]
    return out


def _half_size(values: F32) -> F32:
    total = np.zeros(values.shape[:-1], np.float32)
    for d in range(values.shape[-1]):
        total += values[..., d] * values[..., d]
    return np.float32(0.5) * total
