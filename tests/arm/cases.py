"""Cases for kernels of another machine: `python cases.py FILE` writes what driver.cpp reads.

All numbers are little-endian. A case is its kind (a letter), its name, and what its kind has; a
blob is its length in bytes and those bytes:

    T  a table, for the cases behind it
    L  a lookup: ids, the rows expected, and what is to be found wrong
    B  bags: ids, offsets, weights, how to pool, the bags expected
    R  a request: tables, how each is pooled, ids, offsets, weights, the bags and the rows expected
    E  rows to encode: values, encoding, the bytes expected
    P  the same for a part of one tier: row map, tier, how many to skip and to give
    M  rows to measure: values, row map, which tiers by range, the sizes expected
    D  rows to tell how far they are from what is served: values, encoding, codebook, factor, the
       row that is served for all, the bytes and the distances expected
"""

import struct
import sys

import numpy as np
from guards import forgeries
from strategies import ROW_BY_ROW
from views import TIERS, expected_bags, make_view, some_ids, what_is_outside

from sharkstore import kernels
from sharkstore.encodings import SPELLED, Encoding
from sharkstore.kernels import Codebook, Factor, distortion, pq, reference, request, rounding
from sharkstore.kernels.codebooks import full_codebook
from sharkstore.kernels.native import KINDS, PQ_KINDS
from sharkstore.kernels.rowmap import build_rowmap

DIMS = [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 20, 24, 32, 33, 48, 64, 96, 100, 128, 130, 256, 300]
ROWS = 130
EXPONENTS = 278
NOTHING_WRONG = (0, 0, -1, 0)
DTYPES = [np.int64, np.int32]


def kind_of(encoding):
    if encoding.name == "pq":
        return PQ_KINDS[encoding.sub, encoding.codebook_dtype]
    return KINDS[encoding.name, encoding.mode, encoding.scale_dtype]


