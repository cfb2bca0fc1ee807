"""Checkpoints, stats files and stores to convert, look at and damage: small and seeded."""

import json
import struct
from dataclasses import dataclass

import google_crc32c
import numpy as np
from strategies import random_rows

import sharkstore
from sharkstore.encodings import parse_encoding
from sharkstore.format.digest import store_digest
from sharkstore.format.validate import parse
from sharkstore.kernels import decode_rows, encode_rows
from sharkstore.quant.encode import fitted

USER, ITEM = "emb.user.weight", "emb.item.weight"
CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class Raw:
    """A tensor of a dtype that numpy lacks: safetensors' code, shape, bytes."""

    code: str
    shape: tuple[int, ...]
    data: bytes


def bfloat16(values):
    """The upper halves of float32 values."""
    return Raw("BF16", values.shape, (values.view("<u4") >> 16).astype("<u2").tobytes())


def model():
    """Two tables and the layer behind them."""
    return {
        USER: random_rows(1000, 8, seed=1),
        ITEM: random_rows(500, 4, seed=2),
        "mlp.weight": random_rows(8, 12, seed=3),
        "mlp.bias": random_rows(1, 8, seed=4)[0],
    }


def save(path, tensors, metadata=None):
    """Write a safetensors file, tensors in the order given."""
    header = {} if metadata is None else {"__metadata__": dict(metadata)}
    blobs = []
    end = 0
    for name, tensor in tensors.items():
        raw = tensor if isinstance(tensor, Raw) else _raw(np.asarray(tensor))
        start, end = end, end + len(raw.data)
        header[name] = {"dtype": raw.code, "shape": raw.shape, "data_offsets": [start, end]}
        blobs.append(raw.data)
    path.write_bytes(with_header(header, b"".join(blobs)))
    return path


def _raw(array):
    return Raw(CODES[array.dtype.name], array.shape, array.tobytes())


def with_header(header, data):
    """The bytes of a safetensors file with this header, true or not."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def save_stats(path, arrays, fields=None):
    """Write a stats file; `fields` maps fields to tables."""
    return save(path, arrays, None if fields is None else {"fields": json.dumps(dict(fields))})


def priorities(table, values):
    return {f"tables/{table}/priority": np.asarray(values, np.float32)}


def read_back(store, table):
    """All rows of a table, as a lookup gives them."""
    with sharkstore.open(store) as opened:
        return opened[table].lookup(np.arange(opened[table].rows))


def as_stored(rows, encoding):
    """Rows of one tier after a round trip through its encoding."""
    one = fitted(parse_encoding(encoding), float(np.abs(rows).max(initial=0)))
    return decode_rows(one, encode_rows(one, rows), rows.shape[1])


def contents(folder):
    """Bytes of all files below a folder, by path."""
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    return {str(one.relative_to(folder)): one.read_bytes() for one in files}


def names(folder):
    """Names of everything in a folder, hidden files included."""
    return sorted(one.name for one in folder.iterdir())


def flip_bit(path, byte=0):
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 1
    path.write_bytes(raw)


def reseal(store):
    """Make checksums and digest fit what is in the store now, as a forger would."""
    root = store / "zarr.json"
    metadata = parse(json.loads(root.read_bytes()), str(store))
    trailers = []
    for array in metadata.arrays:
        for index in range(array.chunks):
            chunk = store / array.chunk_path(index)
            rows = chunk.read_bytes()[:-4]
            trailers.append(google_crc32c.value(rows).to_bytes(4, "little"))
            chunk.write_bytes(rows + trailers[-1])
    raw = root.read_bytes()
    digest = store_digest(raw, trailers, metadata.digest)
    root.write_bytes(raw.replace(metadata.digest.encode(), digest.encode(), 1))
