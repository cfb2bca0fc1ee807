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
from sharkstore.kernels import Codebook, Factor, distortion, pq
from sharkstore.quant.metric import factor

F = np.float32
SUBS = [2, 4, 8]
DIMS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 1023, 1024]
ROWS = [0, 1, 3, 15, 16, 17, 31, 32, 33, 100]
PROGRAM = Path(__file__).parent.parent / "pq_guards.py"

every_backend = pytest.mark.parametrize("backend", kernels.backends())
every_sub = pytest.mark.parametrize("sub", SUBS)
with_and_without_metric = pytest.mark.parametrize("metric", [False, True], ids=["plain", "metric"])


def metric_of(dim, seed=0):
    drawn = np.random.default_rng(seed).normal(size=(dim, dim))
    return (drawn @ drawn.T / dim + 0.1 * np.eye(dim)).astype(F)


def book_of(dim, sub, entries=256, *, metric=False, dtype="float16", seed=0, size=1.0):
    drawn = np.random.default_rng(seed).normal(size=(-(-dim // sub), entries, sub)) * size
    with np.errstate(over="ignore"):
        entries = drawn.astype(dtype)
        return Codebook.of(entries, dim, factor(metric_of(dim), sub) if metric else None)


def encoding_of(book):
    _, entries, sub = book.entries.shape
    return Encoding("pq", sub=sub, entries=entries, codebook_dtype=str(book.entries.dtype))


def assert_encodes_as_the_reference(book, rows):
    expected = pq.encode(book, rows)
    held = np.full((len(rows) + 1, expected.shape[1]), 0xA5, np.uint8)
    kernels.encode_rows(encoding_of(book), rows, held[:-1], book)
    np.testing.assert_array_equal(held[:-1], expected)
    assert (held[-1] == 0xA5).all()  # nothing behind the rows is touched
    far = np.full(len(rows) + 1, 7, F)
    kernels.distortions(encoding_of(book), rows, codebook=book, out=far[:-1])
    wanted = distortion.distortions(encoding_of(book), rows, codebook=book)
    np.testing.assert_array_equal(far, [*wanted, 7])


# --- the definition --------------------------------------------------------------------------


def slowly(book, row, factor):
    """Codes of one row, and its squared error, a number at a time."""
    blocks, count, sub = book.entries.shape
    order, root = range(blocks), np.eye(blocks * sub, dtype=F)
    if factor is not None:
        order = [int(d) // sub for d in factor.order if d % sub == 0]
        root[:] = 0
        at = [order.index(d // sub) * sub + d % sub for d in factor.order]
        for i, one in enumerate(at):
            for j, other in enumerate(at):
                root[one, other] = factor.root[i, j]
    codes, errors, squares = [0] * blocks, [], F(0)
    for position, b in enumerate(order):
        first = position * sub
        inside = [b * sub + d < len(row) for d in range(sub)]
        off, center = slow_entries(book.entries[b].astype(F))
        if factor is not None:
            off = [
                [one if held else F(0) for one, held in zip(c, inside, strict=True)] for c in off
            ]
        z = [row[b * sub + d] - center[d] if inside[d] else F(0) for d in range(sub)]
        target, told = z, off
        if factor is not None:
            own = root[first : first + sub, first : first + sub]
            start = [
                total(root[i, first + d] * errors[i] for i in range(first)) for d in range(sub)
            ]
            target = [slow_root(own, z, d, start[d]) for d in range(sub)]
            told = [[slow_root(own, c, d, F(0)) for d in range(sub)] for c in off]
        best, code = F(np.inf), 0
        for k in range(count):
            score = F(0.5) * total(one * one for one in told[k])
            for d in range(sub):
                score = score - target[d] * told[k][d]
            if score < best:
                best, code = score, k
        codes[b] = code
        left = [
            row[b * sub + d] - F(book.entries[b, code, d]) if inside[d] else F(0)
            for d in range(sub)
        ]
        errors += left
        for d in range(sub):
            one = left[d] if factor is None else slow_root(own, left, d, start[d])
            squares = squares + one * one
    return codes, squares


def slow_entries(entries):
    center = [total(c) / F(len(entries)) for c in entries.T]
    return [[one - middle for one, middle in zip(c, center, strict=True)] for c in entries], center


def slow_root(own, values, d, start):
    for i in range(d + 1):
        start = start + own[i, d] * values[i]
    return start


def total(terms):
    found = F(0)
    for one in terms:
        found = found + one
    return found


@every_sub
@with_and_without_metric
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 12),
    entries=st.integers(1, 9),
    size=st.sampled_from([1e-42, 1e-20, 1.0, 1e4, 1e18, 1e30]),
)
def test_codes_are_chosen_as_the_specification_tells(metric, sub, seed, dim, entries, size):
    inner = factor(metric_of(dim), sub) if metric else None
    book = book_of(dim, sub, entries, metric=metric, dtype="float32", seed=seed, size=size)
    row = random_rows(1, dim, seed, scale=size)
    with np.errstate(all="ignore"):
        codes, square = slowly(book, row[0], inner)
    got, squares = pq.encode_measured(book, row)
    assert got[0].tolist() == codes
    np.testing.assert_array_equal(squares[0], square)


@every_sub
@pytest.mark.parametrize("dim", [1, 5, 16, 33])
def test_no_entry_is_nearer_than_the_one_chosen(sub, dim):
    book = book_of(dim, sub, 50)
    rows = random_rows(200, dim)
    codes = pq.encode(book, rows)
    for b in range(len(book.entries)):
        off = np.zeros((len(rows), 50, sub)) + (book.center[b] - book.values[b])
        part = rows[:, None, b * sub : (b + 1) * sub]
        off[..., : part.shape[2]] = part - book.values[b, :, : part.shape[2]]
        squares = (off**2).sum(axis=2)  # what is behind a row's end counts as the center
        chosen = squares[np.arange(len(rows)), codes[:, b]]
        assert (chosen <= squares.min(axis=1) + 1e-5 * squares.max()).all()


@every_sub
@pytest.mark.parametrize("dim", [16, 30])
def test_blocks_that_heed_each_other_are_nearer_in_the_metric(dim, sub):
    metric = metric_of(dim)
    root = factor(metric, sub)
    rows = random_rows(500, dim)
    heeding, plain = book_of(dim, sub, metric=True), book_of(dim, sub)
    errors = []
    for book in (heeding, plain):
        off = rows.astype(float) - pq.decode(book, pq.encode(book, rows), dim)
        errors.append(np.einsum("ni,ij,nj->n", off, metric, off).sum())
    assert errors[0] < 0.9 * errors[1]
    off = rows.astype(float) - pq.decode(heeding, pq.encode(heeding, rows), dim)
    padded = metric + 1e-3 * np.diagonal(metric).mean() * np.eye(dim)
    found = kernels.distortions(encoding_of(heeding), rows, root, heeding)
    np.testing.assert_allclose(found, np.einsum("ni,ij,nj->n", off, padded, off), rtol=1e-4)


def test_entries_themselves_are_found_again():
    book = book_of(16, 4, 256)
    codes = np.random.default_rng(1).integers(0, 256, (500, 4), dtype=np.uint8)
    np.testing.assert_array_equal(pq.encode(book, pq.decode(book, codes, 16)), codes)


def test_of_equal_entries_the_first_is_chosen():
    entries = np.repeat(random_rows(8, 4)[None, :, :], 2, axis=0)
    entries = np.concatenate([entries, entries[:, ::-1]], axis=1)
    book = Codebook.of(entries, 8)
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
                book = Codebook.of(entries, 6)
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
        for one in (None, factor(metric_of(16), 4)):
            book = Codebook.of(entries, 16, one)
            assert_encodes_as_the_reference(book, random_rows(40, 16))


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
    root = data.draw(
        st.none() | arrays(F, dim, elements=number) | arrays(F, (dim, dim), elements=number)
    )
    blocks = data.draw(st.permutations(range(len(stored))))
    order = [d for b in blocks for d in range(b * sub, min(b * sub + sub, dim))]
    inner = None if root is None else Factor.of(np.array(order), root, sub)
    with using(backend):
        assert_encodes_as_the_reference(Codebook.of(stored, dim, inner), rows)


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


def test_a_factor_of_other_codes_is_refused():
    entries = np.zeros((4, 3, 4), np.float16)
    for one in (factor(np.eye(16), 2), factor(np.eye(15), 4)):
        with pytest.raises(ValueError, match="factor of"):
            Codebook.of(entries, 16, one)
    with pytest.raises(ValueError, match="codebook without the factor"):
        kernels.encode_rows(
            Encoding("pq", sub=4, entries=3),
            random_rows(3, 16),
            codebook=Codebook.of(entries, 16),
            factor=factor(np.eye(16), 4),
        )


@every_backend
def test_nothing_beside_an_array_is_touched(backend):
    command = [sys.executable, "-X", "faulthandler", str(PROGRAM), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