class Cases:
    """Writes cases to a file."""

    def __init__(self, file):
        self.file = file

    def numbers(self, *values):
        self.file.write(struct.pack(f"<{len(values)}q", *values))

    def blob(self, data):
        data = b"" if data is None else bytes(memoryview(np.ascontiguousarray(data)).cast("B"))
        self.numbers(len(data))
        self.file.write(data)

    def begin(self, kind, name):
        self.numbers(ord(kind))
        self.blob(np.frombuffer(name.encode(), np.uint8))

    def table(self, name, view, said_bytes=0):
        self.begin("T", f"{name} dim {view.dim}")
        self.describe(view, said_bytes)

    def describe(self, view, said_bytes=0):
        self.numbers(view.rows, view.dim, said_bytes, len(view.tiers))
        for tier in view.tiers:
            encoding = tier.encoding
            self.numbers(kind_of(encoding), tier.rows, -encoding.scale_exponent, len(tier.data))
            self.blob(tier.data.reshape(-1) if tier.data.size else None)
            self.blob(None if tier.codebook is None else full_codebook(tier.codebook))
        self.blob(None if view.rowmap is None or not view.rowmap.size else view.rowmap)
        self.blob(view.default)

    def lookup(self, name, view, ids):
        """A lookup; of a damaged table, the slot that is to be found."""
        expected, wrong = np.empty((len(ids), view.dim), np.float32), NOTHING_WRONG
        if found := what_is_outside(ids, view.rows):
            wrong = found[:4]
        try:
            reference.lookup(view, ids.astype(np.int64), expected)
        except kernels.SlotError as error:
            expected, wrong = None, (*wrong[:2], error.row, error.tier)
        self.begin("L", f"{name} {ids.dtype} {len(ids)}")
        self.numbers(ids.itemsize, *wrong)
        self.blob(ids if len(ids) else None)
        self.blob(expected if expected is not None and expected.size else None)

    def bags(self, name, view, ids, offsets, mode, weights=None, padding=-1):
        """Bags, offsets (bags + 1,); of one length all told without offsets too."""
        expected = expected_bags(view, ids, offsets, weights, mode, padding)
        lengths = np.diff(offsets)
        for each in (-1, int(lengths[0])) if (lengths == lengths[0]).all() else (-1,):
            self.begin("B", f"{name} {mode} {ids.dtype} {len(ids)}")
            self.numbers(ids.itemsize, kernels.POOLS[mode], padding, len(lengths), each)
            self.blob(ids if len(ids) else None)
            self.blob(offsets[:-1])
            self.blob(weights)
            self.blob(expected)

    def request(self, name, features, ids, offsets, weights=None, *, stream=False):
        """Tables together, offsets (features * batch + 1,)."""
        batch = (len(offsets) - 1) // len(features)
        starts, wide = offsets[::batch].copy(), ids.astype(np.int64)
        dims = [one.table.dim for one in features]
        bags = np.empty((batch, sum(dims)), np.float32)
        request.embedding_bags(features, wide, offsets, weights, bags)
        rows = np.empty(np.diff(starts) @ dims, np.float32)
        request.lookups(features, wide, starts, rows)
        self.begin("R", f"{name} {ids.dtype} {len(ids)}")
        self.numbers(len(features))
        for one in features:
            self.describe(one.table)
            self.numbers(kernels.POOLS[one.mode], one.padding)
        self.numbers(ids.itemsize, batch, stream)
        for blob in (ids if len(ids) else None, offsets, weights, starts, bags, rows):
            self.blob(blob if blob is None or blob.size else None)

    def encode(self, name, encoding, rows):
        expected = reference.encode_rows(encoding, rows)
        self.begin("E", f"{name} {encoding} dim {rows.shape[1]}")
        self.numbers(kind_of(encoding), encoding.scale_exponent, *rows.shape)
        self.blob(rows)
        self.blob(expected)

    def encode_tier(self, encoding, rows, tiers, planes, tier, skip, wanted):
        chosen = rows[tiers == tier][skip : skip + wanted]
        self.begin("P", f"{encoding} dim {rows.shape[1]} tier {tier}")
        self.numbers(kind_of(encoding), encoding.scale_exponent, *rows.shape)
        self.numbers(planes, tier, skip, wanted, len(chosen))
        self.blob(rows)
        self.blob(build_rowmap(tiers, planes))
        self.blob(reference.encode_rows(encoding, chosen) if len(chosen) else None)

    def distort(self, encoding, rows, factor, book, stand_in):
        stored, parts = None, [None] * 5
        if book is not None:
            stored = pq.encode(book, rows)
            parts = [book.terms, book.center, book.values, book.order, book.root]
        elif factor is not None and encoding.packed:
            stored = rounding.encode(encoding, rows, factor)[0]
        parts += [None] * 3 if factor is None else [factor.order, factor.feed, factor.diagonal]
        plain = factor is None
        self.begin("D", f"{encoding} dim {rows.shape[1]} root {0 if plain else factor.root.ndim}")
        self.numbers(kind_of(encoding), encoding.scale_exponent, *rows.shape)
        self.numbers(encoding.entries, not plain and factor.root.ndim == 1)
        for one in (rows, *parts, stand_in, stored):
            self.blob(one)
        self.blob(distortion.distortions(encoding, rows, factor, book, stand_in))

    def measure(self, rows, tiers, planes, ranged):
        largest, sizes = np.zeros(8, np.float32), np.zeros((8, EXPONENTS), np.uint32)
        by_range = (ranged >> tiers & 1).astype(bool)
        top = np.abs(rows).max(axis=1)
        with np.errstate(invalid="ignore"):
            size = np.where(by_range, rows.max(axis=1) - rows.min(axis=1), top)
            np.maximum.at(largest, tiers, top)
        some = size > 0
        np.add.at(sizes, (tiers[some], np.frexp(size[some])[1] + 148), 1)
        self.begin("M", f"dim {rows.shape[1]} ranged {ranged}")
        self.numbers(*rows.shape, planes, ranged, int(np.isfinite(rows).all()))
        self.blob(rows)
        self.blob(build_rowmap(tiers, planes))
        self.blob(largest)
        self.blob(sizes)


