"""A broken rule, the state of a check, and the rules on the entry of a tier and on every array.

Spec: "Table attributes", "Arrays and chunk files".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from sharkstore.encodings import MOST_ENTRIES, NAMES, SCALE_DTYPES, SUBS, Encoding
from sharkstore.format import layout
from sharkstore.format.layout import ArraySpec
from sharkstore.format.zarr3 import CHUNK_KEYS, DTYPES, array_document, codecs_fit

JSON_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "an integer",
    bool: "a boolean",
}

MAX_AXES = 32
EXPONENTS = range(-126, 127)


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule: a stable code, the place, and what is wrong in words."""

    code: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]"


@dataclass(slots=True)
class Check:
    """The documents under check and the problems found so far."""

    nodes: Mapping[str, Any]
    problems: list[Problem] = field(default_factory=list)

    def say(self, code: str, where: str, message: str) -> None:
        self.problems.append(Problem(code, where, message))

    def member(self, owner: Mapping[str, Any], key: str, kind: type, where: str, code: str) -> Any:
        """`owner[key]` if it is of this JSON type; else None, and a problem."""
        value: Any = owner.get(key)
        if type(value) is kind and (not isinstance(value, str) or is_text(value)):
            return value
        self.say(code, where, f"{key!r} must be {JSON_TYPES[kind]}, got {value!r:.80}")
        return None

    def count(self, owner: Mapping[str, Any], key: str, where: str, bounds: range) -> int | None:
        """An integer within bounds, with code `<key>-range`."""
        value: int | None = self.member(owner, key, int, where, f"{key.replace('_', '-')}-range")
        if value is not None and value not in bounds:
            wanted = f"from {bounds.start} to {bounds.stop - 1}"
            self.say(f"{key.replace('_', '-')}-range", where, f"{key!r} is {value}, not {wanted}")
            return None
        return value


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: JSON admits lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_shape(shape: object) -> TypeGuard[list[int]]:
    """Whether this is a list of lengths whose bytes 64-bit arithmetic holds."""
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        return False
    if not all(type(n) is int and n >= 0 for n in shape):
        return False
    return bool(math.prod(max(1, n) for n in shape) < 2**56)


