"""What a store says of itself, as typed values; and the attributes they are written as.

Spec: "Root document", "Table attributes", "Dense parameters".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharkstore.encodings import Encoding
from sharkstore.format import zarr3
from sharkstore.format.layout import ArraySpec
from sharkstore.format.version import FORMATS

DIGEST_PREFIX = "sha256:"
BLANK_DIGEST = DIGEST_PREFIX + "0" * 64


@dataclass(frozen=True, slots=True)
class TierMetadata:
    """Rows of one table that share one encoding.

    Args:
        codebook: of pq, (codes a row, entries, sub); None of other encodings.
    """

    encoding: Encoding
    rows: int
    array: ArraySpec
    codebook: ArraySpec | None = None

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """The stored rows, then the codebook if there is one."""
        return (self.array,) if self.codebook is None else (self.array, self.codebook)

    def attributes(self) -> dict[str, Any]:
        """The tier's entry in the table's attributes."""
        entry: dict[str, Any] = {"encoding": self.encoding.name, "rows": self.rows}
        if self.encoding.packed:
            entry["mode"] = self.encoding.mode
            entry["scale_dtype"] = self.encoding.scale_dtype
            entry["scale_exponent"] = self.encoding.scale_exponent
        if self.encoding.name == "pq":
            entry["sub"] = self.encoding.sub
            entry["entries"] = self.encoding.entries
            entry["codebook_dtype"] = self.encoding.codebook_dtype
        return entry


@dataclass(frozen=True, slots=True)
class TableMetadata:
    """One table.

    Args:
        name: the checkpoint's key, verbatim.
        path: of the table's group.
        source_dtype: of the checkpoint's tensor.
        rowmap: None when there is one tier.
        default: the row for ids out of bounds; None stands for zeros.
        pruned: every row is the mean row.
    """

    name: str
    path: str
    rows: int
    dim: int
    source_dtype: str
    tiers: tuple[TierMetadata, ...]
    rowmap: ArraySpec | None
    default: ArraySpec | None = None
    pruned: bool = False

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """All arrays of the table: row map, tiers with their codebooks, default row."""
        of_tiers = (array for tier in self.tiers for array in tier.arrays)
        optional = (self.rowmap, *of_tiers, self.default)
        return tuple(array for array in optional if array is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of rows, codebooks, row map and default row; padding and trailers left out."""
        return sum(array.data_bytes for array in self.arrays)

    @property
    def source_nbytes(self) -> int:
        """Bytes of the same table in float32."""
        return self.rows * self.dim * 4

    def attributes(self) -> dict[str, Any]:
        """The group's `attributes.sharkstore`."""
        return {
            "name": self.name,
            "rows": self.rows,
            "dim": self.dim,
            "source_dtype": self.source_dtype,
            "pruned": self.pruned,
            "tiers": [tier.attributes() for tier in self.tiers],
        }


@dataclass(frozen=True, slots=True)
class DenseMetadata:
    """One parameter that is not a table, as the plain array it is stored as."""

    name: str
    source_dtype: str
    array: ArraySpec


@dataclass(frozen=True, slots=True)
class FieldMetadata:
    """A feature that looks rows up in a table."""

    table: str
    score: float | None = None

    def attributes(self) -> dict[str, Any]:
        """The field's entry in the root attributes."""
        return {"table": self.table} | ({} if self.score is None else {"score": self.score})


@dataclass(frozen=True, slots=True)
class StoreMetadata:
    """A whole store.

    Args:
        dropped: tables of the checkpoint that were left out: name -> (rows, dim).
        format: version of the format that it is written in.
    """

    digest: str
    tables: tuple[TableMetadata, ...]
    dense: tuple[DenseMetadata, ...]
    fields: Mapping[str, FieldMetadata]
    dropped: Mapping[str, tuple[int, int]]
    provenance: Mapping[str, Any]
    format: str = FORMATS[0]

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """All arrays, in the order of the digest: by path."""
        arrays = [array for table in self.tables for array in table.arrays]
        arrays += [entry.array for entry in self.dense]
        return tuple(sorted(arrays, key=lambda array: array.path))

    @property
    def nbytes(self) -> int:
        """Bytes of all tables: rows, codebooks and row maps."""
        return sum(table.nbytes for table in self.tables)

    @property
    def source_nbytes(self) -> int:
        """Bytes of all tables that were taken in float32, pruned and dropped ones included."""
        dropped = sum(rows * dim * 4 for rows, dim in self.dropped.values())
        return sum(table.source_nbytes for table in self.tables) + dropped

    def document(self) -> zarr3.Document:
        """The root's `zarr.json`."""
        nodes: dict[str, zarr3.Document] = {"tables": zarr3.group_document({})}
        for table in self.tables:
            nodes[table.path] = zarr3.group_document({"sharkstore": table.attributes()})
        nodes["dense"] = zarr3.group_document({})
        for entry in self.dense:
            nodes[entry.array.path] = zarr3.array_document(entry.array) | {
                "attributes": {
                    "sharkstore": {"name": entry.name, "source_dtype": entry.source_dtype}
                }
            }
        for array in self.arrays:
            nodes.setdefault(array.path, zarr3.array_document(array))
        attributes = {
            "format": self.format,
            "digest": self.digest,
            "fields": {name: field.attributes() for name, field in self.fields.items()},
            "dropped": {
                name: {"rows": rows, "dim": dim} for name, (rows, dim) in self.dropped.items()
            },
            "provenance": dict(self.provenance),
        }
        return zarr3.root_document({"sharkstore": attributes}, dict(sorted(nodes.items())))
