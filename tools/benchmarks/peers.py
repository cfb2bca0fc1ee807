"""Who is compared with, in groups that are measured, and in memory, together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

from benchmarks.data import Source, Work
from benchmarks.timing import Contender, Effort

# what a group knows of a table: contenders on any workload, while the group is held
Makers = Callable[[Work], list[Contender]]
Group = Callable[[Source, Path, Effort], AbstractContextManager[Makers]]

MODULES = {"torch": "torch", "fbgemm": "fbgemm_gpu", "zarr": "zarr", "tensorstore": "tensorstore"}
MODULES["lmdb"] = "lmdb"


def missing() -> list[str]:
    """Peers that can't be imported here."""
    return [peer for peer, module in MODULES.items() if find_spec(module) is None]
