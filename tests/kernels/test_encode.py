"""The native encoders and measures equal the reference bit for bit, whichever of them runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import AFFINE, CONSTANT, F16, F32, INT8, PACKED, SYMMETRIC, random_rows
from views import using

from sharkstore import kernels
from sharkstore.encodings import Encoding, planes_for
from sharkstore.kernels import reference
from sharkstore.quant.encode import fitted

DIMS = [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 64, 65, 100, 128, 129, 1000, 4096]
ROWS = [0, 1, 3, 15, 16, 17, 33, 100]
EXPONENTS = [-126, -100, 20, 126]
ENCODINGS = [F32, F16, CONSTANT, *PACKED]
ENCODINGS += [Encoding("int8", scale_exponent=e) for e in EXPONENTS]
ENCODINGS += [Encoding(name, scale_exponent=e) for name in ("int4", "int2") for e in (-126, 20)]
BINS = 278

every_backend = pytest.mark.parametrize("backend", kernels.backends())
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=repr)


def assert_encodes_as_the_reference(encoding, rows):
    with np.errstate(all="ignore"):
        expected = reference.encode_rows(encoding, rows)
    held = np.full((len(rows) + 1, expected.shape[1]), 0xA5, np.uint8)
    assert kernels.encode_rows(encoding, rows, held[:-1]).base is held
    np.testing.assert_array_equal(held[:-1], expected)
    assert (held[-1] == 0xA5).all()  # nothing behind the rows is touched


def halves(rows, dim, last, step=1.0):
    """Values half way between two codes; the first of each row is the last code."""
    rng = np.random.default_rng(dim)
    values = (rng.integers(0, last - 1, (rows, dim)) + 0.5) * rng.choice([-1, 1], (rows, 1))
    values[:, 0] = last
    return (values * step).astype(np.float32)


def hard_rows(dim):
    """Rows whose codes hang on the last bit, and rows at the ends of float32."""
    rng = np.random.default_rng(dim)
    normal = random_rows(40, dim)
    sizes = np.float32(10) ** rng.integers(-44, 30, (40, 1)).astype(np.float32)
    bits = rng.integers(0, 2**32, (40, dim), dtype=np.uint32).view(np.float32)
    far = np.float32(1e9) * rng.choice([-1, 1], (40, dim)).astype(np.float32)
    near_a_tie = np.nextafter(halves(40, dim, 127, 0.0123), far)
    near_a_tie[:, 0] = np.float32(127 * 0.0123)
    return [
        normal,
        normal * sizes,
        normal + np.float32(1000),
        normal * np.float32(1e-40),
        halves(40, dim, 127),
        halves(40, dim, 8, 0.37),
        halves(40, dim, 2),
        np.abs(halves(40, dim, 255)) + np.float32(7),
        near_a_tie,
        np.zeros((17, dim), np.float32),
        -np.zeros((17, dim), np.float32),
        np.where(np.isfinite(bits), bits, np.float32(0)),
    ]


@every_backend
@every_encoding
@pytest.mark.parametrize("dim", DIMS)
def test_rows_are_encoded_as_by_the_reference(backend, encoding, dim):
    with using(backend):
        for rows in hard_rows(dim):
            assert_encodes_as_the_reference(encoding, rows)


@every_backend
@every_encoding
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dim", [5, 16, 64])
def test_any_number_of_rows_is_encoded(backend, encoding, rows, dim):
    with using(backend):
        assert_encodes_as_the_reference(encoding, random_rows(rows, dim))


@every_backend
@every_encoding
@given(
    rows=arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_any_finite_rows_are_encoded_as_by_the_reference(backend, encoding, rows):
    with using(backend):
        assert_encodes_as_the_reference(encoding, rows)


@every_backend
@pytest.mark.parametrize("encoding", PACKED, ids=str)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 20))
def test_codes_at_and_beside_ties_are_those_of_the_division(backend, encoding, seed, exponent):
    rng = np.random.default_rng(seed)
    step = np.float32(rng.uniform(1, 2) * 2.0**exponent)
    rows = (rng.integers(-126, 127, (64, 64)) + 0.5).astype(np.float32) * step
    rows = (rows.view(np.int32) + rng.integers(-3, 4, rows.shape, np.int32)).view(np.float32)
    rows[:, 0] = 127 * step
    with using(backend):
        assert_encodes_as_the_reference(fitted(encoding, float(np.abs(rows).max())), rows)


@every_backend
def test_every_float16_and_what_lies_between_two_is_rounded_as_by_the_reference(backend):
    exact = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    ties = (exact.view(np.uint32) & ~np.uint32(0x1FFF) | np.uint32(0x1000)).view(np.float32)
    small = np.arange(1, 4096, dtype=np.float32) * np.float32(2.0**-26)
    values = np.concatenate([exact, ties, small, -small])
    values = np.concatenate([values, np.nextafter(values, 1e9), np.nextafter(values, -1e9)])
    values = values[np.isfinite(values)]
    with using(backend):
        assert_encodes_as_the_reference(F16, values[:, None])
        assert_encodes_as_the_reference(F16, values[: len(values) // 16 * 16].reshape(-1, 16))


@every_backend
@every_encoding
@pytest.mark.parametrize("dim", [1, 7, 16, 64])
def test_values_that_are_not_finite_do_no_harm(backend, encoding, dim):
    rows = random_rows(40, dim)
    rows[::3] = np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32)[np.arange(dim) % 4]
    held = np.full((41, encoding.row_bytes(dim)), 0xA5, np.uint8)
    with using(backend):
        kernels.encode_rows(encoding, rows, held[:-1])
    assert (held[-1] == 0xA5).all()


def test_rows_of_any_layout_are_encoded():
    rows = random_rows(20, 6)
    raw = np.zeros(rows.nbytes + 1, np.uint8)
    raw[1:] = rows.view(np.uint8).reshape(-1)
    unaligned = raw[1:].view(np.float32).reshape(rows.shape)
    expected = reference.encode_rows(INT8, rows)
    np.testing.assert_array_equal(kernels.encode_rows(INT8, unaligned), expected)
    np.testing.assert_array_equal(kernels.encode_rows(INT8, np.asfortranarray(rows)), expected)
    every_other = np.repeat(rows, 2, axis=0)[::2]
    np.testing.assert_array_equal(kernels.encode_rows(INT8, every_other), expected)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((20, 7), np.uint8),
        np.empty((19, 8), np.uint8),
        np.empty((20, 8), np.int8),
        np.empty((20, 16), np.uint8)[:, ::2],
        np.empty(160, np.uint8),
    ],
)
def test_an_output_of_another_shape_is_refused(out):
    with pytest.raises(ValueError, match="out must"):
        kernels.encode_rows(INT8, random_rows(20, 6), out)


def test_an_output_that_overlaps_the_rows_is_refused():
    rows = random_rows(20, 6)
    with pytest.raises(ValueError, match="apart"):
        kernels.encode_rows(F32, rows, rows.view(np.uint8))


# --- rows of one tier ------------------------------------------------------------------------


def tiers_of(rows, count, seed=0):
    """Tiers of rows, drawn, and their row map; None for one tier."""
    tiers = np.random.default_rng(seed).integers(count, size=rows).astype(np.uint8)
    return tiers, kernels.build_rowmap(tiers, planes_for(count)) if count > 1 else None


@every_backend
@every_encoding
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_rows_of_a_tier_are_those_picked_out(backend, encoding, count):
    rows = random_rows(1000, 12)
    tiers, rowmap = tiers_of(1000, count)
    with using(backend):
        for tier in range(count):
            expected = reference.encode_rows(encoding, rows[tiers == tier])
            out = np.empty((1000, encoding.row_bytes(12)), np.uint8)
            assert kernels.encode_tier(encoding, rows, rowmap, tier, 0, out) == len(expected)
            np.testing.assert_array_equal(out[: len(expected)], expected)


@given(
    rows=st.integers(0, 300),
    count=st.integers(1, 8),
    skip=st.integers(0, 300),
    wanted=st.integers(0, 300),
    seed=st.integers(0, 99),
)
def test_of_a_tier_any_part_is_taken(rows, count, skip, wanted, seed):
    values = np.arange(rows, dtype=np.float32)[:, None]
    tiers, rowmap = tiers_of(rows, count, seed)
    out = np.full((wanted + 1, 4), 0xA5, np.uint8)
    given_rows = kernels.encode_tier(F32, values, rowmap, 0, skip, out[:-1])
    expected = values[tiers == 0][skip : skip + wanted]
    np.testing.assert_array_equal(out[:given_rows].view(np.float32), expected)
    assert (out[given_rows:] == 0xA5).all()


def test_more_rows_of_a_tier_than_are_worked_on_at_once():
    values = np.arange(100_000, dtype=np.float32)[:, None]
    tiers, rowmap = tiers_of(100_000, 2)
    out = np.empty((100_000, 4), np.uint8)
    filled = kernels.encode_tier(F32, values, rowmap, 1, 7, out)
    np.testing.assert_array_equal(out[:filled].view(np.float32), values[tiers == 1][7:])


@pytest.mark.parametrize("shape", [(3, 32), (4, 32), (5, 24), (5, 128)])
def test_a_row_map_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="row map"):
        kernels.encode_tier(
            F32, random_rows(300, 1), np.zeros(shape, np.uint8), 0, 0, np.empty((1, 4), np.uint8)
        )


# --- measures --------------------------------------------------------------------------------


def measured(rows, tiers, encodings):
    """What `measure_rows` must find, tier by tier."""
    largest = np.zeros(len(encodings), np.float32)
    magnitudes = np.zeros((len(encodings), BINS), np.int64)
    for index, encoding in enumerate(encodings):
        chosen = rows[tiers == index]
        sizes = np.abs(chosen).max(axis=1)
        largest[index] = sizes.max(initial=0)
        if encoding.mode == "affine":
            sizes = chosen.max(axis=1) - chosen.min(axis=1)
        exponents = np.frexp(sizes[sizes > 0])[1]
        magnitudes[index] = np.bincount(exponents + 148, minlength=BINS)
    return largest, magnitudes


@every_backend
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    "encodings",
    [[F32], [AFFINE[0]], [INT8, AFFINE[0]], [F32, F16, INT8], [*SYMMETRIC[:4], *AFFINE[:3], F16]],
    ids=str,
)
def test_rows_are_measured_by_tier(backend, dim, encodings):
    ranged = sum(1 << i for i, one in enumerate(encodings) if one.mode == "affine")
    with using(backend):
        for rows in hard_rows(dim):
            bounded = rows * np.float32(0.25)  # so that no range is infinite
            tiers, rowmap = tiers_of(len(rows), len(encodings))
            largest = np.zeros(len(encodings), np.float32)
            magnitudes = np.zeros((len(encodings), BINS), np.int64)
            for _ in range(2):
                assert kernels.measure_rows(bounded, rowmap, ranged, largest, magnitudes)
            expected = measured(bounded, tiers, encodings)
            np.testing.assert_array_equal(largest, expected[0])
            np.testing.assert_array_equal(magnitudes, 2 * expected[1])


@every_backend
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ranged", [0, 1])
@pytest.mark.parametrize("dim", [1, 3, 16, 64, 100])
def test_a_value_that_is_not_finite_is_noticed_wherever_it_is(backend, bad, ranged, dim):
    largest, magnitudes = np.zeros(1, np.float32), np.zeros((1, BINS), np.int64)
    with using(backend):
        for row in range(0, 40, 3):
            rows = random_rows(40, dim)
            rows[row, row % dim] = bad
            assert not kernels.measure_rows(rows, None, ranged, largest, magnitudes)
    assert not largest.any()
    assert not magnitudes.any()


@pytest.mark.parametrize(
    ("largest", "magnitudes"),
    [
        (np.zeros(1), np.zeros((1, BINS), np.int64)),
        (np.zeros(2, np.float32), np.zeros((1, BINS), np.int64)),
        (np.zeros(1, np.float32), np.zeros((1, BINS - 1), np.int64)),
        (np.zeros(9, np.float32), np.zeros((9, BINS), np.int64)),
    ],
)
def test_measures_of_another_shape_are_refused(largest, magnitudes):
    with pytest.raises(ValueError, match="largest must be"):
        kernels.measure_rows(random_rows(2, 2), None, 0, largest, magnitudes)
