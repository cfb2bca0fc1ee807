"""The numpy reference: what every encoding, lookup and pooling compute.

All arithmetic is float32, rounded half to even after each operation, in the order written
here. A native kernel equals these functions bit for bit.

Spec: "Encodings", "Lookup".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sharkstore.encodings import FLOAT_DTYPES, SCALE_DTYPES, Encoding
from sharkstore.kernels.codebooks import decode_codes
from sharkstore.kernels.lowbits import fit_rows, pack_codes, unpack_codes
from sharkstore.kernels.rowmap import BLOCK_PLANES, rowmap_counters
from sharkstore.kernels.scales import F32, U8, Stored, pack, positive, store_scales, true_scales

if TYPE_CHECKING:
    from sharkstore.kernels import _native

I64 = NDArray[np.int64]
Pool = Literal["sum", "mean", "max"]

LOOKUP_BLOCK = 1 << 16
# bags of more ids are summed one by one, others side by side
LONG_BAG = 512


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier as the kernels see it.

    Args:
        data: uint8 (stored rows, row bytes).
        codebook: of pq, float16 or float32 (codes a row, entries, sub); else None.
        files: what the native kernels read rows from as they need them; `data` has none then.
    """

    encoding: Encoding
    rows: int
    data: U8
    codebook: Stored | None = None
    files: _native.ChunkFiles | None = None


@dataclass(frozen=True, slots=True)
class TableView:
    """A table as the kernels see it.

    Args:
        rowmap: uint8 (blocks, 16 | 32 | 64); None with one tier.
        default: float32 (dim,), the row for ids out of bounds.
    """

    rows: int
    dim: int
    tiers: Sequence[Tier]
    rowmap: U8 | None
    default: F32


class SlotError(Exception):
    """A row map points past its tier; `row` and `tier` say where."""

    def __init__(self, row: int, tier: int) -> None:
        super().__init__(row, tier)
        self.row = row
        self.tier = tier


# --- encodings -------------------------------------------------------------------------------


def encode_rows(encoding: Encoding, rows: F32) -> U8:
    """Encode rows.

    Args:
        rows: float32 (n, dim), finite.

    Returns:
        uint8 (n, row bytes). Values that float16 cannot hold become infinite: callers check.
    """
    if encoding.packed and encoding.bits < 8:
        return _encode_low_bits(encoding, rows)
    if encoding.packed:
        encode = _encode_symmetric if encoding.mode == "symmetric" else _encode_affine
        return encode(encoding, rows)
    with np.errstate(over="ignore"):
        stored = rows.astype(encoding.array_dtype)
    return stored.view(np.uint8).reshape(len(rows), encoding.row_bytes(rows.shape[1]))


def _encode_symmetric(encoding: Encoding, rows: F32) -> U8:
    scales = store_scales(encoding, np.abs(rows).max(axis=1) / np.float32(127))
    step = true_scales(encoding, scales)
    return pack([scales], _codes(rows, step, -127, 127).astype(np.int8))


def _encode_affine(encoding: Encoding, rows: F32) -> U8:
    dtype = SCALE_DTYPES[encoding.scale_dtype]
    with np.errstate(over="ignore"):
        # adding zero turns -0 into +0, so that the bias of {-0, +0} is one pattern of bits
        biases = (rows.min(axis=1) + np.float32(0)).astype(dtype)
        low = biases.astype(np.float32)
        scales = ((rows.max(axis=1) - low) / np.float32(255)).astype(dtype)
        offset = rows - low[:, None]
    # a bias rounded up can leave a range below zero: such a row is its bias
    scales = positive(scales)
    codes = _codes(offset, scales.astype(np.float32), 0, 255)
    return pack([scales, biases], codes.astype(np.uint8))


def _encode_low_bits(encoding: Encoding, rows: F32) -> U8:
    fit = fit_rows(encoding, rows)
    head = [fit.scales] if fit.biases is None else [fit.scales, fit.biases]
    return pack(head, pack_codes(encoding, fit.codes))


def decode_rows(encoding: Encoding, stored: U8, dim: int, codebook: Stored | None = None) -> F32:
    """Decode rows: any bytes decode to something.

    Args:
        stored: uint8 (n, row bytes).
        codebook: of pq, float16 or float32 (codes a row, entries, sub).

    Returns:
        float32 (n, dim).
    """
    stored = np.ascontiguousarray(stored)
    if encoding.name == "pq":
        assert codebook is not None
        return decode_codes(stored, dim, codebook)
    if not encoding.packed:
        dtype = FLOAT_DTYPES.get(encoding.name, FLOAT_DTYPES["f32"])
        values: F32 = stored.view(dtype).reshape(len(stored), dim).astype(np.float32, copy=False)
        return values
    header = encoding.header_bytes
    head = np.ascontiguousarray(stored[:, :header]).view(SCALE_DTYPES[encoding.scale_dtype])
    step = true_scales(encoding, head[:, 0])[:, None]
    with np.errstate(all="ignore"):
        values = _stored_codes(encoding, stored[:, header:], dim) * step
        return values if encoding.mode == "symmetric" else values + head[:, 1:].astype(np.float32)


def _stored_codes(encoding: Encoding, stored: U8, dim: int) -> F32:
    if encoding.bits < 8:
        return unpack_codes(encoding, stored, dim)
    signed = encoding.mode == "symmetric"
    codes: F32 = stored.view(np.int8 if signed else np.uint8).astype(np.float32)
    return codes


