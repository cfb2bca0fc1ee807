"""A metric as codes are rounded in it: its triangular factor, in the order that dims are taken in.

Rounding in a metric G takes one dim after the other and lets each make up for the errors of those
before it: Babai's nearest plane, as GPTQ does for weights (Frantar et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharkstore.kernels.scales import F32


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """R of P G Pᵀ = R Rᵀ, upper triangular; P takes dims to their positions.

    With errors e by position, the error in the metric is the sum of squares of y = Rᵀ e, and y[j]
    hangs on the errors up to position j alone.

    Args:
        order: the dim at each position, int64 (dim,).
        root: R, float32 (dim, dim), or its diagonal (dim,) where that is all there is.
        sub: dims that a code stands for: in `order` they stand together.
        feed: R[i, j] / R[j, j], what the error of position i adds to the target of position j:
            float32 (dim, dim), 0 unless i < j; None where R is a diagonal.
        diagonal: float32 (dim,).
    """

    order: NDArray[np.int64]
    root: F32
    sub: int
    feed: F32 | None
    diagonal: F32

    @classmethod
    def of(cls, order: NDArray[np.int64], root: F32, sub: int = 1) -> Factor:
        """A factor from its order and its root.

        Raises:
            ValueError: shapes that don't fit, or an order that is none.
        """
        dim = len(order)
        order = np.ascontiguousarray(order, np.int64)
        if root.shape not in ((dim, dim), (dim,)):
            raise ValueError(f"root of shape {root.shape} for {dim} dims")
        if not np.array_equal(np.sort(order), np.arange(dim)):
            raise ValueError("order must name every dim once")
        if not np.array_equal(_in_blocks(order, sub), order):
            raise ValueError(f"dims of a code of {sub} must stand together, rising")
        if root.ndim == 1:
            root = np.ascontiguousarray(root, np.float32)
            return cls(order, root, sub, None, root)
        root = np.ascontiguousarray(np.triu(root), np.float32)
        diagonal = np.ascontiguousarray(root.diagonal())
        with np.errstate(all="ignore"):
            feed = np.where(diagonal == 0, np.float32(0), root / diagonal)
        np.fill_diagonal(feed, 0)
        return cls(order, root, sub, feed, diagonal)

    @property
    def blocks(self) -> NDArray[np.int64]:
        """The code at each position, int64 (ceil(dim / sub),)."""
        blocks: NDArray[np.int64] = self.order[self.order % self.sub == 0] // self.sub
        return blocks


def _in_blocks(order: NDArray[np.int64], sub: int) -> NDArray[np.int64]:
    dims = [np.arange(first, min(first + sub, len(order))) for first in order[order % sub == 0]]
    return np.concatenate([*dims, np.empty(0, np.int64)])
