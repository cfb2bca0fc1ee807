"""The reference of distortions: how far rows are from what would be served for them.

All arithmetic is float32, rounded half to even after each operation, in the order written here,
every sum from +0. The native kernels equal it bit for bit.
"""

from __future__ import annotations

import numpy as np

from sharkstore.encodings import Encoding
from sharkstore.kernels import pq, reference
from sharkstore.kernels.scales import F32


def distortions(
    encoding: Encoding,
    rows: F32,
    root: F32 | None = None,
    codebook: pq.Codebook | None = None,
    stand_in: F32 | None = None,
) -> F32:
    """Squared distances in the metric L Lᵀ.

    Args:
        rows: float32 (n, dim), finite.
        root: L, float32 (dim, dim), lower triangular, or its diagonal (dim,); None: identity.
        codebook: of pq.
        stand_in: of `constant`: the row served for all, float32 (dim,).

    Returns:
        float32 (n,); infinity where the distance is not finite.
    """
    if encoding.name == "f32":
        return np.zeros(len(rows), np.float32)
    with np.errstate(all="ignore"):
        off = rows - _served(encoding, rows, codebook, stand_in)
        total = np.zeros(len(rows), np.float32)
        for i in range(rows.shape[1]):
            one = _rooted(off, root, i)
            total += one * one
    return np.where(np.isfinite(total), total, np.float32(np.inf))


def _served(
    encoding: Encoding, rows: F32, codebook: pq.Codebook | None, stand_in: F32 | None
) -> F32:
    dim = rows.shape[1]
    if encoding.name == "constant":
        assert stand_in is not None
        return stand_in
    if encoding.name == "pq":
        assert codebook is not None
        return pq.decode(codebook, pq.encode(codebook, rows), dim)
    return reference.decode_rows(encoding, reference.encode_rows(encoding, rows), dim)


def _rooted(off: F32, root: F32 | None, i: int) -> F32:
    """Value i of Lᵀ times the differences."""
    if root is None:
        return off[:, i]
    if root.ndim == 1:
        scaled: F32 = root[i] * off[:, i]
        return scaled
    total = np.zeros(len(off), np.float32)
    for j in range(i, off.shape[1]):
        total += root[j, i] * off[:, j]
    return total
