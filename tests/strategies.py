"""Builders and strategies that tests share, and a decoder in plain Python."""

import json
import math
import struct

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sharkstore.convert import convert_checkpoint
from sharkstore.encodings import SPELLED, Encoding, parse_encoding, planes_for
from sharkstore.format.layout import ArraySpec, array_spec
from sharkstore.format.metadata import TableMetadata, TierMetadata
from sharkstore.kernels import TableView, Tier, build_rowmap, decode_rows, encode_rows
from sharkstore.load.table import Table
from sharkstore.quant.encode import fitted

F32, F16, INT8 = Encoding("f32"), Encoding("f16"), Encoding("int8")
CONSTANT = Encoding("constant")
PACKED = [one for one in SPELLED if one.packed]
SYMMETRIC = [one for one in PACKED if one.mode == "symmetric"]
AFFINE = [one for one in PACKED if one.mode == "affine"]
SEARCHED = [one for one in PACKED if one.bits < 8]  # their scales are searched for
SYMMETRIC8 = [one for one in SYMMETRIC if one.bits == 8]
AFFINE8 = [one for one in AFFINE if one.bits == 8]
FEW_ENTRIES = [parse_encoding(text) for text in ("pq4.1", "pq2.7", "pq8.16.f32", "pq4.255.f32")]
BOOKED = [*(one for one in SPELLED if one.name == "pq"), *FEW_ENTRIES]
ROW_BY_ROW = [one for one in SPELLED if one.name != "pq"]  # a row alone says how it is stored


# --- rows ------------------------------------------------------------------------------------


def random_rows(rows, dim, seed=0, scale=1.0):
    """Normally distributed rows."""
    drawn = np.random.default_rng(seed).normal(size=(rows, dim)) * scale
    return drawn.astype(np.float32)


def exact_rows(rows, dim, seed=0):
    """Rows that f32, f16 and int8 all hold exactly: integers, 127 the largest of each row."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, (rows, dim)).astype(np.float32)
    values[np.arange(rows), rng.integers(dim, size=rows)] = 127
    return values


def kinds_of_rows(dim):
    """Rows that encoders stumble over, by name; float16 holds them all."""
    normal = random_rows(20, dim)
    sizes = np.float32(10.0) ** -np.arange(20, dtype=np.float32)
    spike = random_rows(8, dim, scale=1e-3)
    spike[:, 0] = 60000
    return {
        "normal": normal,
        "zero": np.zeros((3, dim), np.float32),
        "minus zero": -np.zeros((3, dim), np.float32),
        "one huge value": spike,
        "tiny": normal * np.float32(1e-5),
        "subnormal": normal * np.float32(1e-40),
        "least subnormal": np.full((2, dim), 2.0**-149, np.float32),
        "equal": np.repeat(normal[:, :1], dim, axis=1),
        "positive": np.abs(normal) + np.float32(3),
        "of very different sizes": normal * sizes[:, None],
    }


def assert_same_bits(got, expected):
    """Same shape, and equal bit for bit: -0 is not +0."""
    assert got.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def assert_same_values(got, expected, what=""):
    """Same shape, and equal bit for bit; NaN equals NaN, whatever its bits."""
    assert got.dtype == expected.dtype == np.float32
    assert got.shape == expected.shape
    same = got.view(np.uint32) == expected.view(np.uint32)
    if not same.all():
        same |= np.isnan(got) & np.isnan(expected)
        at = tuple(int(i[0]) for i in np.nonzero(~same)) if not same.all() else None
        assert at is None, f"{what}: {got[at]!r} at {at}, expected {expected[at]!r}"


def random_codebook(encoding, dim, rng, *, wild=False):
    """The codebook of a pq tier, None of others.

    Args:
        wild: of random bits, else of sane values.
    """
    if encoding.name != "pq":
        return None
    shape = encoding.codebook_shape(dim)
    if not wild:
        return rng.normal(size=shape).astype(encoding.book_dtype)
    bits = rng.integers(0, 256, (*shape[:2], shape[2] * encoding.book_dtype.itemsize), np.uint8)
    return bits.view(encoding.book_dtype)


def random_codes(encoding, count, dim, rng, *, wild=False):
    """Rows of a pq tier, uint8 (count, codes a row); wild ones name entries that there are not."""
    shape = (count, encoding.row_bytes(dim))
    return rng.integers(0, 256 if wild else encoding.entries, shape, np.uint8)


def decode_slowly(encoding, stored, dim, codebook=None):
    """One row from its bytes, value by value: a list of floats that float32 holds exactly."""
    if encoding.name == "pq":
        entries = [
            codebook[block][code].tolist() if code < encoding.entries else [0.0] * encoding.sub
            for block, code in enumerate(stored)
        ]
        return [value for entry in entries for value in entry][:dim]
    if encoding.name == "f16":
        return list(struct.unpack(f"<{dim}e", stored))
    if not encoding.packed:
        return list(struct.unpack(f"<{dim}f", stored))
    kind = {"float16": "e", "float32": "f"}[encoding.scale_dtype]
    codes = codes_slowly(encoding, stored[encoding.header_bytes :], dim)
    if encoding.mode == "symmetric":
        (scale,) = struct.unpack_from(f"<{kind}", stored)
        step = round_to_float32(scale * 2.0**-encoding.scale_exponent)
        return [round_to_float32(code * step) for code in codes]
    scale, bias = struct.unpack_from(f"<{kind}{kind}", stored)
    return [round_to_float32(round_to_float32(code * scale) + bias) for code in codes]


def encode_slowly(codebook, row):
    """The codes of one row of a pq tier without a metric, a number after the other."""
    blocks, entries, sub = codebook.shape
    r, book = round_to_float32, codebook.astype(np.float32).tolist()
    row = row + [None] * (blocks * sub - len(row))
    codes = []
    for vectors, values in zip(book, zip(*[iter(row)] * sub, strict=True), strict=True):
        center = [0.0] * sub
        for vector in vectors:
            center = [r(c + v) for c, v in zip(center, vector, strict=True)]
        center = [r(c / entries) for c in center]
        away = [0.0 if x is None else r(x - c) for x, c in zip(values, center, strict=True)]
        scores = []
        for vector in vectors:
            centred = [r(v - c) for v, c in zip(vector, center, strict=True)]
            square = 0.0
            for c in centred:
                square = r(square + r(c * c))
            score = r(0.5 * square)
            for x, c in zip(away, centred, strict=True):
                score = r(score - r(x * c))
            scores.append(score)
        codes.append(scores.index(min(scores)))
    return codes


def codes_slowly(encoding, stored, dim):
    """The codes of one row: integers."""
    if encoding.bits == 8:
        return list(struct.unpack(f"<{dim}{'b' if encoding.mode == 'symmetric' else 'B'}", stored))
    number = int.from_bytes(stored, "little")
    levels = 2**encoding.bits
    offset = levels // 2 if encoding.mode == "symmetric" else 0
    return [(number >> encoding.bits * j) % levels - offset for j in range(dim)]


def round_to_float32(value):
    """The nearest float32: a double holds products of two float32 exactly, and sums well enough."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


