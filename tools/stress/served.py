"""A store of a few tables that are held in every way, and what its rows are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import sharkstore
from sharkstore.convert import convert_checkpoint

F32 = NDArray[np.float32]
MIB = 1 << 20
# rows and dim; the smallest one is copied into RAM by `auto`
TABLES = {
    "emb.user": (60_000, 64),
    "emb.item": (50_000, 32),
    "emb.city": (3_000, 16),
    "emb.query": (80_000, 48),
    "emb.shop": (20_000, 24),
}
TIERS = "f32=10%,f16=20%,int4=20%,int8=rest"
# ways to open it
WAYS: dict[str, dict[str, Any]] = {
    "auto": {},
    "mmap": {"io": "mmap"},
    "ram": {"io": "ram"},
    "pread": {"io": "pread"},
    "max_resident": {"max_resident": 96 * MIB},
}


@dataclass(frozen=True, slots=True)
class Model:
    """A store and its tables' rows.

    Args:
        rows: of each table, as they are served: float32 (rows, dim).
    """

    path: Path
    rows: dict[str, F32]


def make_model(folder: Path) -> Model:
    """Convert random tables."""
    rng = np.random.default_rng(0)
    checkpoint, path = folder / "model.safetensors", folder / "model.shark"
    tables = {name: rng.normal(size=shape).astype(np.float32) for name, shape in TABLES.items()}
    save_file(tables, checkpoint)
    convert_checkpoint(checkpoint, path, tables=list(TABLES), tiers=TIERS)
    checkpoint.unlink()
    with sharkstore.open(path, io="ram") as store:
        rows = {name: table.lookup(np.arange(table.rows)) for name, table in store.items()}
    return Model(path, rows)
