"""How large the rows of each tier are: what scales are chosen by, and what an encoding loses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import Encoding

# binary exponents of float32, from its least subnormal to its largest value
LOWEST = 148
BINS = 278


class Measures:
    """Sizes of the rows of each tier, added up block by block.

    Attributes:
        largest: largest absolute value: float32 (tiers,).
        magnitudes: rows by the binary exponent of their range if their tier is affine, else of
            their largest absolute value, zero left out: int64 (tiers, BINS).
    """

    def __init__(self, encodings: Sequence[Encoding]) -> None:
        self.largest = np.zeros(len(encodings), np.float32)
        self.magnitudes = np.zeros((len(encodings), BINS), np.int64)
        self._ranged = sum(
            1 << index for index, one in enumerate(encodings) if one.packed and one.mode == "affine"
        )

    def add(self, rows: NDArray[np.float32], rowmap: NDArray[np.uint8] | None) -> bool:
        """Add some rows up.

        Args:
            rows: float32 (n, dim).
            rowmap: their blocks of the row map; None with one tier.

        Returns:
            Whether all values are finite; if not, nothing was added.
        """
        aligned = np.require(rows, np.float32, ["C", "A"])
        return kernels.measure_rows(aligned, rowmap, self._ranged, self.largest, self.magnitudes)
