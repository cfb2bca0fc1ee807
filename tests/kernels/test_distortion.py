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
from sharkstore.kernels import Codebook, distortion, pq

F = np.float32
DIMS = [1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 100, 300]
ROWS = [0, 1, 15, 16, 17, 255, 256, 257, 600]

every_backend = pytest.mark.parametrize("backend", kernels.backends())
every_encoding = pytest.mark.parametrize("encoding", SPELLED, ids=str)


def book_for(encoding, dim):
    if encoding.name != "pq":
        return None
    drawn = np.random.default_rng(dim).normal(size=encoding.codebook_shape(dim))
    return Codebook.of(drawn.astype(encoding.book_dtype), np.eye(dim, dtype=F), dim)


def roots(dim):
    full = np.tril(random_rows(dim, dim, seed=dim))
    return {"identity": None, "diagonal": np.abs(full[-1]), "full": full}


def assert_as_the_reference(encoding, rows, root):
    dim = rows.shape[1]
    book, stand_in = book_for(encoding, dim), random_rows(1, dim, seed=9)[0]
    stand_in = stand_in if encoding.name == "constant" else None
    expected = distortion.distortions(encoding, rows, root, book, stand_in)
    held = np.full(len(rows) + 1, 7, F)
    got = kernels.distortions(encoding, rows, root, book, stand_in, held[:-1])
    assert_same_bits(got, expected)
    assert held[-1] == 7  # nothing behind the last is touched


# --- the definition --------------------------------------------------------------------------


def served(encoding, rows):
    dim, book = rows.shape[1], book_for(encoding, rows.shape[1])
    if encoding.name == "pq":
        return pq.decode(book, pq.encode(book, rows), dim)
    return kernels.decode_rows(encoding, kernels.encode_rows(encoding, rows), dim)


@pytest.mark.parametrize("encoding", [one for one in SPELLED if one != CONSTANT], ids=str)
@pytest.mark.parametrize("name", ["identity", "diagonal", "full"])
def test_distances_are_those_in_the_metric_of_the_root(name, encoding):
    rows, root = random_rows(300, 20), roots(20)[name]
    off = rows.astype(float) - served(encoding, rows)
    lower = np.eye(20) if root is None else np.diag(root) if root.ndim == 1 else root.astype(float)
    expected = np.einsum("nj,jk,nk->n", off, lower @ lower.T, off)
    got = kernels.distortions(encoding, rows, root, book_for(encoding, 20))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-12)
    assert (got > 0).any() or encoding == F32


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
        for root in roots(dim).values():
            assert_as_the_reference(encoding, random_rows(37, dim), root)


@every_backend
@pytest.mark.parametrize("count", ROWS)
@pytest.mark.parametrize("encoding", [F16, INT8, CONSTANT, Encoding("int2")], ids=str)
def test_distances_of_any_number_of_rows_are_as_by_the_reference(encoding, count, backend):
    with using(backend):
        for root in roots(9).values():
            assert_as_the_reference(encoding, random_rows(count, 9), root)


@every_backend
@pytest.mark.parametrize("dim", [1000, 1024, 4096])
def test_distances_of_long_rows_are_as_by_the_reference(dim, backend):
    with using(backend):
        for root in (None, np.abs(random_rows(1, dim)[0])):
            assert_as_the_reference(INT8, random_rows(50, dim), root)


@every_backend
@pytest.mark.parametrize("exponent", [-20, 20])
def test_scale_exponents_are_heeded(exponent, backend):
    with using(backend):
        for name in ("int8", "int4", "int2"):
            encoding = Encoding(name, scale_exponent=exponent)
            assert_as_the_reference(encoding, random_rows(40, 16), roots(16)["full"])


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
    full = st.builds(np.tril, arrays(F, (dim, dim), elements=values))
    root = data.draw(st.none() | arrays(F, dim, elements=values) | full)
    with using(backend):
        assert_as_the_reference(encoding, rows, root)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 4), (2, 4, 4), ()])
def test_a_root_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="root must be"):
        kernels.distortions(INT8, random_rows(5, 4), np.ones(shape, F))


def test_other_arrays_of_another_shape_are_refused():
    rows = random_rows(5, 4)
    with pytest.raises(ValueError, match="stand-in must be"):
        kernels.distortions(CONSTANT, rows, stand_in=np.ones(5, F))
    for out in (np.zeros(4, F), np.zeros(5), np.zeros((5, 1), F), rows.reshape(-1)[:5]):
        with pytest.raises(ValueError, match="out must be"):
            kernels.distortions(INT8, rows, out=out)
