"""Hot loops: the numpy reference that defines every result, and the native module."""

try:
    from sharkstore.kernels._native import map_chunks
except ImportError as error:
    error.add_note(
        "sharkstore's native module is missing or was built for another Python: install the "
        "package with `pip install .` from its root (it needs a C++17 compiler)."
    )
    raise
from sharkstore.kernels.reference import (
    SlotError,
    TableView,
    Tier,
    decode_rows,
    embedding_bag,
    encode_rows,
    lookup,
    scale_exponent,
    stored_scales,
)
from sharkstore.kernels.rowmap import build_rowmap, rowmap_counters, rowmap_tiers

__all__ = [
    "SlotError",
    "TableView",
    "Tier",
    "build_rowmap",
    "decode_rows",
    "embedding_bag",
    "encode_rows",
    "lookup",
    "map_chunks",
    "rowmap_counters",
    "rowmap_tiers",
    "scale_exponent",
    "stored_scales",
]
