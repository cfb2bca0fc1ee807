"""From a plan to the store's metadata: every array, its chunks and exact sizes.

Needs no look at the rows, so a dry run has the sizes; scale exponents and the digest come
later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sharkstore.encodings import Encoding
from sharkstore.format.layout import CHUNK_TARGET, ArraySpec, array_spec, rowmap_shape
from sharkstore.format.metadata import (
    BLANK_DIGEST,
    DenseMetadata,
    FieldMetadata,
    StoreMetadata,
    TableMetadata,
    TierMetadata,
)
from sharkstore.format.version import FORMATS
from sharkstore.plan.model import Plan, TablePlan
from sharkstore.quant.encode import fitted
from sharkstore.tensors import Tensor, raw_dtype
from sharkstore.write.names import unique_nodes
from sharkstore.write.survey import Survey


def plan_metadata(
    plan: Plan,
    tensors: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
    surveys: Mapping[str, Survey],
    target: int = CHUNK_TARGET,
) -> StoreMetadata:
    """The metadata of the store that a plan leads to.

    Args:
        surveys: of the tables; empty in a dry run.
        target: bytes of a chunk to aim at.
    """
    stored = [table for table in plan.tables if table.action != "drop"]
    nodes = unique_nodes(table.name for table in stored)
    tables = [
        _table(table, f"tables/{nodes[table.name]}", surveys.get(table.name), target)
        for table in stored
    ]
    dense_nodes = unique_nodes(plan.dense)
    dense = [_dense(tensors[name], f"dense/{dense_nodes[name]}", target) for name in plan.dense]
    return StoreMetadata(
        digest=BLANK_DIGEST,
        tables=tuple(tables),
        dense=tuple(dense),
        fields={name: FieldMetadata(one.table, one.score) for name, one in plan.fields.items()},
        dropped={t.name: (t.rows, t.dim) for t in plan.tables if t.action == "drop"},
        provenance=provenance,
        format=_format_of(tables),
    )


def _format_of(tables: list[TableMetadata]) -> str:
    """The first version that has all encodings in use, so that older readers take what they can."""
    versions = [tier.encoding.format for table in tables for tier in table.tiers]
    return max(versions, key=FORMATS.index, default=FORMATS[0])


def _table(table: TablePlan, path: str, survey: Survey | None, target: int) -> TableMetadata:
    tiers = []
    for index, tier in enumerate(table.stored_tiers):
        encoding = tier.encoding
        if survey is not None:
            encoding = fitted(encoding, survey.largest[index])
        shape = encoding.array_shape(tier.rows, table.dim)
        array = array_spec(f"{path}/{index}", shape, encoding.array_dtype, target)
        codebook = _codebook(encoding, f"{path}/{index}", table.dim)
        tiers.append(TierMetadata(encoding, tier.rows, array, codebook))
    rowmap = None
    if len(tiers) > 1:
        shape = rowmap_shape(table.rows, len(tiers))
        rowmap = array_spec(f"{path}/rowmap", shape, np.dtype("u1"), target)
    default = None
    if table.default == "mean":
        default = array_spec(f"{path}/default", (1, table.dim), np.dtype("<f4"), target)
    return TableMetadata(
        name=table.name,
        path=path,
        rows=table.rows,
        dim=table.dim,
        source_dtype=table.dtype,
        tiers=tuple(tiers),
        rowmap=rowmap,
        default=default,
        pruned=[tier.encoding.name for tier in tiers] == ["constant"],
    )


def _codebook(encoding: Encoding, path: str, dim: int) -> ArraySpec | None:
    """The codebook of the tier at a path: one chunk, however small chunks are to be."""
    if encoding.name != "pq":
        return None
    shape = encoding.codebook_shape(dim)
    return ArraySpec(f"{path}.codebook", shape, encoding.book_dtype, shape[0])


def _dense(tensor: Tensor, path: str, target: int) -> DenseMetadata:
    # bfloat16 is no core Zarr type; float32 holds its values exactly
    dtype = np.dtype("<f4") if tensor.dtype == "bfloat16" else raw_dtype(tensor.dtype)
    return DenseMetadata(tensor.name, tensor.dtype, array_spec(path, tensor.shape, dtype, target))


def data_bytes(metadata: StoreMetadata) -> int:
    """Bytes of all chunk files: rows, padding, trailers."""
    return sum(array.chunks * array.file_bytes for array in metadata.arrays)