# --- tables and stores -----------------------------------------------------------------------

READ_PAST_END = 64


def padded(array):
    """The same array with as many readable bytes behind it as kernels may read."""
    array = np.ascontiguousarray(array)
    memory = np.full(array.nbytes + READ_PAST_END, 0xA5, np.uint8)
    copy = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


SAMPLE = {
    "emb.user.weight": exact_rows(200, 7, seed=1),
    "emb.item.weight": exact_rows(130, 16, seed=2),
    "emb.tiny.weight": exact_rows(1, 2, seed=3),
    "mlp.weight": random_rows(3, 5, seed=4),
    "mlp.bias": random_rows(1, 3, seed=5)[0],
}
SAMPLE_TIERS = "f32=10%,f16=20%,int8=rest"


def memory_table(values, encodings=(F32,), tiers=None, *, default=None, bounds="raise"):
    """A table that lies in memory, and its rows as they come back from their tiers.

    Args:
        tiers: each row's tier (rows,); all 0 when left out.
    """
    rows, dim = values.shape
    tiers = np.zeros(rows, np.uint8) if tiers is None else np.asarray(tiers, np.uint8)
    decoded = np.empty_like(values)
    held, described = [], []
    for index, plain in enumerate(encodings):
        chosen = tiers == index
        encoding = fitted(plain, float(np.abs(values[chosen]).max(initial=0)))
        count, rng = int(chosen.sum()), np.random.default_rng(index)
        codebook = random_codebook(encoding, dim, rng)
        if codebook is not None:
            stored = random_codes(encoding, count, dim, rng)
        elif encoding.name == "constant":
            stored = encode_rows(encoding, np.full((1, dim), 0.1, np.float32))
        else:
            stored = encode_rows(encoding, values)[chosen]
        decoded[chosen] = decode_rows(encoding, stored, dim, codebook)
        held.append(Tier(encoding, count, padded(stored), codebook))
        described.append(tier_metadata(encoding, count, dim, index))
    rowmap = padded(build_rowmap(tiers, planes_for(len(held)))) if len(held) > 1 else None
    row = np.zeros(dim, np.float32) if default is None else default
    view = TableView(rows, dim, held, rowmap, row)
    metadata = TableMetadata("emb", "tables/emb", rows, dim, "float32", tuple(described), None)
    return Table(metadata, view, bounds), decoded


def tier_metadata(encoding, count, dim, index):
    """What a store would say of a tier of the table `emb`."""
    path = f"tables/emb/{index}"
    array = array_spec(path, encoding.array_shape(count, dim), encoding.array_dtype)
    codebook = None
    if encoding.name == "pq":
        shape = encoding.codebook_shape(dim)
        codebook = ArraySpec(f"{path}.codebook", shape, encoding.book_dtype, shape[0])
    return TierMetadata(encoding, count, array, codebook)


def make_store(folder, tensors, stats=None, **options):
    """Write tensors to a checkpoint in `folder` and convert it; the store's path.

    Args:
        stats: arrays by key of the stats file.
    """
    checkpoint = folder / "model.safetensors"
    save_file(tensors, checkpoint)
    if stats is not None:
        options["stats"] = folder / "stats.safetensors"
        save_file(stats, options["stats"])
    path = folder / "model.shark"
    convert_checkpoint(checkpoint, path, **options)
    return path


def edit_document(path, change):
    """Rewrite a store's root document: `change` is given the parsed one and alters it."""
    root = path / "zarr.json"
    document = json.loads(root.read_bytes())
    change(document)
    root.write_text(json.dumps(document))


# --- strategies ------------------------------------------------------------------------------


@st.composite
def tiered_tables(draw, max_rows=60, max_dim=20, bounds="raise"):
    """A table in memory over 1 to 8 tiers of any encodings, and its rows as they come back."""
    rows = draw(st.integers(1, max_rows))
    dim = draw(st.integers(1, max_dim))
    encodings = draw(st.lists(st.sampled_from(ROW_BY_ROW + BOOKED), min_size=1, max_size=8))
    seed = draw(st.integers(0, 2**32 - 1))
    tiers = np.random.default_rng(seed).integers(len(encodings), size=rows)
    scale = draw(st.sampled_from([1e-5, 1.0, 100.0]))
    return memory_table(random_rows(rows, dim, seed, scale), encodings, tiers, bounds=bounds)
