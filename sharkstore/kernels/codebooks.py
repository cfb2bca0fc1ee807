"""Codebooks as they are read: entries for every byte, and the values of codes.

Spec: "pq".
"""

from __future__ import annotations

import numpy as np

from sharkstore.encodings import MOST_ENTRIES
from sharkstore.kernels.scales import F32, U8, Stored


def decode_codes(codes: U8, dim: int, codebook: Stored) -> F32:
    """Values of codes; of a code past the entries, zeros.

    Args:
        codes: uint8 (n, blocks).
        codebook: float16 or float32 (blocks, entries, sub).

    Returns:
        float32 (n, dim).
    """
    blocks, _, sub = codebook.shape
    chosen = full_codebook(codebook)[np.arange(blocks), codes].astype(np.float32)
    return np.ascontiguousarray(chosen.reshape(len(codes), blocks * sub)[:, :dim])


def full_codebook(codebook: Stored) -> Stored:
    """A codebook with an entry for every byte: zeros behind its own.

    Args:
        codebook: float16 or float32 (blocks, entries, sub).

    Returns:
        (blocks, 256, sub): the codebook itself if it has as many entries.
    """
    blocks, entries, sub = codebook.shape
    if entries == MOST_ENTRIES:
        return codebook
    full = np.zeros((blocks, MOST_ENTRIES, sub), codebook.dtype)
    full[:, :entries] = codebook
    return full
