"""Codes rounded in a metric: the definition, what it is for, and native kernels that equal it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import F16, F32, PACKED, random_rows
from views import using

from sharkstore import kernels
from sharkstore.encodings import Encoding, planes_for
from sharkstore.kernels import Factor, distortion, reference, rounding
from sharkstore.quant.metric import factor

F = np.float32
DIMS = [*range(1, 20), 31, 32, 33, 63, 64, 65, 100, 128, 130, 300, 1024]
ENCODINGS = [*PACKED, *(Encoding(name, scale_exponent=10) for name in ("int8", "int4", "int2"))]

every_backend = pytest.mark.parametrize("backend", kernels.backends())
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)


def metric_of(dim, kind="correlated"):
    """A metric with one direction that counts a hundred times the others, or an odd one."""
    rng = np.random.default_rng(dim)
    drawn = rng.normal(size=(dim, dim))
    if kind == "of one direction":
        drawn = drawn[:, :1]
    if kind == "of sizes far apart":
        drawn = drawn * 10.0 ** rng.uniform(-5, 5, (dim, 1))
    metric = drawn @ drawn.T / dim
    if kind == "correlated":
        metric = metric / 10 + np.ones((dim, dim))
    return metric


KINDS = ["correlated", "of one direction", "of sizes far apart"]


def hard_rows(dim):
    """Rows at the ends of float32, rows of many ties, zeros, equal rows."""
    rng = np.random.default_rng(dim)
    normal = random_rows(40, dim)
    bits = rng.integers(0, 2**32, (40, dim), dtype=np.uint32).view(F)
    return [
        normal * F(10) ** rng.integers(-44, 30, (40, 1)).astype(F),
        normal + F(1000),
        (rng.integers(-8, 8, (40, dim)) + 0.5).astype(F),
        np.zeros((17, dim), F),
        -np.zeros((17, dim), F),
        np.full((17, dim), 3, F),
        np.where(np.isfinite(bits), bits, F(0)),
    ]


def assert_as_the_reference(encoding, rows, factor):
    expected, squares = rounding.encode(encoding, rows, factor)
    held = np.full((len(rows) + 1, expected.shape[1]), 0xA5, np.uint8)
    kernels.encode_rows(encoding, rows, held[:-1], factor=factor)
    np.testing.assert_array_equal(held[:-1], expected)
    assert (held[-1] == 0xA5).all()
    squares = np.where(np.isfinite(squares), squares, F(np.inf))
    np.testing.assert_array_equal(kernels.distortions(encoding, rows, factor), squares)


# --- the definition --------------------------------------------------------------------------


def slowly(encoding, row, factor):
    """The codes of one row as they decode, and its squared error, a number at a time."""
    plain = reference.encode_rows(encoding, row[None])
    dtype = "<f2" if encoding.scale_dtype == "float16" else "<f4"
    head = plain[0, : encoding.header_bytes].copy().view(dtype).astype(F)
    step = head[0] * F(2.0**-encoding.scale_exponent)
    low = head[1] if encoding.mode == "affine" else None
    inverse = F(1) / step if step != 0 else F(0)
    lowest, highest = rounding.code_range(encoding)
    served, errors, total = np.zeros_like(row), [], F(0)
    for j, d in enumerate(factor.order):
        pull = F(0)
        for i in range(j):
            pull = pull + factor.root[i, j] / factor.root[j, j] * errors[i]
        target = row[d] + pull
        quotient = (target if low is None else target - low) * inverse
        code = np.rint(min(max(quotient, F(lowest)), F(highest)))
        served[d] = code * step if low is None else code * step + low
        errors.append(row[d] - served[d])
        one = (errors[j] + pull) * factor.root[j, j]
        total = total + one * one
    return served, total


@every_encoding
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 9))
def test_codes_are_rounded_as_the_specification_tells(encoding, seed, dim):
    row = random_rows(1, dim, seed)
    found = factor(metric_of(dim))
    stored, squares = rounding.encode(encoding, row, found)
    expected, square = slowly(encoding, row[0], found)
    np.testing.assert_array_equal(reference.decode_rows(encoding, stored, dim)[0], expected)
    assert squares[0] == square


@every_encoding
def test_scales_and_biases_are_those_of_the_plain_encoder(encoding):
    rows = random_rows(60, 12)
    plain = kernels.encode_rows(encoding, rows)
    rounded = kernels.encode_rows(encoding, rows, factor=factor(metric_of(12)))
    head = encoding.header_bytes
    np.testing.assert_array_equal(rounded[:, :head], plain[:, :head])
    assert (rounded[:, head:] != plain[:, head:]).any()


@pytest.mark.parametrize("encoding", [F32, F16], ids=str)
def test_floats_are_stored_alike_in_any_metric(encoding):
    rows = random_rows(60, 12)
    plain = kernels.encode_rows(encoding, rows)
    found = factor(metric_of(12))
    np.testing.assert_array_equal(kernels.encode_rows(encoding, rows, factor=found), plain)


# --- what it is for --------------------------------------------------------------------------


def error_of(encoding, rows, stored, metric):
    off = rows.astype(float) - reference.decode_rows(encoding, stored, rows.shape[1])
    return np.einsum("ni,ij,nj->n", off, metric, off)


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
@pytest.mark.parametrize("dim", [16, 64])
def test_in_a_correlated_metric_errors_are_a_fraction_of_those_of_plain_rounding(dim, name):
    rows, metric, encoding = random_rows(400, dim), metric_of(dim), Encoding(name)
    plain = kernels.encode_rows(encoding, rows)
    rounded = kernels.encode_rows(encoding, rows, factor=factor(metric))
    least = error_of(encoding, rows, rounded, metric).sum()
    assert 4 * least < error_of(encoding, rows, plain, metric).sum()


@every_encoding
@pytest.mark.parametrize("kind", KINDS)
def test_squared_errors_are_those_in_the_metric_with_its_ridge(kind, encoding):
    rows, metric = random_rows(100, 20), metric_of(20, kind)
    found = factor(metric)
    stored = kernels.encode_rows(encoding, rows, factor=found)
    whole = metric + 1e-3 * np.diagonal(metric).mean() * np.eye(20)
    expected = error_of(encoding, rows, stored, whole)
    np.testing.assert_allclose(kernels.distortions(encoding, rows, found), expected, rtol=1e-4)


def test_in_a_diagonal_metric_rounding_is_plain():
    rows, encoding = random_rows(300, 10), Encoding("int4")
    found = factor(np.diag(np.geomspace(0.01, 100, 10)))
    plain = kernels.encode_rows(encoding, rows)
    np.testing.assert_array_equal(kernels.encode_rows(encoding, rows, factor=found), plain)


# --- native kernels --------------------------------------------------------------------------


@every_backend
@every_encoding
@pytest.mark.parametrize("dim", DIMS)
def test_rows_of_any_length_are_rounded_as_by_the_reference(backend, encoding, dim):
    with using(backend):
        for kind in KINDS if dim < 100 else KINDS[:1]:
            count = 37 if dim < 200 else 5
            assert_as_the_reference(encoding, random_rows(count, dim), factor(metric_of(dim, kind)))


@every_backend
@every_encoding
@pytest.mark.parametrize("dim", [1, 7, 16, 24])
def test_hard_rows_are_rounded_as_by_the_reference(backend, encoding, dim):
    found = factor(metric_of(dim))
    with using(backend):
        for rows in hard_rows(dim):
            with np.errstate(all="ignore"):
                assert_as_the_reference(encoding, rows, found)


@every_backend
@pytest.mark.parametrize("count", [0, 1, 3, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("encoding", [Encoding("int8"), Encoding("int2", "affine")], ids=str)
def test_any_number_of_rows_is_rounded_as_by_the_reference(backend, count, encoding):
    with using(backend):
        assert_as_the_reference(encoding, random_rows(count, 9), factor(metric_of(9)))


values = st.floats(width=32, allow_nan=False, allow_infinity=False)


@every_backend
@every_encoding
@given(data=st.data(), dim=st.integers(1, 20))
def test_any_rows_are_rounded_by_any_factor_as_by_the_reference(backend, encoding, data, dim):
    rows = data.draw(arrays(F, (data.draw(st.integers(1, 20)), dim), elements=values))
    root = data.draw(arrays(F, (dim, dim), elements=values) | arrays(F, dim, elements=values))
    order = np.array(data.draw(st.permutations(range(dim))))
    with using(backend), np.errstate(all="ignore"):
        assert_as_the_reference(encoding, rows, Factor.of(order, root))


@every_backend
@every_encoding
def test_rows_of_one_tier_are_rounded(backend, encoding):
    rows, found = random_rows(500, 10), factor(metric_of(10))
    tiers = np.random.default_rng(0).integers(0, 3, 500).astype(np.uint8)
    rowmap = kernels.build_rowmap(tiers, planes_for(3))
    expected, _ = rounding.encode(encoding, rows[tiers == 1][7:], found)
    out = np.zeros((len(expected) + 3, expected.shape[1]), np.uint8)
    with using(backend):
        done = kernels.encode_tier(encoding, rows, rowmap, 1, 7, out, factor=found)
    assert done == len(expected)
    np.testing.assert_array_equal(out[:done], expected)


@every_backend
@every_encoding
@pytest.mark.parametrize("dim", [1, 7, 16])
def test_values_that_are_not_finite_do_no_harm(backend, encoding, dim):
    rows = random_rows(40, dim)
    rows[::3] = np.array([np.nan, -np.nan, np.inf, -np.inf], F)[np.arange(dim) % 4]
    held = np.full((41, encoding.row_bytes(dim)), 0xA5, np.uint8)
    with using(backend):
        kernels.encode_rows(encoding, rows, held[:-1], factor=factor(metric_of(dim)))
        far = kernels.distortions(encoding, rows, factor(metric_of(dim)))
    assert (held[-1] == 0xA5).all()
    assert np.isinf(far[::3]).all()


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "root", "sub"),
    [
        ([0, 1], np.eye(3), 1),
        ([0, 0], np.eye(2), 1),
        ([0, 2], np.eye(2), 1),
        ([1, 0, 2], np.eye(3), 2),
        ([0, 2, 1], np.eye(3), 2),
    ],
)
def test_what_is_no_factor_is_refused(order, root, sub):
    with pytest.raises(ValueError, match=r"root of shape|order must|must stand together"):
        Factor.of(np.array(order), root.astype(F), sub)


def test_a_forged_order_is_refused():
    found = factor(np.eye(4))
    forged = Factor(np.array([0, 1, 2, 4]), found.root, 1, found.feed, found.diagonal)
    with pytest.raises(ValueError, match="factor of another shape"):
        kernels.encode_rows(Encoding("int8"), random_rows(3, 4), factor=forged)


def test_the_reference_of_distortions_is_that_of_the_codes():
    rows, found = random_rows(30, 6), factor(metric_of(6))
    for encoding in PACKED:
        _, squares = rounding.encode(encoding, rows, found)
        np.testing.assert_array_equal(distortion.distortions(encoding, rows, found), squares)
