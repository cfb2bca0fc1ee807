"""Zarr v3 metadata documents: the subset that a store uses, written and read.

Documents equal those of zarr-python for the same arrays (tested); they are written here so
that the same input gives the same bytes whatever version of it is installed.

Spec: "Arrays and chunk files".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sharkstore.format.layout import ArraySpec

Document = dict[str, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}
CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
ONE_BYTE_CODECS = [{"name": "bytes"}, {"name": "crc32c"}]
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ZEROS: dict[str, Any] = {"b": False, "i": 0, "u": 0, "f": 0.0}
CHUNK_KEYS = {"name": "default", "configuration": {"separator": "/"}}


def array_document(spec: ArraySpec) -> Document:
    """The `zarr.json` of an array."""
    return {
        "shape": list(spec.shape),
        "data_type": NAMES[spec.dtype],
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(spec.chunk_shape)},
        },
        "chunk_key_encoding": CHUNK_KEYS,
        "fill_value": ZEROS[spec.dtype.kind],
        "codecs": CODECS if spec.dtype.itemsize > 1 else ONE_BYTE_CODECS,
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def group_document(attributes: Mapping[str, Any]) -> Document:
    """The `zarr.json` of a group."""
    return {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}


def root_document(attributes: Mapping[str, Any], nodes: Mapping[str, Document]) -> Document:
    """The root's `zarr.json`, with every other document of the store in it."""
    return group_document(attributes) | {
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(nodes),
        }
    }


def dump(document: Document) -> bytes:
    """JSON as written to disk: UTF-8, indented by one space, keys in the order given."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1).encode()


def codecs_fit(codecs: object, dtype: np.dtype[Any]) -> bool:
    """Whether the codecs are `bytes` (little endian) and `crc32c`, and nothing else."""
    if codecs in (CODECS, ONE_BYTE_CODECS):
        return dtype.itemsize == 1 or codecs == CODECS
    if not isinstance(codecs, list) or len(codecs) != 2:
        return False
    normal = [{"name": c} if isinstance(c, str) else c for c in codecs]
    if not all(isinstance(c, dict) for c in normal):
        return False
    plain = [{k: v for k, v in c.items() if v not in ({}, None)} for c in normal]
    return plain == CODECS or (dtype.itemsize == 1 and plain == ONE_BYTE_CODECS)
