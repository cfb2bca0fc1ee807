"""Root documents that break one rule each, with the reason code that a reader must give."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from goldens.stores import table, values, write
from sharkstore.format.layout import array_spec
from sharkstore.format.zarr3 import array_document
from sharkstore.plan.model import FieldPlan, Plan

Document = dict[str, Any]


def make(top: Path) -> None:
    """Make all invalid documents."""
    valid = _valid()
    for name, change in CASES.items():
        document = copy.deepcopy(valid)
        change(document)
        case = {"code": name.split(".")[0], "document": document}
        (top / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")


def _valid() -> Document:
    """A root document that keeps every rule: two tiers, a row map, a parameter, a field."""
    arrays = {"t": values(50, 3, 4), "w": values(51, 2, 2)}
    plan = Plan(
        (table(arrays["t"], "t", "f32 1, int8 rest"),),
        dense=("w",),
        fields={"user": FieldPlan("t", 0.5)},
    )
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "valid", arrays, plan)
        document: Document = json.loads((Path(folder) / "valid" / "zarr.json").read_bytes())
    return document


def _set(*path: Any) -> Callable[[Document], None]:
    """Set the member at a path; the last item is the value."""

    def change(document: Document) -> None:
        *way, last, value = path
        owner: Any = document
        for step in way:
            owner = owner[step]
        owner[last] = value

    return change


def _delete(*path: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        *way, last = path
        owner: Any = document
        for step in way:
            owner = owner[step]
        del owner[last]

    return change


def _two_of_a_name(document: Document) -> None:
    nodes = document["consolidated_metadata"]["metadata"]
    for path in [path for path in nodes if path.startswith("tables/t")]:
        nodes[path.replace("tables/t", "tables/u")] = nodes[path]


def _two_parameters_of_a_name(document: Document) -> None:
    nodes = document["consolidated_metadata"]["metadata"]
    nodes["dense/v"] = nodes["dense/w"]


def _rename(path: str, to: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        nodes = document["consolidated_metadata"]["metadata"]
        nodes[to] = nodes.pop(path)

    return change


def _one_tier_with_row_map(document: Document) -> None:
    attributes = document["consolidated_metadata"]["metadata"]["tables/t"]["attributes"]
    attributes["sharkstore"] |= {"rows": 1, "tiers": attributes["sharkstore"]["tiers"][:1]}


def _many_chunks(rows: int, chunk: int) -> Callable[[Document], None]:
    """The f32 tier with so many rows in chunks of so many."""

    def change(document: Document) -> None:
        nodes = document["consolidated_metadata"]["metadata"]
        table_attributes = nodes["tables/t"]["attributes"]["sharkstore"]
        table_attributes["tiers"] = [{"encoding": "f32", "rows": rows}]
        table_attributes["rows"] = rows
        del nodes["tables/t/rowmap"]
        nodes["tables/t/0"]["shape"] = [rows, 4]
        nodes["tables/t/0"]["chunk_grid"]["configuration"]["chunk_shape"] = [chunk, 4]

    return change


def _codebook(*change: Any) -> Callable[[Document], None]:
    """The second tier as one of a codebook, and what of its documents is then set."""

    def to_codebook(document: Document) -> None:
        nodes = document["consolidated_metadata"]["metadata"]
        tiers = nodes["tables/t"]["attributes"]["sharkstore"]["tiers"]
        rows = tiers[1]["rows"]
        book = {"sub": 4, "entries": 3, "codebook_dtype": "float16"}
        tiers[1] = {"encoding": "pq", "rows": rows} | book
        nodes["tables/t/1"] = array_document(array_spec("", (rows, 1), np.dtype("u1")))
        nodes["tables/t/1.codebook"] = array_document(array_spec("", (1, 3, 4), np.dtype("<f2")))
        if change:
            _set(*change)(document)

    return to_codebook


ROOT = ("attributes", "sharkstore")
NODES = ("consolidated_metadata", "metadata")
OURS = (*NODES, "tables/t", "attributes", "sharkstore")
ARRAY = (*NODES, "tables/t/0")
TIER = (*OURS, "tiers", 1)
BOOK = (*NODES, "tables/t/1.codebook")

CASES: dict[str, Callable[[Document], None]] = {
    "zarr-format": _set("zarr_format", 2),
    "zarr-format.table": _set(*NODES, "tables/t", "zarr_format", 2),
    "node-type": _set("node_type", "array"),
    "node-type.table": _set(*NODES, "tables/t", "node_type", "array"),
    "not-sharkstore": _delete("attributes", "sharkstore"),
    "version": _set(*ROOT, "format", "1"),
    "version.zero": _set(*ROOT, "format", "01.0"),
    "version-newer": _set(*ROOT, "format", "2.0"),
    "consolidated-missing": _delete("consolidated_metadata"),
    "digest": _set(*ROOT, "digest", "sha256:abc"),
    "digest.missing": _delete(*ROOT, "digest"),
    "provenance": _set(*ROOT, "provenance", []),
    "fields": _set(*ROOT, "fields", {"user": {"table": "nowhere"}}),
    "fields.list": _set(*ROOT, "fields", []),
    "fields.table": _set(*ROOT, "fields", {"user": {"table": ["t"]}}),
    "fields.score": _set(*ROOT, "fields", {"user": {"table": "t", "score": "high"}}),
    "dropped": _set(*ROOT, "dropped", {"u": 3}),
    "table-attributes": _delete(*NODES, "tables/t", "attributes", "sharkstore"),
    "node-path": _rename("tables/t", "tables/.."),
    "node-path.up": _rename("dense/w", "../w"),
    "node-path.space": _rename("dense/w", "dense/a b"),
    "node-path.document": _rename("dense/w", "dense/Zarr.json"),
    "node-path.empty": _rename("dense/w", "dense/"),
    "table-name": _two_of_a_name,
    "table-name.missing": _delete(*OURS, "name"),
    "table-name.surrogate": _set(*OURS, "name", "\ud800"),
    "rows-range": _set(*OURS, "rows", 2**32),
    "rows-range.negative": _set(*OURS, "rows", -1),
    "rows-range.boolean": _set(*OURS, "rows", True),
    "rows-range.tier": _set(*TIER, "rows", 1.5),
    "dim-range": _set(*OURS, "dim", 0),
    "dim-range.large": _set(*OURS, "dim", 4097),
    "source-dtype": _set(*OURS, "source_dtype", None),
    "pruned": _set(*OURS, "pruned", 0),
    "pruned.tiers": _set(*OURS, "pruned", True),
    "tiers": _set(*OURS, "tiers", []),
    "tiers.many": _set(*OURS, "tiers", [{"encoding": "f32", "rows": 0}] * 9),
    "tiers.text": _set(*OURS, "tiers", ["f32", "int8"]),
    "tier-rows-sum": _set(*OURS, "rows", 4),
    "encoding-unknown": _set(*TIER, "encoding", "int3"),
    "mode": _set(*TIER, "mode", "asymmetric"),
    "scale-dtype": _set(*TIER, "scale_dtype", "bfloat16"),
    "scale-exponent-range": _set(*TIER, "scale_exponent", 127),
    "scale-exponent-range.affine": _set(*TIER, "mode", "affine"),
    "sub": _codebook(*TIER, "sub", 3),
    "sub.text": _codebook(*TIER, "sub", "4"),
    "entries-range": _codebook(*TIER, "entries", 257),
    "entries-range.zero": _codebook(*TIER, "entries", 0),
    "codebook-dtype": _codebook(*TIER, "codebook_dtype", "bfloat16"),
    "rowmap-unexpected": _one_tier_with_row_map,
    "array-missing": _delete(*ARRAY),
    "array-missing.rowmap": _delete(*NODES, "tables/t/rowmap"),
    "array-missing.group": _set(*ARRAY, "node_type", "group"),
    "array-missing.codebook": _codebook(*BOOK, "node_type", "group"),
    "array-shape": _set(*ARRAY, "shape", [1, 5]),
    "array-shape.negative": _set(*ARRAY, "shape", [-1, 4]),
    "array-shape.codebook": _codebook(*BOOK, "shape", [1, 256, 4]),
    "array-shape.codes": _codebook(*NODES, "tables/t/1", "shape", [2, 4]),
    "array-shape.dense": _set(*NODES, "dense/w", "shape", [2**40, 2**40]),
    "array-dtype": _set(*ARRAY, "data_type", "float64"),
    "array-dtype.codebook": _codebook(*BOOK, "data_type", "float32"),
    "array-codecs": _set(*ARRAY, "codecs", [{"name": "bytes"}, {"name": "gzip"}]),
    "array-codecs.big": _set(*ARRAY, "codecs", 0, "configuration", {"endian": "big"}),
    "array-codecs.transformer": _set(*ARRAY, "storage_transformers", [{"name": "shift"}]),
    "chunk-keys": _set(*ARRAY, "chunk_key_encoding", {"name": "v2"}),
    "fill-value": _set(*ARRAY, "fill_value", "NaN"),
    "chunk-grid": _set(*ARRAY, "chunk_grid", {"name": "rectangular"}),
    "chunk-grid.columns": _set(*ARRAY, "chunk_grid", "configuration", "chunk_shape", [1, 2]),
    "chunk-alignment": _many_chunks(rows=100, chunk=64),
    "chunk-alignment.single": _many_chunks(rows=100, chunk=4096),
    "chunk-count": _many_chunks(rows=4096 * 1025, chunk=4096),
    "dense-attributes": _two_parameters_of_a_name,
    "dense-attributes.missing": _delete(*NODES, "dense/w", "attributes", "sharkstore"),
}
