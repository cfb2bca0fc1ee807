"""Tables for the native kernels, and what the reference makes of them."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
from strategies import (
    AFFINE,
    BOOKED,
    CONSTANT,
    F16,
    F32,
    FEW_ENTRIES,
    INT8,
    ROW_BY_ROW,
    SEARCHED,
    SYMMETRIC,
    assert_same_values,
    padded,
    random_codebook,
    random_codes,
)

from sharkstore import kernels
from sharkstore.encodings import planes_for
from sharkstore.kernels import reference
from sharkstore.kernels.rowmap import build_rowmap
from sharkstore.quant.encode import fitted

MANY = [F32, F16, INT8, AFFINE[0], SYMMETRIC[1], AFFINE[1], CONSTANT]
# by name: every encoding alone, and every width of the row map
TIERS = {
    **{str(encoding): [encoding] for encoding in ROW_BY_ROW + BOOKED},
    "2 tiers": [F32, INT8],
    "3 tiers": [F16, AFFINE[0], SYMMETRIC[1]],
    "4 tiers": [INT8, F32, CONSTANT, AFFINE[1]],
    "5 tiers": [INT8, F16, F32, SYMMETRIC[1], INT8],
    "8 tiers": [*MANY, INT8],
    "few bits": [SEARCHED[0], F32, SEARCHED[4], INT8],
    "8 tiers of few bits": SEARCHED,
    "2 codebooks": [BOOKED[1], BOOKED[1]],
    "8 tiers with codebooks": [BOOKED[1], BOOKED[0], INT8, BOOKED[2], F32, *FEW_ENTRIES[1:]],
}
CANARY = np.float32(-1.5e33)
MARGIN = 32


@contextlib.contextmanager
def using(backend):
    """These kernels, and then those from before."""
    before = kernels.backend()
    kernels.use_backend(backend)
    try:
        yield
    finally:
        kernels.use_backend(before)


def make_view(encodings, rows, dim, seed=0, *, wild=False, tiers=None):
    """A table of random rows.

    Args:
        wild: of random bytes, which decode to anything; else of sane values of many sizes.
        tiers: each row's tier; drawn when left out.
    """
    rng = np.random.default_rng(seed)
    if tiers is None:
        tiers = rng.integers(len(encodings), size=rows).astype(np.uint8)
    held = []
    for index, encoding in enumerate(encodings):
        count = int((tiers == index).sum())
        stored_count = encoding.array_shape(count, dim)[0]
        codebook = random_codebook(encoding, dim, rng, wild=wild)
        if codebook is not None:
            made = encoding, random_codes(encoding, count, dim, rng, wild=wild)
        else:
            made = (random_bytes if wild else sane_rows)(encoding, stored_count, dim, rng)
        held.append(kernels.Tier(made[0], count, padded(made[1]), codebook))
    rowmap = None
    if len(held) > 1:
        rowmap = padded(build_rowmap(tiers, planes_for(len(held))))
    default = rng.normal(size=dim).astype(np.float32)
    return kernels.TableView(rows, dim, held, rowmap, default)


def random_bytes(encoding, count, dim, rng):
    """An encoding, and rows of it that need not have come from an encoder."""
    if encoding.packed and encoding.mode == "symmetric" and encoding.scale_dtype == "float16":
        encoding = replace(encoding, scale_exponent=int(rng.integers(-126, 127)))
    return encoding, rng.integers(0, 256, (count, encoding.row_bytes(dim)), np.uint8)


def sane_rows(encoding, count, dim, rng):
    """An encoding, and encoded rows of values from a thousandth to thousands, some of them -0."""
    values = rng.normal(size=(count, dim)) * 10.0 ** rng.integers(-3, 4, (count, 1))
    values[rng.random((count, dim)) < 0.05] = -0.0
    encoding = fitted(encoding, float(np.abs(values).max(initial=0)))
    return encoding, kernels.encode_rows(encoding, values.astype(np.float32))


def some_ids(rows, count, rng, dtype=np.int64, outside=0.05):
    """Ids of a table, a few of them outside it."""
    ids = rng.integers(max(rows, 1), size=count)
    info = np.iinfo(dtype)
    strangers = np.array([-1, rows, rows + 1, -rows - 1, info.min, info.max, info.max - 1])
    where = np.flatnonzero(rng.random(count) < (1 if rows == 0 else outside))
    ids[where] = rng.choice(strangers, len(where))
    return ids.astype(dtype)


def guarded_out(shape, shift=0):
    """An array to write into, and a check that nothing beside it was written.

    Args:
        shift: bytes that it lies off a multiple of 64.
    """
    count = int(np.prod(shape))
    held = np.full(count + 2 * MARGIN + 16, CANARY, np.float32)
    start = MARGIN + (-(held.ctypes.data + 4 * MARGIN) % 64 + shift) // 4
    out = held[start : start + count].reshape(shape)

    def check(what):
        assert (held[:start] == CANARY).all(), f"{what}: written in front of out"
        assert (held[start + count :] == CANARY).all(), f"{what}: written behind out"

    return out, check


def what_is_outside(ids, rows):
    """What a native call returns for ids of a sound table."""
    bad = np.flatnonzero((ids.reshape(-1) < 0) | (ids.reshape(-1) >= rows))
    return (len(bad), int(bad[0]), -1, 0, None, False) if len(bad) else None


def check_lookup(view, table, ids, what="", shift=0):
    """A lookup equals the reference's; `table` is the view, bound."""
    expected = np.empty((ids.size, view.dim), np.float32)
    reference.lookup(view, ids.reshape(-1).astype(np.int64), expected)
    out, check = guarded_out((*ids.shape, view.dim), shift)
    what = f"{kernels.backend()} {what} dim {view.dim} ids {ids.dtype} {ids.shape}"
    assert table.lookup(ids, out) == what_is_outside(ids, view.rows), what
    assert_same_values(out.reshape(expected.shape), expected, what)
    check(what)


def expected_bags(view, ids, offsets, weights, mode, padding):
    """Bags by the reference; offsets (bags + 1,)."""
    keep = ids != padding if padding >= 0 else np.ones(len(ids), bool)
    kept = np.concatenate([[0], np.cumsum(keep)])[offsets]
    expected = np.empty((len(offsets) - 1, view.dim), np.float32)
    chosen = None if weights is None else weights[keep]
    reference.embedding_bag(view, ids[keep].astype(np.int64), kept, chosen, mode, expected)
    return expected


def check_bags(view, table, ids, offsets, mode="sum", weights=None, padding=-1, what=""):
    """Bags equal the reference's, with and without the last offset.

    Args:
        ids: (n,), or (bags, ids a bag) with offsets None.
        offsets: int64 (bags + 1,).
    """
    what = f"{kernels.backend()} {what} dim {view.dim} {mode} ids {ids.dtype} {ids.shape}"
    options = (kernels.POOLS[mode], padding)
    if offsets is None:
        whole = np.arange(len(ids) + 1) * ids.shape[1]
        calls = [(None, False)]
    else:
        whole = offsets
        calls = [(offsets, True)] + [(offsets[:-1].copy(), False)] * (len(offsets) > 1)
    expected = expected_bags(view, ids.reshape(-1), whole, weights, mode, padding)
    for starts, last in calls:
        out, check = guarded_out(expected.shape)
        found = table.embedding_bag(ids, starts, weights, last, *options, out)
        assert found == what_is_outside(ids, view.rows), what
        assert_same_values(out, expected, what)
        check(what)
