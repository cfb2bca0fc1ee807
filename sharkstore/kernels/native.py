"""The native kernels: which of them run, tables bound to them, encoders and measures.

They equal the reference bit for bit; NaNs may differ in their payload.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from sharkstore.encodings import (
    CODE_BITS,
    MODES,
    ROWMAP_BLOCK_BYTES,
    ROWS_PER_BLOCK,
    SCALES,
    SUBS,
    Encoding,
)
from sharkstore.errors import ArgumentError
from sharkstore.kernels import _native
from sharkstore.kernels.codebooks import full_codebook
from sharkstore.kernels.factor import Factor
from sharkstore.kernels.pq import Codebook
from sharkstore.kernels.reference import I64, TableView, Tier
from sharkstore.kernels.scales import F32, U8

VARIABLE = "SHARKSTORE_KERNEL"
POOLS = {"sum": 0, "mean": 1, "max": 2}
# the numbers of `Kind` in csrc/table.h, by name, mode and dtype of the scale
KINDS: dict[tuple[str, str, str], int] = {
    ("f32", "symmetric", "float16"): 0,
    ("constant", "symmetric", "float16"): 0,
    ("f16", "symmetric", "float16"): 1,
    **{
        (name, mode, scale_dtype): 2 + 4 * i + 2 * j + k
        for i, name in enumerate(CODE_BITS)
        for j, mode in enumerate(MODES)
        for k, scale_dtype in enumerate(SCALES)
    },
}
PQ_KINDS = {
    (sub, dtype): 14 + 2 * i + k for i, sub in enumerate(SUBS) for k, dtype in enumerate(SCALES)
}


@functools.cache
def _chosen() -> None:
    """Heed the variable, once."""
    if wanted := os.environ.get(VARIABLE):
        _use(wanted, where=VARIABLE)


def backend() -> str:
    """Name of the kernels in use: `avx512`, `avx2`, `neon` or `portable`.

    The fastest that this machine runs, or what the variable SHARKSTORE_KERNEL names.

    Raises:
        ArgumentError: the variable names none that this machine runs.
    """
    _chosen()
    return _native.backend()


def backends() -> list[str]:
    """Names of all kernels that this machine runs, the fastest first."""
    return _native.backends()


def use_backend(name: str) -> None:
    """Use other kernels from now on, in all threads.

    Raises:
        ArgumentError: this machine does not run them.
    """
    _chosen()
    _use(name)


def _use(name: str, where: str = "") -> None:
    if name not in _native.backends():
        expected = " or ".join(_native.backends())
        message = f"no kernels {name!r} on this machine"
        raise ArgumentError(message, where=where, expected=expected)
    _native.use_backend(name)


def bind(view: TableView) -> _native.Table:
    """A table for lookups by the native kernels; it holds the view's arrays."""
    _chosen()
    tiers = [
        (
            _kind(tier.encoding),
            tier.rows,
            2.0**-tier.encoding.scale_exponent,
            tier.data if tier.files is None else tier.files,
            _book_bytes(tier),
        )
        for tier in view.tiers
    ]
    return _native.Table(view.rows, view.dim, tiers, view.rowmap, view.default)


def _book_bytes(tier: Tier) -> U8 | None:
    """The codebook as the kernels read it, uint8 (blocks, bytes of 256 entries).

    Any byte is a code of it, so that a forged one leads to zeros and not outside; a codebook of
    256 entries is read where it lies, so that processes share it.
    """
    if tier.codebook is None:
        return None
    full = full_codebook(np.require(tier.codebook, requirements=["C", "A"]))
    return full.reshape(len(full), -1).view(np.uint8)


def encode_rows(
    encoding: Encoding,
    rows: F32,
    out: U8 | None = None,
    codebook: Codebook | None = None,
    factor: Factor | None = None,
) -> U8:
    """Encode rows.

    Args:
        rows: float32 (n, dim), finite, dim 1 to 4096.
        out: uint8 (n, row bytes), contiguous, apart from `rows`; made when left out.
        codebook: of pq.
        factor: of the metric that codes are rounded in; None: each to the nearest. pq has it from
            its codebook.

    Returns:
        `out`. Values that float16 cannot hold become infinite: callers check.

    Raises:
        ValueError: arrays of other shapes, or a factor where the codebook has none.
    """
    if out is None:
        out = np.empty((len(rows), encoding.row_bytes(rows.shape[1])), np.uint8)
    aligned = np.require(rows, np.float32, ["C", "A"])
    _native.encode(*_code(encoding, codebook, factor), aligned, out)
    return out


