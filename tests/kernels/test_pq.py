"""Codes of product quantisation: the definition, and native kernels that equal it bit for bit."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import random_rows
from views import using

from sharkstore import kernels
from sharkstore.encodings import Encoding, planes_for
from sharkstore.kernels import Codebook, pq
from sharkstore.kernels.pq import metric_blocks

F = np.float32
SUBS = [2, 4, 8]
DIMS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 1023, 1024]
ROWS = [0, 1, 3, 15, 16, 17, 31, 32, 33, 100]
PROGRAM = Path(__file__).parent.parent / "pq_guards.py"

every_backend = pytest.mark.parametrize("backend", kernels.backends())
every_sub = pytest.mark.parametrize("sub", SUBS)
with_and_without_metric = pytest.mark.parametrize("metric", [False, True], ids=["plain", "metric"])


def metric_of(dim, seed=0):
    factor = np.random.default_rng(seed).normal(size=(dim, dim))
    return (factor @ factor.T / dim + 0.1 * np.eye(dim)).astype(F)


def book_of(dim, sub, entries=256, *, metric=False, dtype="float16", seed=0, size=1.0):
    drawn = np.random.default_rng(seed).normal(size=(-(-dim // sub), entries, sub)) * size
    with np.errstate(over="ignore"):
        return Codebook.of(drawn.astype(dtype), metric_of(dim) if metric else None, dim)


def encoding_of(book):
    _, entries, sub = book.entries.shape
    return Encoding("pq", sub=sub, entries=entries, codebook_dtype=str(book.entries.dtype))


def assert_encodes_as_the_reference(book, rows):
    expected = pq.encode(book, rows)
    held = np.full((len(rows) + 1, expected.shape[1]), 0xA5, np.uint8)
    kernels.encode_rows(encoding_of(book), rows, held[:-1], book)
    np.testing.assert_array_equal(held[:-1], expected)
    assert (held[-1] == 0xA5).all()  # nothing behind the rows is touched


# --- the definition --------------------------------------------------------------------------


def slowly(entries, metric, row):
    """Codes of one row, a number at a time."""
    blocks, count, sub = entries.shape
    padded = np.zeros(blocks * sub, F)
    inner = np.eye(blocks * sub, dtype=F)
    if metric is not None:
        inner[:] = 0
        inner[: len(row), : len(row)] = metric
    codes = []
    for b in range(blocks):
        g = inner[b * sub : (b + 1) * sub, b * sub : (b + 1) * sub]
        c = entries[b].astype(F)
        center = []
        for d in range(sub):
            total = F(0)
            for k in range(count):
                total = total + c[k, d]
            center.append(total / F(count))
            if b * sub + d < len(row):
                padded[b * sub + d] = row[b * sub + d] - center[d]
        z = padded[b * sub : (b + 1) * sub]
        target = [product(g[d], z, metric is None, d) for d in range(sub)]
        best, code = F(np.inf), 0
        for k in range(count):
            off = [c[k, d] - center[d] for d in range(sub)]
            half = F(0)
            for d in range(sub):
                half = half + off[d] * product(g[d], off, metric is None, d)
            score = F(0.5) * half
            for d in range(sub):
                score = score - target[d] * off[d]
            if score < best:
                best, code = score, k
        codes.append(code)
    return codes


def product(line, values, plain, d):
    if plain:
        return values[d]
    total = F(0)
    for weight, value in zip(line, values, strict=True):
        total = total + weight * value
    return total


@every_sub
@with_and_without_metric
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 12),
    entries=st.integers(1, 9),
    size=st.sampled_from([1e-42, 1e-20, 1.0, 1e4, 1e18, 1e30]),
)
def test_codes_are_chosen_as_the_specification_tells(metric, sub, seed, dim, entries, size):
    book = book_of(dim, sub, entries, metric=metric, dtype="float32", seed=seed, size=size)
    row = random_rows(1, dim, seed, scale=size)
    inner = metric_of(dim) if metric else None
    with np.errstate(all="ignore"):
        expected = slowly(book.entries, inner, row[0])
    assert pq.encode(book, row)[0].tolist() == expected


@every_sub
@pytest.mark.parametrize("dim", [1, 5, 16, 33])
@with_and_without_metric
def test_no_entry_is_nearer_than_the_one_chosen(metric, sub, dim):
    book = book_of(dim, sub, 50, metric=metric)
    rows = random_rows(200, dim)
    codes = pq.encode(book, rows)
    blocks = len(book.entries)
    inner = np.eye(dim, dtype=F) if not metric else metric_of(dim)
    inner = metric_blocks(inner, blocks, sub).astype(float)
    padded = np.zeros((len(rows), blocks * sub))
    padded[:, :dim] = rows
    for b in range(blocks):
        off = padded[:, None, b * sub : (b + 1) * sub] - book.values[b]
        if not metric and (b + 1) * sub > dim:  # what is behind a row's end counts as the center
            off[..., dim - (b + 1) * sub :] = (book.center[b] - book.values[b])[
                :, dim - (b + 1) * sub :
            ]
            inner[b] = np.eye(sub)
        squares = np.einsum("nkd,de,nke->nk", off, inner[b], off)
        chosen = squares[np.arange(len(rows)), codes[:, b]]
        assert (chosen <= squares.min(axis=1) + 1e-5 * squares.max()).all()


def test_entries_themselves_are_found_again():
    book = book_of(16, 4, 256)
    codes = np.random.default_rng(1).integers(0, 256, (500, 4), dtype=np.uint8)
    np.testing.assert_array_equal(pq.encode(book, pq.decode(book, codes, 16)), codes)


def test_of_equal_entries_the_first_is_chosen():
    entries = np.repeat(random_rows(8, 4)[None, :, :], 2, axis=0)
    entries = np.concatenate([entries, entries[:, ::-1]], axis=1)
    book = Codebook.of(entries, None, 8)
    assert pq.encode(book, random_rows(300, 8)).max() < 8


def test_codes_past_the_entries_give_zeros():
    book = book_of(5, 2, 3)
    rows = pq.decode(book, np.array([[0, 3, 255], [9, 2, 1]], np.uint8), 5)
    np.testing.assert_array_equal(rows[0, 2:], 0)
    np.testing.assert_array_equal(rows[1, :2], 0)
    np.testing.assert_array_equal(rows[0, :2], book.values[0, 0])
    np.testing.assert_array_equal(rows[1, 2:], [*book.values[1, 2], book.values[2, 1, 0]])


# --- native kernels --------------------------------------------------------------------------


@every_backend
@every_sub
@pytest.mark.parametrize("dim", DIMS)
@with_and_without_metric
def test_rows_of_any_length_are_encoded_as_by_the_reference(metric, dim, sub, backend):
    book = book_of(dim, sub, 256 if dim < 100 else 17, metric=metric)
    with using(backend):
        assert_encodes_as_the_reference(book, random_rows(37, dim))


@every_backend
@pytest.mark.parametrize("count", ROWS)
def test_any_number_of_rows_is_encoded_as_by_the_reference(count, backend):
    with using(backend):
        assert_encodes_as_the_reference(book_of(10, 4, 30), random_rows(count, 10))


@every_backend
@every_sub
@pytest.mark.parametrize("entries", [1, 2, 3, 15, 16, 17, 255, 256])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_any_number_of_entries_is_searched_as_by_the_reference(dtype, entries, sub, backend):
    with using(backend):
        book = book_of(13, sub, entries, dtype=dtype)
        assert_encodes_as_the_reference(book, random_rows(50, 13))


@every_backend
@every_sub
@with_and_without_metric
@pytest.mark.parametrize("size", [0, 1e-45, 1e-38, 1e-20, 1e10, 1e18, 1e19, 1e20, 3e37])
def test_scores_at_the_ends_of_float32_are_as_by_the_reference(size, metric, sub, backend):
    rows = random_rows(60, 9) * F(size)
    with using(backend):
        assert_encodes_as_the_reference(book_of(9, sub, 40, metric=metric), rows)
        wide = book_of(9, sub, 40, metric=metric, dtype="float32", size=size)
        assert_encodes_as_the_reference(wide, rows)


@every_backend
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 3e38])
def test_equal_rows_and_equal_entries_are_encoded_as_by_the_reference(value, backend):
    rows = np.full((40, 6), value, F)
    with using(backend):
        for entries in (np.full((2, 9, 4), value, F), np.full((2, 9, 4), -value, F)):
            with np.errstate(over="ignore"):
                book = Codebook.of(entries, None, 6)
            assert_encodes_as_the_reference(book, rows)
        assert_encodes_as_the_reference(book_of(6, 4), rows)


@every_backend
@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_entries_that_are_not_finite_are_scored_as_by_the_reference(odd, backend):
    entries = np.random.default_rng(0).normal(size=(4, 30, 4)).astype(np.float16)
    entries[0, 3] = odd
    entries[1, :, 2] = odd
    entries[2] = odd
    with using(backend):
        assert_encodes_as_the_reference(Codebook.of(entries, None, 16), random_rows(40, 16))


values = st.floats(width=32, allow_nan=False, allow_infinity=False)
few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0])


@every_backend
@every_sub
@given(data=st.data(), dim=st.integers(1, 20), entries=st.integers(1, 20), wild=st.booleans())
def test_any_rows_and_any_codebook_are_encoded_as_by_the_reference(
    backend, sub, data, dim, entries, wild
):
    number = values if wild else few
    stored = data.draw(arrays(F, (-(-dim // sub), entries, sub), elements=number))
    rows = data.draw(arrays(F, (data.draw(st.integers(0, 20)), dim), elements=number))
    metric = data.draw(st.none() | arrays(F, (dim, dim), elements=number))
    with using(backend):
        assert_encodes_as_the_reference(Codebook.of(stored, metric, dim), rows)


@every_backend
@pytest.mark.parametrize("count", [1, 2, 5])
def test_rows_of_one_tier_are_encoded_as_by_the_reference(count, backend):
    rows, book = random_rows(500, 10), book_of(10, 4, 99)
    tiers = (np.random.default_rng(count).integers(0, count, 500)).astype(np.uint8)
    rowmap = kernels.build_rowmap(tiers, planes_for(count)) if count > 1 else None
    with using(backend):
        for tier in range(count):
            expected = pq.encode(book, rows[tiers == tier])[7:]
            out = np.zeros((len(expected) + 3, 3), np.uint8)
            done = kernels.encode_tier(encoding_of(book), rows, rowmap, tier, 7, out, book)
            assert done == len(expected)
            np.testing.assert_array_equal(out[:done], expected)


@every_backend
def test_rows_out_of_place_in_memory_are_encoded(backend):
    book, wide = book_of(8, 4), random_rows(50, 16).astype(np.float64)
    with using(backend):
        got = kernels.encode_rows(encoding_of(book), wide[:, ::2], codebook=book)
    np.testing.assert_array_equal(got, pq.encode(book, wide[:, ::2].astype(F)))


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "book"),
    [
        (Encoding("pq", sub=4, entries=256), None),
        (Encoding("pq", sub=2, entries=256), book_of(16, 4)),
        (Encoding("pq", sub=8, entries=256), book_of(16, 4)),
        (Encoding("pq", sub=4, entries=256), book_of(12, 4)),
        (Encoding("pq", sub=4, entries=256), book_of(20, 4)),
    ],
    ids=["none", "of longer codes", "of shorter codes", "of shorter rows", "of longer rows"],
)
def test_a_codebook_of_another_shape_is_refused(encoding, book):
    out = np.zeros((3, -(-16 // encoding.sub)), np.uint8)
    with pytest.raises(ValueError, match="codebook"):
        kernels.encode_rows(encoding, random_rows(3, 16), out, book)
    with pytest.raises(ValueError, match="codebook"):
        kernels.encode_tier(encoding, random_rows(3, 16), None, 0, 0, out, book)
    with pytest.raises(ValueError, match="codebook"):
        kernels.distortions(encoding, random_rows(3, 16), codebook=book)


@every_backend
def test_nothing_beside_an_array_is_touched(backend):
    command = [sys.executable, "-X", "faulthandler", str(PROGRAM), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
