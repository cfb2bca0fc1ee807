"""Stores of tables in memory, without the writer: bytes and documents as the format says."""

import numpy as np
from checkpoints import reseal
from strategies import tier_metadata

from sharkstore.format import zarr3
from sharkstore.format.layout import array_spec, rowmap_shape
from sharkstore.format.metadata import BLANK_DIGEST, StoreMetadata, TableMetadata


def write_view(path, view, format_="1.2"):
    """Write a table in memory as the table `emb` of a store; the store's path."""
    tiers = tuple(
        tier_metadata(tier.encoding, tier.rows, view.dim, index)
        for index, tier in enumerate(view.tiers)
    )
    arrays = {}
    for held, tier in zip(view.tiers, tiers, strict=True):
        arrays[tier.array] = held.data
        if tier.codebook is not None:
            arrays[tier.codebook] = held.codebook
    rowmap = None
    if view.rowmap is not None:
        shape = rowmap_shape(view.rows, len(tiers))
        rowmap = array_spec("tables/emb/rowmap", shape, np.dtype("u1"))
        arrays[rowmap] = view.rowmap
    table = TableMetadata("emb", "tables/emb", view.rows, view.dim, "float32", tiers, rowmap)
    origin = {"tool": "test", "source": {"name": "test"}}
    document = StoreMetadata(BLANK_DIGEST, (table,), (), {}, {}, origin, format=format_).document()
    for spec, values in arrays.items():
        assert spec.chunks <= 1, "no store of one chunk an array"
        if spec.chunks:
            chunk = path / spec.chunk_path(0)
            chunk.parent.mkdir(parents=True)
            chunk.write_bytes(np.ascontiguousarray(values).tobytes() + bytes(4))
    for node, own in document["consolidated_metadata"]["metadata"].items():
        (path / node).mkdir(parents=True, exist_ok=True)
        (path / node / "zarr.json").write_bytes(zarr3.dump(own))
    (path / "zarr.json").write_bytes(zarr3.dump(document))
    reseal(path)
    return path
