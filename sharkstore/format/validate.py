"""Every rule on a store's documents: `check` reads the root document and lists what it breaks.

The writer runs it on what it is about to write, the reader before it maps anything. It does
not look at chunk files: their sizes are checked when they are mapped, their bytes by verify.

Spec: the rules carry the codes listed under "Reason codes".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from types import NoneType
from typing import Any

import numpy as np

from sharkstore.errors import FormatError, VersionError
from sharkstore.format import layout, version
from sharkstore.format.layout import ArraySpec
from sharkstore.format.metadata import (
    DenseMetadata,
    FieldMetadata,
    StoreMetadata,
    TableMetadata,
    TierMetadata,
)
from sharkstore.format.rules import Check, Problem, check_array, check_tier, is_shape
from sharkstore.format.zarr3 import DTYPES


def parse(document: object, where: str) -> StoreMetadata:
    """The store that a root document describes.

    Raises:
        VersionError: the document is of a newer major version.
        FormatError: it breaks rules; `.problems` has them all.
    """
    metadata, problems = check(document)
    if metadata is not None and not problems:
        return metadata
    shown = "\n".join(f"  {problem}" for problem in problems[:20])
    more = f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else ""
    kind = VersionError if problems[0].code == "version-newer" else FormatError
    error = kind(f"not a store that can be opened:\n{shown}{more}", where=where)
    error.problems = [str(problem) for problem in problems]
    raise error


def check(document: object) -> tuple[StoreMetadata | None, list[Problem]]:
    """Read a root document.

    Returns:
        The metadata, None if it could not be made out, and all problems found.
    """
    attributes, problem = _root_attributes(document)
    if problem is not None:
        return None, [problem]
    assert isinstance(document, dict)
    nodes = _consolidated(document)
    if nodes is None:
        message = "no consolidated metadata with every group and array of the store"
        return None, [Problem("consolidated-missing", "zarr.json", message)]
    state = Check(nodes)
    for path in nodes:
        if not layout.is_node_path(path):
            state.say("node-path", repr(path)[:90], "no path of groups and arrays below the root")
    if state.problems:
        return None, state.problems
    digest = state.member(attributes, "digest", str, "zarr.json", "digest")
    if digest is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        state.say("digest", "zarr.json", f"{digest!r:.90} is not 'sha256:' and 64 hex digits")
    provenance = state.member(attributes, "provenance", dict, "zarr.json", "provenance")
    tables = _tables(state)
    dense = _dense(state)
    sound = not state.problems  # else a field's table may be one that could not be read
    fields = _fields(state, attributes, {table.name for table in tables} if sound else None)
    dropped = _dropped(state, attributes)
    if state.problems:
        return None, state.problems
    metadata = StoreMetadata(
        digest, tables, dense, fields, dropped, provenance, format=attributes["format"]
    )
    return metadata, []


def _root_attributes(document: object) -> tuple[dict[str, Any], Problem | None]:
    where = "zarr.json"
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        return {}, Problem("zarr-format", where, "not a Zarr v3 document")
    if document.get("node_type") != "group":
        return {}, Problem("node-type", where, f"{document.get('node_type')!r:.80} is not a group")
    attributes = document.get("attributes")
    ours = attributes.get("sharkstore") if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        message = "a Zarr group, but no store: it has no attributes 'sharkstore'"
        return {}, Problem("not-sharkstore", where, message)
    text = ours.get("format")
    major = version.major_of(text) if isinstance(text, str) else None
    if major is None or major < version.MAJOR:
        return {}, Problem("version", where, f"format {text!r:.80} is not MAJOR.MINOR from 1.0 on")
    if major > version.MAJOR:
        message = f"format {text}, this reader knows {version.FORMAT}: upgrade sharkstore"
        return {}, Problem("version-newer", where, message)
    return ours, None


def _consolidated(document: Mapping[str, Any]) -> dict[str, Any] | None:
    consolidated = document.get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    return nodes if isinstance(nodes, dict) else None


def _tables(state: Check) -> tuple[TableMetadata, ...]:
    paths = [p for p in state.nodes if p.startswith("tables/") and p.count("/") == 1]
    read = [_table(state, path) for path in paths]
    tables = tuple(table for table in read if table is not None)
    for name, times in Counter(table.name for table in tables).items():
        if times > 1:
            state.say("table-name", "tables", f"{times} tables are named {name!r}")
    return tables


def _table(state: Check, path: str) -> TableMetadata | None:
    before = len(state.problems)
    ours = _ours(state, path, "table-attributes")
    if ours is not None and state.nodes[path].get("node_type") != "group":
        state.say("node-type", path, "a table must be a group")
        return None
    if ours is None:
        return None
    name = state.member(ours, "name", str, path, "table-name")
    rows = state.count(ours, "rows", path, range(layout.MAX_ROWS + 1))
    dim = state.count(ours, "dim", path, range(1, layout.MAX_DIM + 1))
    source = state.member(ours, "source_dtype", str, path, "source-dtype")
    pruned = state.member(ours, "pruned", bool, path, "pruned")
    entries = state.member(ours, "tiers", list, path, "tiers")
    if rows is None or dim is None or entries is None:
        return None
    tiers = _tiers(state, path, entries, rows, dim)
    if pruned and [tier.encoding.name for tier in tiers] not in ([], ["constant"]):
        state.say("pruned", path, "a pruned table has one tier, of encoding 'constant'")
    rowmap = _rowmap(state, path, rows, len(entries))
    default = None
    if f"{path}/default" in state.nodes:
        default = check_array(state, f"{path}/default", (1, dim), np.dtype("<f4"))
    if len(state.problems) > before:
        return None
    return TableMetadata(name, path, rows, dim, source, tiers, rowmap, default, pruned)


def _ours(state: Check, path: str, code: str) -> dict[str, Any] | None:
    node = state.nodes[path]
    if not isinstance(node, dict) or node.get("zarr_format") != 3:
        state.say("zarr-format", path, "not a Zarr v3 document")
        return None
    attributes = node.get("attributes")
    ours = attributes.get("sharkstore") if isinstance(attributes, dict) else None
    if isinstance(ours, dict):
        return ours
    state.say(code, path, "no attributes 'sharkstore'")
    return None


def _tiers(
    state: Check, path: str, entries: list[Any], rows: int, dim: int
) -> tuple[TierMetadata, ...]:
    if not 1 <= len(entries) <= layout.MAX_TIERS:
        state.say("tiers", path, f"{len(entries)} tiers, not 1 to {layout.MAX_TIERS}")
        return ()
    tiers = []
    for index, entry in enumerate(entries):
        where = f"{path}/{index}"
        count, encoding = check_tier(state, where, entry)
        if count is None or encoding is None:
            return ()
        array = check_array(state, where, encoding.array_shape(count, dim), encoding.array_dtype)
        codebook = None
        if encoding.name == "pq":
            shape, dtype = encoding.codebook_shape(dim), encoding.book_dtype
            codebook = check_array(state, f"{where}.codebook", shape, dtype)
        if array is not None:
            tiers.append(TierMetadata(encoding, count, array, codebook))
    if len(tiers) == len(entries) and sum(tier.rows for tier in tiers) != rows:
        told = sum(tier.rows for tier in tiers)
        state.say("tier-rows-sum", path, f"tiers have {told} rows in all, the table {rows}")
    return tuple(tiers)


def _rowmap(state: Check, path: str, rows: int, tiers: int) -> ArraySpec | None:
    where = f"{path}/rowmap"
    if tiers <= 1:
        if tiers and where in state.nodes:
            state.say("rowmap-unexpected", where, "a row map, but one tier")
        return None
    if tiers > layout.MAX_TIERS:
        return None
    return check_array(state, where, layout.rowmap_shape(rows, tiers), np.dtype("u1"))


def _dense(state: Check) -> tuple[DenseMetadata, ...]:
    entries = []
    for path, node in state.nodes.items():
        if not path.startswith("dense/"):
            continue
        ours = _ours(state, path, "dense-attributes")
        if ours is None:
            continue
        name = state.member(ours, "name", str, path, "dense-attributes")
        source = state.member(ours, "source_dtype", str, path, "dense-attributes")
        shape, dtype = node.get("shape"), DTYPES.get(str(node.get("data_type")))
        if dtype is None or not is_shape(shape):
            state.say("array-shape", path, f"shape {shape!r:.80}, {node.get('data_type')!r:.80}")
            continue
        array = check_array(state, path, tuple(shape), dtype)
        if array is not None and name is not None and source is not None:
            entries.append(DenseMetadata(name, source, array))
    for name, times in Counter(entry.name for entry in entries).items():
        if times > 1:
            state.say("dense-attributes", "dense", f"{times} arrays are named {name!r}")
    return tuple(entries)


def _fields(
    state: Check, attributes: Mapping[str, Any], tables: set[str] | None
) -> dict[str, FieldMetadata]:
    entries = attributes.get("fields", {})
    dropped = attributes.get("dropped", {})
    known = None if tables is None else tables.union(dropped if isinstance(dropped, dict) else ())
    fields: dict[str, FieldMetadata] = {}
    if not isinstance(entries, dict):
        state.say("fields", "zarr.json", "'fields' must be an object")
        return fields
    for name, entry in entries.items():
        table = entry.get("table") if isinstance(entry, dict) else None
        score = entry.get("score") if isinstance(entry, dict) else None
        if (
            not isinstance(table, str)
            or (known is not None and table not in known)
            or type(score) not in (int, float, NoneType)
        ):
            message = f"field {name!r:.80} must have a table of the store and a number as score"
            state.say("fields", "zarr.json", message)
        else:
            fields[name] = FieldMetadata(table, score)
    return fields


def _dropped(state: Check, attributes: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    entries = attributes.get("dropped", {})
    dropped: dict[str, tuple[int, int]] = {}
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        state.say("dropped", "zarr.json", "'dropped' must map names to rows and dim")
        return dropped
    for name, entry in entries.items():
        where = f"dropped {name!r:.80}"
        rows = state.count(entry, "rows", where, range(layout.MAX_ROWS + 1))
        dim = state.count(entry, "dim", where, range(1, layout.MAX_DIM + 1))
        if rows is not None and dim is not None:
            dropped[name] = (rows, dim)
    return dropped
