"""Distortions: the definition, and native kernels that equal it bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import CONSTANT, F16, F32, INT8, assert_same_bits, random_rows
from views import using

from sharkstore import kernels
from sharkstore.encodings import SPELLED, Encoding
from sharkstore.kernels import Codebook, Factor, distortion, pq

F = np.float32
DIMS = [1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 100, 300]
ROWS = [0, 1, 15, 16, 17, 255, 256, 257, 600]

every_backend = pytest.mark.parametrize("backend", kernels.backends())
every_encoding = pytest.mark.parametrize("encoding", SPELLED, ids=str)


def book_for(encoding, dim, factor):
    if encoding.name != "pq":
        return None
    drawn = np.random.default_rng(dim).normal(size=encoding.codebook_shape(dim))
    return Codebook.of(drawn.astype(encoding.book_dtype), dim, factor)


def order_of(dim, sub):
    """Some order in which dims of a code stand together."""
    blocks = np.random.default_rng(dim).permutation(-(-dim // sub))
    return np.array([d for b in blocks for d in range(b * sub, min(b * sub + sub, dim))])


def factors(dim, sub=1):
    full = np.triu(random_rows(dim, dim, seed=dim)) + 2 * np.eye(dim, dtype=F)
    order = order_of(dim, sub)
    return {
        "identity": None,
        "diagonal": Factor.of(order, full[0], sub),
        "full": Factor.of(order, full, sub),
    }


def assert_as_the_reference(encoding, rows, factor):
    dim = rows.shape[1]
    book, stand_in = book_for(encoding, dim, factor), random_rows(1, dim, seed=9)[0]
    stand_in = stand_in if encoding.name == "constant" else None
    expected = distortion.distortions(encoding, rows, factor, book, stand_in)
    held = np.full(len(rows) + 1, 7, F)
    got = kernels.distortions(encoding, rows, factor, book, stand_in, held[:-1])
    assert_same_bits(got, expected)
    assert held[-1] == 7  # nothing behind the last is touched


# --- the definition --------------------------------------------------------------------------


def served(encoding, rows, factor, book):
    dim = rows.shape[1]
    stored = kernels.encode_rows(encoding, rows, None, book, factor)
    return pq.decode(book, stored, dim) if book else kernels.decode_rows(encoding, stored, dim)


@pytest.mark.parametrize("encoding", [one for one in SPELLED if one != CONSTANT], ids=str)
@pytest.mark.parametrize("name", ["identity", "diagonal", "full"])
@pytest.mark.parametrize("dim", [1, 20])
def test_distances_are_those_of_the_rows_as_served_in_the_metric(name, encoding, dim):
    rows, factor = random_rows(300, dim), factors(dim, encoding.sub or 1)[name]
    book = book_for(encoding, dim, factor)
    off = rows.astype(float) - served(encoding, rows, factor, book)
    root = np.eye(dim)
    if factor is not None:
        off = off[:, factor.order]
        root = np.diag(factor.root) if factor.root.ndim == 1 else factor.root.astype(float)
    expected = np.einsum("nj,jk,nk->n", off, root @ root.T, off)
    got = kernels.distortions(encoding, rows, factor, book)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-12)
    assert (got > 0).any() or encoding == F32 or dim == 1


def test_a_constant_is_as_far_as_its_row():
    rows, stand_in = random_rows(30, 5), random_rows(1, 5, seed=1)[0]
    got = kernels.distortions(CONSTANT, rows, stand_in=stand_in)
    np.testing.assert_allclose(got, ((rows - stand_in) ** 2).sum(axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match="constant without the row"):
        kernels.distortions(CONSTANT, rows)


@every_backend
@pytest.mark.parametrize("encoding", [F16, INT8, CONSTANT, Encoding("int4", "affine")], ids=str)
def test_what_is_not_finite_is_infinitely_far(encoding, backend):
    rows = random_rows(40, 6)
    rows[7] = 3e38  # float16 has none of it, and squares in float32 have not
    rows[9] = -3e38
    stand_in = np.zeros(6, F) if encoding == CONSTANT else None
    with using(backend):
        got = kernels.distortions(encoding, rows, None, None, stand_in)
    assert np.isinf(got[[7, 9]]).all()
    assert not np.isnan(got).any()
    assert np.isfinite(np.delete(got, [7, 9])).all()


# --- native kernels --------------------------------------------------------------------------


@every_backend
@every_encoding
@pytest.mark.parametrize("dim", DIMS)
def test_distances_of_rows_of_any_length_are_as_by_the_reference(dim, encoding, backend):
    with using(backend):
        for factor in factors(dim, encoding.sub or 1).values():
            assert_as_the_reference(encoding, random_rows(37, dim), factor)


@every_backend
@pytest.mark.parametrize("count", ROWS)
@pytest.mark.parametrize("encoding", [F16, INT8, CONSTANT, Encoding("int2")], ids=str)
def test_distances_of_any_number_of_rows_are_as_by_the_reference(encoding, count, backend):
    with using(backend):
        for factor in factors(9).values():
            assert_as_the_reference(encoding, random_rows(count, 9), factor)


@every_backend
@pytest.mark.parametrize("dim", [1000, 1024, 4096])
def test_distances_of_long_rows_are_as_by_the_reference(dim, backend):
    with using(backend):
        for factor in (None, Factor.of(np.arange(dim)[::-1], np.abs(random_rows(1, dim)[0]))):
            assert_as_the_reference(INT8, random_rows(50, dim), factor)


@every_backend
@pytest.mark.parametrize("exponent", [-20, 20])
def test_scale_exponents_are_heeded(exponent, backend):
    with using(backend):
        for name in ("int8", "int4", "int2"):
            encoding = Encoding(name, scale_exponent=exponent)
            assert_as_the_reference(encoding, random_rows(40, 16), factors(16)["full"])


values = st.floats(width=32, allow_nan=False, allow_infinity=False)


@every_backend
@given(
    encoding=st.sampled_from(SPELLED),
    data=st.data(),
    dim=st.integers(1, 20),
    count=st.integers(1, 20),
)
@settings(max_examples=300)
def test_distances_of_any_rows_are_as_by_the_reference(backend, encoding, data, dim, count):
    rows = data.draw(arrays(F, (count, dim), elements=values))
    root = arrays(F, (dim, dim), elements=values) | arrays(F, dim, elements=values)
    sub = encoding.sub or 1
    factor = data.draw(
        st.none() | st.builds(Factor.of, st.just(order_of(dim, sub)), root, st.just(sub))
    )
    with using(backend):
        assert_as_the_reference(encoding, rows, factor)


def test_a_factor_of_rows_of_another_length_is_refused():
    for encoding in (INT8, F16, CONSTANT):
        with pytest.raises(ValueError, match="factor of another shape"):
            kernels.distortions(
                encoding, random_rows(5, 4), factors(5)["full"], None, np.ones(4, F)
            )
    with pytest.raises(ValueError, match="factor of another shape"):
        kernels.encode_rows(INT8, random_rows(5, 4), factor=factors(3)["diagonal"])


def test_other_arrays_of_another_shape_are_refused():
    rows = random_rows(5, 4)
    with pytest.raises(ValueError, match="stand-in must be"):
        kernels.distortions(CONSTANT, rows, stand_in=np.ones(5, F))
    for out in (np.zeros(4, F), np.zeros(5), np.zeros((5, 1), F), rows.reshape(-1)[:5]):
        with pytest.raises(ValueError, match="out must be"):
            kernels.distortions(INT8, rows, out=out)
