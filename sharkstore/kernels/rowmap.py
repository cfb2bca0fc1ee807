"""The row map in numpy: blocks made from tiers, tiers and counters read from blocks.

Part of the reference: a native kernel equals it bit for bit. Spec: "Row map".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import ROWMAP_BLOCK_BYTES, ROWS_PER_BLOCK

U8 = NDArray[np.uint8]
BLOCK_PLANES = {size: planes for planes, size in ROWMAP_BLOCK_BYTES.items()}


def build_rowmap(tiers: U8, planes: int, counts: Sequence[int] = ()) -> U8:
    """Row-map blocks of consecutive rows.

    Args:
        tiers: uint8 (n,), each row's tier; the first row starts a block.
        planes: 1, 2 or 3.
        counts: rows of each tier before the first row; zeros when left out.

    Returns:
        uint8 (ceil(n / 64), 16 | 32 | 64).
    """
    blocks = -(-len(tiers) // ROWS_PER_BLOCK)
    padded = np.zeros((blocks, ROWS_PER_BLOCK), np.uint8)
    padded.reshape(blocks * ROWS_PER_BLOCK)[: len(tiers)] = tiers
    out = np.zeros((blocks, ROWMAP_BLOCK_BYTES[planes]), np.uint8)
    for plane in range(planes):
        bits = np.packbits((padded >> plane) & 1, axis=1, bitorder="little")
        out[:, 8 * plane : 8 * plane + 8] = bits
    present = np.arange(blocks * ROWS_PER_BLOCK).reshape(padded.shape) < len(tiers)
    for tier in range(2**planes):
        within = ((padded == tier) & present).sum(axis=1, dtype=np.int64)
        first = counts[tier] if tier < len(counts) else 0
        before = (first + np.cumsum(within) - within).astype("<u4")
        start = 8 * planes + 4 * tier
        out[:, start : start + 4] = before.reshape(-1, 1).view(np.uint8)
    return out


def rowmap_tiers(rowmap: U8) -> U8:
    """Tier of every row of some blocks, spare rows of the last one included: uint8 (n,)."""
    planes = BLOCK_PLANES[rowmap.shape[1]]
    tiers = np.zeros((len(rowmap), ROWS_PER_BLOCK), np.uint8)
    for plane in range(planes):
        plane_bytes = np.ascontiguousarray(rowmap[:, 8 * plane : 8 * plane + 8])
        tiers |= np.unpackbits(plane_bytes, axis=1, bitorder="little") << plane
    return tiers.reshape(-1)


def rowmap_counters(rowmap: U8) -> NDArray[np.uint32]:
    """Rows of each tier before each block: uint32 (blocks, 2 ** planes)."""
    planes = BLOCK_PLANES[rowmap.shape[1]]
    counters = np.ascontiguousarray(rowmap[:, 8 * planes : 8 * planes + 4 * 2**planes])
    return counters.view("<u4")
