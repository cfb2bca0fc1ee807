"""What rows of a table lose in each encoding, measured with the encoders that write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from sharkstore.encodings import Encoding
from sharkstore.kernels.scales import UNITS
from sharkstore.quant import encode
from sharkstore.quant.measure import LOWEST, Measures
from sharkstore.quant.metric import factor

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Books = Mapping[Encoding, NDArray[np.floating]]

MOST_LOSS = np.float32(3e38)
LARGEST = float(np.finfo(np.float32).max)
# values up to so many times the largest seen may come without a change of scale exponents
MARGIN = 16.0


@dataclass(slots=True)
class Ruler:
    """Losses of the rows of one table.

    Args:
        encodings: to measure.
        metric: float32 (dim, dim); None for plain squares.
        books: stored codebooks of the pq encodings.
        stand_in: the row served by `constant`: float32 (dim,).
        largest: largest absolute value known; rows far above it are refused where scales of
            16 bits could not hold both.
    """

    encodings: tuple[Encoding, ...]
    metric: F32 | None
    books: Books
    stand_in: F32
    largest: float
    _factors: dict[int, kernels.Factor | None] = field(default_factory=dict)
    _codebooks: list[kernels.Codebook | None] = field(default_factory=list)
    _fitted: list[Encoding] = field(default_factory=list)

    def __post_init__(self) -> None:
        for one in self.encodings:
            sub = one.sub or 1
            if sub not in self._factors:
                self._factors[sub] = None if self.metric is None else factor(self.metric, sub)
            book = None
            if one.name == "pq":
                book = kernels.Codebook.of(self.books[one], len(self.stand_in), self._factors[sub])
            self._codebooks.append(book)
            self._fitted.append(encode.fitted(one, min(self.largest * MARGIN, LARGEST)))

    def only(self, kept: Sequence[int]) -> Ruler:
        """The same for some of the encodings."""
        return replace(
            self,
            encodings=tuple(self.encodings[k] for k in kept),
            _codebooks=[],
            _fitted=[],
        )

    def with_books(self, books: Books, stand_in: F32) -> Ruler:
        """The same with other codebooks and another constant row."""
        return replace(self, books=books, stand_in=stand_in, _codebooks=[], _fitted=[])

    def measure(self, rows: F32, weights: F64, wanted: Sequence[int] | None = None) -> F32:
        """Losses of rows.

        Args:
            rows: float32 (n, dim), contiguous; what is not finite counts as 0.
            weights: float64 (n,): what an error in each row costs.
            wanted: which encodings, by index; all when left out.

        Returns:
            float32 (encodings, n): infinite where an encoding can't hold a row.
        """
        chosen = range(len(self.encodings)) if wanted is None else wanted
        out = np.empty((len(chosen), len(rows)), np.float32)
        narrow = np.minimum(weights, MOST_LOSS).astype(np.float32)
        sizes = Measures(self.encodings[:1])
        if not sizes.add(rows, None):
            rows = np.where(np.isfinite(rows), rows, np.float32(0))
            sizes.add(rows, None)
        unsafe = self._unsafe(sizes)
        for place, index in enumerate(chosen):
            loss = self._distortions(rows, index)
            with np.errstate(over="ignore", invalid="ignore"):
                loss *= narrow
            np.fmin(loss, MOST_LOSS, out=out[place])
            if unsafe:
                out[place][~held(self._fitted[index], rows)] = np.inf
        return out

    def _distortions(self, rows: F32, index: int) -> F32:
        one = self._fitted[index]
        return kernels.distortions(
            one,
            rows,
            factor=self._factors[one.sub or 1],
            codebook=self._codebooks[index],
            stand_in=self.stand_in if one.name == "constant" else None,
        )

    def _unsafe(self, sizes: Measures) -> bool:
        """Whether an encoding may not hold some of the rows."""
        limit = min((encode.overflow(one) for one in self._fitted), default=np.inf)
        floor = max((encode.faint(one) for one in self._fitted), default=0.0)
        present = np.flatnonzero(sizes.magnitudes[0])
        # a bin holds values from half its power of two on
        least = 2.0 ** (int(present[0]) - LOWEST - 1) if len(present) else np.inf
        top = min(limit, self.largest * MARGIN * 2)
        return bool(float(sizes.largest[0]) >= top or least < floor or _ranged(self._fitted))


def _ranged(encodings: Sequence[Encoding]) -> bool:
    return any(one.packed and one.mode == "affine" for one in encodings)


def held(encoding: Encoding, rows: F32) -> NDArray[np.bool_]:
    """Which rows an encoding can hold: neither overflow nor lose their scale: bool (n,).

    Args:
        encoding: with its scale exponent.
    """
    if encoding.name in ("f32", "constant"):
        return np.ones(len(rows), np.bool_)
    with np.errstate(over="ignore"):
        top, bottom = rows.max(axis=1), rows.min(axis=1)
        largest = np.maximum(top, -bottom)
        affine = encoding.packed and encoding.mode == "affine"
        size = top - bottom if affine else largest
    limit = encode.overflow(encoding)
    if encoding.packed and not affine and encoding.scale_dtype == "float16":
        # searched scales of few bits lie up to 1.55 times above the one of the largest value
        limit = min(limit, UNITS[encoding.name] * 2.0 ** (15 - encoding.scale_exponent))
    floor = encode.faint(encoding)
    kept: NDArray[np.bool_] = (largest < limit) & ((size >= floor) | (size == 0))
    return kept