def check_array(
    state: Check, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> ArraySpec | None:
    """The array at `path`, which must have this shape and dtype."""
    node = state.nodes.get(path)
    if not isinstance(node, dict) or node.get("node_type") != "array":
        state.say("array-missing", path, "no such array")
        return None
    chunk_rows = _plain_chunk_rows(node)
    if chunk_rows:
        spec = ArraySpec(path, shape, dtype, chunk_rows)
        if node == array_document(spec):  # what we write, compared at once: opening is quick
            return _sized(state, spec)
    return _check_by_member(state, node, ArraySpec(path, shape, dtype, 1))


def _plain_chunk_rows(node: Mapping[str, Any]) -> int:
    """First number of the chunk shape, or 0 if there is none to be found."""
    try:
        rows = node["chunk_grid"]["configuration"]["chunk_shape"][0]
    except (LookupError, TypeError):
        return 0
    return rows if type(rows) is int and rows > 0 else 0


def _check_by_member(state: Check, node: Mapping[str, Any], spec: ArraySpec) -> ArraySpec | None:
    """The array, if each member of its document keeps the rules."""
    path, shape, dtype = spec.path, spec.shape, spec.dtype
    before = len(state.problems)
    if node.get("zarr_format") != 3:
        state.say("zarr-format", path, "not a Zarr v3 document")
    if not is_shape(node.get("shape")) or tuple(node["shape"]) != shape:
        state.say("array-shape", path, f"shape {node.get('shape')!r:.80}, expected {list(shape)}")
    if DTYPES.get(str(node.get("data_type"))) != dtype:
        got = node.get("data_type")
        state.say("array-dtype", path, f"data type {got!r:.80}, expected {dtype.name!r}")
    if not codecs_fit(node.get("codecs"), dtype):
        got = node.get("codecs")
        state.say(
            "array-codecs", path, f"codecs {got!r:.120}, expected little-endian bytes, crc32c"
        )
    if node.get("chunk_key_encoding") not in (CHUNK_KEYS, {"name": "default"}):
        state.say("chunk-keys", path, "chunk keys must be 'default' with separator '/'")
    fill = node.get("fill_value")
    if fill not in (0, False):
        state.say("fill-value", path, f"fill value {fill!r:.80}, expected 0")
    if node.get("storage_transformers"):
        state.say("array-codecs", path, "storage transformers are not allowed")
    if len(state.problems) > before:
        return None
    return _chunked(state, node, spec)


def _chunked(state: Check, node: Mapping[str, Any], spec: ArraySpec) -> ArraySpec | None:
    """The array with its chunk size, if the chunk grid keeps the rules."""
    grid = node.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    chunk = configuration.get("chunk_shape") if isinstance(configuration, dict) else None
    if not isinstance(grid, dict) or grid.get("name") != "regular" or not is_shape(chunk):
        state.say("chunk-grid", spec.path, f"chunk grid {grid!r:.80} is not regular")
        return None
    rows = chunk[0] if chunk else 1
    sized = ArraySpec(spec.path, spec.shape, spec.dtype, max(1, rows))
    if tuple(chunk) != sized.chunk_shape:
        message = f"chunk shape {chunk} must span whole rows of shape {list(spec.shape)}"
        state.say("chunk-grid", spec.path, message)
        return None
    return _sized(state, sized)


def _sized(state: Check, sized: ArraySpec) -> ArraySpec | None:
    """The array, if its chunks are of a size that can be mapped behind one another."""
    chunks = sized.chunks
    if chunks > 1 and sized.chunk_bytes % layout.CHUNK_ALIGNMENT:
        message = f"{chunks} chunks of {sized.chunk_bytes} bytes, not a multiple of 64 KiB"
        state.say("chunk-alignment", sized.path, message)
    elif chunks == 1 and sized.chunk_rows != sized.rows:
        message = f"{sized.chunk_rows} rows a chunk: one chunk has exactly the {sized.rows} rows"
        state.say("chunk-alignment", sized.path, message)
    elif chunks > layout.MAX_CHUNKS:
        state.say("chunk-count", sized.path, f"{chunks} chunks, more than {layout.MAX_CHUNKS}")
    return sized


def check_tier(state: Check, where: str, entry: object) -> tuple[int | None, Encoding | None]:
    """Rows and encoding of a tier's entry in the table's attributes; None for what is wrong."""
    if not isinstance(entry, dict):
        state.say("tiers", where, "a tier must be an object")
        return None, None
    rows = state.count(entry, "rows", where, range(layout.MAX_ROWS + 1))
    name = entry.get("encoding")
    if name not in NAMES:
        message = f"encoding {name!r:.80} is not one of {', '.join(NAMES)}: upgrade sharkstore"
        state.say("encoding-unknown", where, message)
        return rows, None
    if name == "pq":
        return rows, _with_codebook(state, where, entry)
    if not Encoding(name).packed:
        return rows, Encoding(name)
    return rows, _packed(state, where, entry, name)


def _packed(state: Check, where: str, entry: Mapping[str, Any], name: str) -> Encoding | None:
    """The encoding of a packed tier, if its members are in range."""
    mode, scale = entry.get("mode"), entry.get("scale_dtype")
    if mode not in ("symmetric", "affine"):
        state.say("mode", where, f"mode {mode!r:.80} is neither 'symmetric' nor 'affine'")
        return None
    if scale not in tuple(SCALE_DTYPES):
        state.say("scale-dtype", where, f"{scale!r:.80} is neither 'float16' nor 'float32'")
        return None
    exponent = state.count(entry, "scale_exponent", where, EXPONENTS)
    if exponent and (mode == "affine" or scale == "float32"):
        message = "only symmetric tiers with float16 scales have an exponent other than 0"
        state.say("scale-exponent-range", where, message)
        return None
    return None if exponent is None else Encoding(name, mode, scale, exponent)


def _with_codebook(state: Check, where: str, entry: Mapping[str, Any]) -> Encoding | None:
    """The encoding of a pq tier, if its members are in range."""
    sub, dtype = entry.get("sub"), entry.get("codebook_dtype")
    if type(sub) is not int or sub not in SUBS:
        state.say("sub", where, f"sub {sub!r:.80} is none of {', '.join(map(str, SUBS))}")
        return None
    entries = state.count(entry, "entries", where, range(1, MOST_ENTRIES + 1))
    if dtype not in tuple(SCALE_DTYPES):
        state.say("codebook-dtype", where, f"{dtype!r:.80} is neither 'float16' nor 'float32'")
        return None
    if entries is None:
        return None
    return Encoding("pq", sub=sub, entries=entries, codebook_dtype=dtype)