def encode_tier(
    encoding: Encoding,
    rows: F32,
    rowmap: U8 | None,
    tier: int,
    skip: int,
    out: U8,
    codebook: Codebook | None = None,
    factor: Factor | None = None,
) -> int:
    """Encode rows of one tier, picked out of a block, until `out` is full.

    Args:
        rows: float32 (n, dim), contiguous, aligned, finite.
        rowmap: their blocks of the row map, uint8 (ceil(n / 64), 16 | 32 | 64); None with one
            tier.
        skip: rows of the tier to leave out first.
        out: uint8 (wanted, row bytes), contiguous.
        codebook, factor: as of `encode_rows`.

    Returns:
        How many rows were encoded.
    """
    code = _code(encoding, codebook, factor)
    return _native.encode_tier(*code, rows, rowmap, tier, skip, out)


def distortions(
    encoding: Encoding,
    rows: F32,
    factor: Factor | None = None,
    codebook: Codebook | None = None,
    stand_in: F32 | None = None,
    out: F32 | None = None,
) -> F32:
    """Squared distances of rows from what would be served, as in kernels/distortion.py.

    Args:
        rows: float32 (n, dim), finite.
        factor: of the metric; codes are those that `encode_rows` rounds in it. None: identity.
        codebook: of pq.
        stand_in: of `constant`: the row served for all, float32 (dim,).
        out: float32 (n,), contiguous; made when left out.

    Returns:
        `out`; infinity where the distance is not finite.

    Raises:
        ValueError: arrays of other shapes, or a factor where the codebook has none.
    """
    if out is None:
        out = np.empty(len(rows), np.float32)
    if encoding.name == "f32":
        out.fill(0)
        return out
    if encoding.name == "constant" and stand_in is None:
        raise ValueError("constant without the row that is served")
    code = _code(encoding, codebook, factor)
    served = _floats(stand_in) if encoding.name == "constant" else None
    _native.distort(*code, _floats(rows), served, out)
    return out


def measure_rows(rows: F32, rowmap: U8 | None, ranged: int, largest: F32, magnitudes: I64) -> bool:
    """Add up how large the rows of each tier are.

    Args:
        rows: float32 (n, dim), contiguous, aligned.
        rowmap: as of `encode_tier`.
        ranged: bit t: rows of tier t count by their range, others by their largest value.
        largest: float32 (tiers,), raised to the largest absolute value.
        magnitudes: int64 (tiers, 278), added to: rows by the binary exponent, from -148, of
            their range or largest absolute value; 0 is left out.

    Returns:
        Whether all values are finite; if not, nothing was added.
    """
    _chosen()
    return _native.measure(rows, rowmap, ranged, largest, magnitudes)


def build_rowmap(tiers: U8, planes: int, counts: Sequence[int] = ()) -> U8:
    """Row-map blocks of consecutive rows.

    Args:
        tiers: uint8 (n,), each row's tier, below 2 ** planes; the first row starts a block.
        planes: 1, 2 or 3.
        counts: rows of each tier before the first row; zeros when left out.

    Returns:
        uint8 (ceil(n / 64), 16 | 32 | 64).
    """
    before = np.zeros(2**planes, np.uint32)
    before[: len(counts)] = counts
    out = np.empty((-(-len(tiers) // ROWS_PER_BLOCK), ROWMAP_BLOCK_BYTES[planes]), np.uint8)
    _native.build_rowmap(np.ascontiguousarray(tiers), planes, before, out)
    return out


def _floats(array: F32 | None) -> F32 | None:
    return None if array is None else np.require(array, np.float32, ["C", "A"])


def _code(
    encoding: Encoding, codebook: Codebook | None, factor: Factor | None
) -> tuple[int, int, tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """What the native encoder takes of an encoding."""
    _chosen()
    kind, exponent = _kind(encoding), encoding.scale_exponent
    if encoding.name != "pq":
        parts = None if factor is None else (factor.order, factor.feed, factor.diagonal)
        return kind, exponent, None, parts
    if codebook is None:
        return kind, exponent, None, None
    if codebook.root is None and factor is not None:
        raise ValueError("a codebook without the factor")
    book = codebook.terms, codebook.center, codebook.values, codebook.order, codebook.root
    return kind, exponent, book, None


def _kind(encoding: Encoding) -> int:
    if encoding.name == "pq":
        return PQ_KINDS[encoding.sub, encoding.codebook_dtype]
    return KINDS[encoding.name, encoding.mode, encoding.scale_dtype]