def _codes(rows: F32, step: F32, low: int, high: int) -> F32:
    """clip(rint(rows / step)), and 0 where the step is 0."""
    divisor = step.copy()
    divisor[step == 0] = np.inf
    with np.errstate(over="ignore", under="ignore"):
        quotient = rows / divisor[:, None]
    np.rint(quotient, out=quotient)
    np.clip(quotient, low, high, out=quotient)
    return quotient


# --- lookup and pooling ----------------------------------------------------------------------


def resolve(table: TableView, ids: I64) -> tuple[U8, I64]:
    """Tier and slot of rows.

    Args:
        ids: int64 (n,), within the table.

    Raises:
        SlotError: a slot lies past its tier.
    """
    if table.rowmap is None:
        return np.zeros(len(ids), np.uint8), ids
    blocks = table.rowmap[ids >> 6]
    planes = BLOCK_PLANES[blocks.shape[1]]
    words = np.ascontiguousarray(blocks[:, : 8 * planes]).view("<u8")
    position = (ids & 63).astype(np.uint64)
    bits = (words >> position[:, None]) & np.uint64(1)
    tier = (bits << np.arange(planes, dtype=np.uint64)).sum(axis=1).astype(np.uint8)
    same = np.bitwise_and.reduce(~(words ^ (np.uint64(0) - bits)), axis=1)
    below = (np.uint64(1) << position) - np.uint64(1)
    rank = np.bitwise_count(same & below).astype(np.int64)
    slot = rowmap_counters(blocks)[np.arange(len(ids)), tier].astype(np.int64) + rank
    lengths = np.zeros(8, np.int64)
    lengths[: len(table.tiers)] = [t.rows for t in table.tiers]
    bad = np.flatnonzero(slot >= lengths[tier])
    if len(bad):
        raise SlotError(int(ids[bad[0]]), int(tier[bad[0]]))
    return tier, slot


def lookup(table: TableView, ids: I64, out: F32) -> None:
    """Write rows into `out`.

    Args:
        ids: int64 (n,); ids outside the table give its default row.
        out: float32 (n, dim).

    Raises:
        SlotError: a slot lies past its tier.
    """
    for start in range(0, len(ids), LOOKUP_BLOCK):
        _lookup_block(table, ids[start : start + LOOKUP_BLOCK], out[start : start + LOOKUP_BLOCK])


def _lookup_block(table: TableView, ids: I64, out: F32) -> None:
    inside = (ids >= 0) & (ids < table.rows)
    if not inside.all():
        out[~inside] = table.default
    where = np.flatnonzero(inside)
    tier, slot = resolve(table, ids[where])
    for index, one in enumerate(table.tiers):
        chosen = np.flatnonzero(tier == index)
        slots = slot[chosen] if one.encoding.name != "constant" else np.zeros_like(chosen)
        rows = decode_rows(one.encoding, one.data[slots], table.dim, one.codebook)
        out[where[chosen]] = rows


def embedding_bag(
    table: TableView, ids: I64, offsets: I64, weights: F32 | None, mode: Pool, out: F32
) -> None:
    """Look rows up and pool them into bags.

    Args:
        ids: int64 (n,); ids outside the table give its default row, which counts.
        offsets: int64 (bags + 1,), rising from 0 to n.
        weights: float32 (n,), of mode sum only.
        out: float32 (bags, dim); an empty bag gives zeros.

    Raises:
        SlotError: a slot lies past its tier.
    """
    first = 0
    while first < len(out):
        room = offsets[first] + LOOKUP_BLOCK
        last = max(first + 1, int(np.searchsorted(offsets, room, side="right")) - 1)
        start, stop = int(offsets[first]), int(offsets[last])
        rows = np.empty((stop - start, table.dim), np.float32)
        lookup(table, ids[start:stop], rows)
        chosen = None if weights is None else weights[start:stop]
        pool(rows, offsets[first : last + 1] - start, chosen, mode, out[first:last])
        first = last


def pool(rows: F32, offsets: I64, weights: F32 | None, mode: Pool, out: F32) -> None:
    """Pool consecutive rows into bags, in the order of the rows.

    Args:
        rows: float32 (n, dim).
        offsets: int64 (bags + 1,), rising from 0 to n.
        weights: float32 (n,), of mode sum only.
        out: float32 (bags, dim).
    """
    with np.errstate(all="ignore"):
        _pool(rows, offsets, weights, mode, out)


def _pool(rows: F32, offsets: I64, weights: F32 | None, mode: Pool, out: F32) -> None:
    lengths = np.diff(offsets)
    if weights is not None:
        rows = weights[:, None] * rows
    out[:] = 0
    if mode == "max":
        _pool_max(rows, offsets, lengths, out)
        return
    for position in range(int(lengths.max(initial=0, where=lengths <= LONG_BAG))):
        bags = np.flatnonzero((lengths > position) & (lengths <= LONG_BAG))
        out[bags] += rows[offsets[bags] + position]
    for bag in np.flatnonzero(lengths > LONG_BAG):
        bag_rows = rows[offsets[bag] : offsets[bag + 1]]
        sums = np.add.accumulate(bag_rows, axis=0)  # one after the other, as above
        out[bag] += sums[-1]
    if mode == "mean":
        out /= np.maximum(lengths, 1).astype(np.float32)[:, None]


def _pool_max(rows: F32, offsets: I64, lengths: I64, out: F32) -> None:
    for position in range(int(lengths.max(initial=0))):
        bags = np.flatnonzero(lengths > position)
        row = rows[offsets[bags] + position]
        keep = (position > 0) & ~((row > out[bags]) | np.isnan(row))
        out[bags] = np.where(keep, out[bags], row)
