"""Hot loops: the numpy reference that defines every result, and the native module."""

try:
    from sharkstore.kernels._native import (
        Budget,
        ChunkFiles,
        advise_pages,
        huge_array,
        map_chunks,
        populate,
        resident,
    )
except ImportError as error:
    error.add_note(
        "sharkstore's native module is missing or was built for another Python: install the "
        "package with `pip install .` from its root (it needs a C++17 compiler)."
    )
    raise
from sharkstore.kernels.factor import Factor
from sharkstore.kernels.native import (
    POOLS,
    backend,
    backends,
    bind,
    build_rowmap,
    distortions,
    encode_rows,
    encode_tier,
    measure_rows,
    use_backend,
)
from sharkstore.kernels.pq import Codebook
from sharkstore.kernels.reference import (
    SlotError,
    TableView,
    Tier,
    decode_rows,
)
from sharkstore.kernels.request import Feature, bind_request
from sharkstore.kernels.rowmap import rowmap_counters, rowmap_tiers
from sharkstore.kernels.scales import scale_exponent

__all__ = [
    "POOLS",
    "Budget",
    "ChunkFiles",
    "Codebook",
    "Factor",
    "Feature",
    "SlotError",
    "TableView",
    "Tier",
    "advise_pages",
    "backend",
    "backends",
    "bind",
    "bind_request",
    "build_rowmap",
    "decode_rows",
    "distortions",
    "encode_rows",
    "encode_tier",
    "huge_array",
    "map_chunks",
    "measure_rows",
    "populate",
    "resident",
    "rowmap_counters",
    "rowmap_tiers",
    "scale_exponent",
    "use_backend",
]