def add_lookups(cases, rng):
    for index, (name, encodings) in enumerate(TIERS.items()):
        for wild in (False, True):
            for dim in DIMS:
                view = make_view(encodings, ROWS, dim, seed=dim, wild=wild)
                large = (dim + index) % 3 == 0  # said to be large, it is looked up past the cache
                cases.table(name, view, said_bytes=large << 40)
                for dtype in DTYPES:
                    count = int(rng.choice([7, 33, 64, 90]))
                    cases.lookup(name, view, some_ids(ROWS, count, rng, dtype))
                ids = some_ids(ROWS, 60, rng, DTYPES[dim % 2])
                offsets = np.concatenate([[0, 0], np.sort(rng.integers(0, 61, 8)), [60]])
                for mode in kernels.POOLS:
                    cases.bags(name, view, ids, offsets, mode, padding=int(rng.integers(-1, ROWS)))
                weights = rng.normal(size=60).astype(np.float32)
                cases.bags(name, view, ids, offsets, "sum", weights)


def add_requests(cases, rng):
    for turn in range(40):
        names = rng.choice(list(TIERS), 1 + turn % 9)
        features = [
            kernels.Feature(
                make_view(TIERS[name], ROWS, int(rng.choice(DIMS)), seed=turn + i),
                "sum" if turn % 2 else str(rng.choice(list(kernels.POOLS))),
                int(rng.integers(-1, 3)),
            )
            for i, name in enumerate(names)
        ]
        longest, batch = int(rng.choice([1, 2, 40])), int(rng.choice([1, 5, 30]))
        offsets = np.concatenate([[0], rng.integers(0, longest + 1, len(features) * batch)])
        offsets = np.cumsum(offsets)
        ids = some_ids(ROWS, offsets[-1], rng, DTYPES[turn % 2])
        weights = rng.normal(size=len(ids)).astype(np.float32) if turn % 2 else None
        cases.request("request", features, ids, offsets, weights, stream=turn % 3 == 0)


