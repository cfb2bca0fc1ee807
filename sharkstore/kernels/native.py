"""The native kernels: which of them run, and tables bound to them.

They equal the reference bit for bit; NaNs may differ in their payload.
"""

from __future__ import annotations

import functools
import os

from sharkstore.encodings import Encoding
from sharkstore.errors import ArgumentError
from sharkstore.kernels import _native
from sharkstore.kernels.reference import TableView

VARIABLE = "SHARKSTORE_KERNEL"
POOLS = {"sum": 0, "mean": 1, "max": 2}
# the numbers of `Kind` in csrc/table.h, by name, mode and dtype of the scale
KINDS = {
    ("f32", "symmetric", "float16"): 0,
    ("constant", "symmetric", "float16"): 0,
    ("f16", "symmetric", "float16"): 1,
    ("int8", "symmetric", "float16"): 2,
    ("int8", "symmetric", "float32"): 3,
    ("int8", "affine", "float16"): 4,
    ("int8", "affine", "float32"): 5,
}


@functools.cache
def _chosen() -> None:
    """Heed the variable, once."""
    if wanted := os.environ.get(VARIABLE):
        _use(wanted)


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


def _use(name: str) -> None:
    if name not in _native.backends():
        expected = " or ".join(_native.backends())
        raise ArgumentError(f"no kernels {name!r} on this machine", expected=expected)
    _native.use_backend(name)


def bind(view: TableView) -> _native.Table:
    """A table for lookups by the native kernels; it holds the view's arrays."""
    _chosen()
    tiers = [
        (_kind(tier.encoding), tier.rows, 2.0**-tier.encoding.scale_exponent, tier.data)
        for tier in view.tiers
    ]
    return _native.Table(view.rows, view.dim, tiers, view.rowmap, view.default)


def _kind(encoding: Encoding) -> int:
    return KINDS[encoding.name, encoding.mode, encoding.scale_dtype]