def add_sizes(cases, rng):
    for name, encodings in TIERS.items():
        for rows in (0, 1, 64, 65, 300):
            view = make_view(encodings, rows, 16, seed=rows)
            cases.table(name, view)
            for count in (0, 1, 8, 9, 127, 128, 129, 160, 191, 193, 257, 600):
                ids = some_ids(rows, count, rng)
                cases.lookup(name, view, ids)
                cases.bags(name, view, ids, np.array([0, count // 3, count]), "mean", padding=3)
    view = make_view(TIERS["4 tiers"], 300, 16)
    cases.table("one length", view)
    for each in (0, 1, 20, 200):
        ids = some_ids(300, 7 * each, rng)
        cases.bags("one length", view, ids, np.arange(8) * each, "max")
    view = make_view(TIERS["2 tiers"], 300, 16)
    cases.table("large", view, said_bytes=1 << 40)
    cases.lookup("large", view, some_ids(300, 17_000, rng))


def add_values(cases):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 256)
    tier = kernels.Tier(Encoding("f16"), len(halves), halves)
    view = kernels.TableView(len(halves), 128, [tier], None, np.zeros(128, np.float32))
    cases.table("every float16", view)
    cases.lookup("every float16", view, np.arange(len(halves)))


def add_forged(cases, rng):
    for name in ("2 tiers", "3 tiers", "8 tiers"):
        view = make_view(TIERS[name], ROWS, 16)
        sound = view.rowmap.copy()
        for rowmap in forgeries(view, rng):
            view.rowmap[:] = rowmap
            cases.table(f"{name}, forged", view)
            cases.lookup("forged", view, some_ids(ROWS, 90, rng))
        view.rowmap[:] = sound


def between_codes(encoding, rows, rng):
    """Rows of the same scales, whose other values lie in the middle between two codes, or next
    to it: there a rounding error shows."""
    stored = reference.encode_rows(encoding, rows)
    head = np.ascontiguousarray(stored[:, : encoding.header_bytes]).view(encoding.scale_dtype)
    with np.errstate(all="ignore"):
        step = head[:, :1].astype(np.float32) * np.float32(2.0**-encoding.scale_exponent)
        affine = encoding.mode == "affine"
        last = 2**encoding.bits - 1 if affine else 2 ** (encoding.bits - 1) - 1
        codes = rng.integers(0 if affine else -last, last, rows.shape) + np.float32(0.5)
        middle = codes.astype(np.float32) * step
        if affine:
            middle += head[:, 1:].astype(np.float32)
        towards = rng.choice([-np.inf, np.inf], rows.shape).astype(np.float32)
        near = np.where(rng.random(rows.shape) < 0.5, middle, np.nextafter(middle, towards))
    between = np.clip(near, rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True))
    for extreme in (rows.argmin(axis=1), rows.argmax(axis=1)):
        between[np.arange(len(rows)), extreme] = rows[np.arange(len(rows)), extreme]
    return np.where(np.isfinite(between), between, 0).astype(np.float32)


def add_encodings(cases, rng):
    for encoding in ROW_BY_ROW:
        if encoding.name == "constant":
            continue
        for dim in DIMS:
            sizes = 10.0 ** rng.integers(-6, 4, (37, 1))
            rows = (rng.normal(size=(37, dim)) * sizes).astype(np.float32)
            rows[3], rows[4], rows[5] = 0, -0.0, rows[5, :1]
            rows[6] *= 1e-38
            scaled = encoding.packed and str(encoding) == encoding.name
            for exponent in (0, 9, -7) if scaled else (0,):
                exact = Encoding(encoding.name, encoding.mode, encoding.scale_dtype, exponent)
                cases.encode("rows", exact, rows)
                if exact.packed:
                    cases.encode("between codes", exact, between_codes(exact, rows, rng))


def add_distortions(cases, rng):
    for encoding in SPELLED[1:]:
        for dim in (1, 4, 7, 16, 33, 100):
            rows = rng.normal(size=(37, dim)).astype(np.float32)
            rows[3], rows[4], rows[5] = 0, rows[4, :1], 3e38
            root = np.triu(rng.normal(size=(dim, dim))).astype(np.float32)
            stand_in = rows[0] if encoding.name == "constant" else None
            sub = encoding.sub or 1
            blocks = rng.permutation(-(-dim // sub))
            order = [d for b in blocks for d in range(b * sub, min(b * sub + sub, dim))]
            for one in (None, root[0], root):
                factor, book = None if one is None else Factor.of(np.array(order), one, sub), None
                if encoding.name == "pq":
                    entries = rng.normal(size=encoding.codebook_shape(dim))
                    book = Codebook.of(entries.astype(encoding.book_dtype), dim, factor)
                cases.distort(encoding, rows, factor, book, stand_in)


def add_parts_and_sizes(cases, rng):
    for dim in DIMS:
        rows = rng.normal(size=(170, dim)) * 10.0 ** rng.integers(-30, 30, (170, 1))
        rows = rows.astype(np.float32)
        rows[5] = 0
        for planes in (1, 2, 3):
            tiers = rng.integers(2**planes, size=170).astype(np.uint8)
            for ranged in (0, 1, 5, 255):
                cases.measure(rows, tiers, planes, ranged)
            for encoding in (Encoding("f32"), Encoding("int8", "affine"), Encoding("int4")):
                sane = np.clip(rows, -1000, 1000)
                for tier, skip, wanted in ((0, 0, 170), (1, 3, 170), (2**planes - 1, 2, 9)):
                    cases.encode_tier(encoding, sane, tiers, planes, tier, skip, wanted)
        rows[100, dim // 2] = rng.choice([np.nan, np.inf, -np.inf])
        cases.measure(rows, tiers, 3, 0)


def main(path):
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        cases = Cases(file)
        add_lookups(cases, rng)
        add_requests(cases, rng)
        add_sizes(cases, rng)
        add_values(cases)
        add_forged(cases, rng)
        add_encodings(cases, rng)
        add_parts_and_sizes(cases, rng)
        add_distortions(cases, rng)


if __name__ == "__main__":
    main(sys.argv[1])
