"""Scales of 4- and 2-bit codes: the search of the specification, and how near the best it comes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEARCHED, assert_same_bits, kinds_of_rows, random_rows

from sharkstore import kernels
from sharkstore.encodings import Encoding
from sharkstore.kernels import reference
from sharkstore.quant.encode import fitted

INT4, INT2 = Encoding("int4"), Encoding("int2")
INT4_AFFINE, INT2_AFFINE = Encoding("int4", "affine"), Encoding("int2", "affine")
DIMS = [1, 3, 64, 129, 130]
FLOAT16_HALF_UNIT = 2.0**-11
F = np.float32
LARGEST = np.finfo(np.float32).max
# of a row's largest absolute value, or of its range
RMS_BOUNDS = {INT4: 0.1, INT2: 0.35, INT4_AFFINE: 1 / 30, INT2_AFFINE: 1 / 6}

every_encoding = pytest.mark.parametrize("encoding", SEARCHED, ids=str)


def bound_of(encoding):
    return RMS_BOUNDS[replace(encoding, scale_dtype="float16", scale_exponent=0)]


# --- the search, value by value --------------------------------------------------------------


def clip(value, low, high):
    return F(low) if np.isnan(value) else min(max(value, F(low)), F(high))


class Slowly:
    """The search over one row as the specification tells it, a number at a time."""

    def __init__(self, encoding, row):
        self.encoding, self.row = encoding, [F(x) for x in row]
        self.symmetric = encoding.mode == "symmetric"
        levels = 2**encoding.bits
        self.lowest = -(levels // 2) if self.symmetric else 0
        self.highest = self.lowest + levels - 1
        self.top = max(self.row)
        self.below = max(F(0) - x for x in self.row)
        if self.symmetric:
            self.size = F(max(abs(x) for x in self.row))
        else:
            self.size = min(self.top + self.below, LARGEST)

    def store(self, value):
        if self.encoding.scale_dtype == "float32":
            return value
        if self.symmetric:
            value = value * F(2.0**self.encoding.scale_exponent)
        return F(np.float16(value))

    def step(self, scale):
        return scale * F(2.0**-self.encoding.scale_exponent) if self.symmetric else scale

    def total(self, terms):
        result = F(0)
        for term in terms:
            result = result + term
        return result

    def codes(self, fit):
        """Quotients, and the codes that they round to."""
        step, low = self.step(fit[0]), fit[1]
        inverse = clip(F(1) / step, -LARGEST, LARGEST)
        quotients = [(x if self.symmetric else x - low) * inverse for x in self.row]
        return quotients, [np.rint(clip(q, self.lowest, self.highest)) for q in quotients]

    def error(self, fit):
        off = [quotient - code for quotient, code in zip(*self.codes(fit), strict=True)]
        part = self.step(fit[0]) / self.size
        return self.total(one * one for one in off) * (part * part)

    def positive(self, scale):
        return scale if scale > 0 else F(0)

    def grid(self):
        bits = self.encoding.bits
        if self.symmetric:
            size = -self.size if self.top > self.below else self.size
            for i in range(8 if bits == 4 else 4):
                part = F((66 - 5 * i) / 512) if bits == 4 else F((84 - 18 * i) / 128)
                yield self.store(size * part), F(0)
                if bits == 2:
                    yield self.store(-(size * part)), F(0)
            return
        cut = F(1 / 16 if bits == 4 else 1 / 8)
        for i in range(4):
            bias = self.store(self.size * (F(i) * cut) - self.below)
            for j in range(4):
                high = self.top - self.size * (F(j) * cut)
                yield self.positive(self.store((high - bias) / F(self.highest))), bias

    def line(self, fit):
        """The best line through the codes of a fit."""
        codes = self.codes(fit)[1]
        squares = self.total(code * code for code in codes)
        if self.symmetric:
            products = self.total(c * x for c, x in zip(codes, self.row, strict=True))
            return self.store(products / squares), F(0)
        above, dim = [x - fit[1] for x in self.row], F(len(codes))
        products = self.total(c * y for c, y in zip(codes, above, strict=True))
        offsets, count = self.total(above), self.total(codes)
        mean = count / dim
        slope = (products - mean * offsets) / (squares - mean * count)
        scale = self.positive(self.store(slope))
        return scale, self.store(fit[1] + (offsets - scale * count) / dim)

    def stored(self):
        """The row's bytes."""
        fits = list(self.grid())
        best, least = fits[0], F(np.inf)
        for fit in fits:
            if (error := self.error(fit)) < least:
                best, least = fit, error
        last = best
        for _ in range(2):
            last = self.line(last)
            if (error := self.error(last)) < least:
                best, least = last, error
        codes = [0 if self.step(best[0]) == 0 else int(code) for code in self.codes(best)[1]]
        number = sum((code - self.lowest) << self.encoding.bits * j for j, code in enumerate(codes))
        head = np.array(best[: 1 if self.symmetric else 2]).astype(self.encoding.scale_dtype)
        size = self.encoding.row_bytes(len(codes)) - self.encoding.header_bytes
        return head.tobytes() + number.to_bytes(size, "little")


@every_encoding
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 20),
    size=st.sampled_from([1e-42, 1e-30, 1e-5, 1.0, 100.0, 1e30]),
    offset=st.sampled_from([0, 0, 3]),
)
def test_rows_are_encoded_as_the_specification_tells(encoding, seed, dim, size, offset):
    row = (random_rows(1, dim, seed) + offset) * F(size)
    encoding = fitted(encoding, float(np.abs(row).max()))
    with np.errstate(all="ignore"):
        expected = Slowly(encoding, row[0]).stored()
    assert reference.encode_rows(encoding, row).tobytes() == expected


@every_encoding
@pytest.mark.parametrize("dim", [1, 3, 64])
def test_odd_rows_are_encoded_as_the_specification_tells(encoding, dim):
    for kind, rows in kinds_of_rows(dim).items():
        if encoding.mode == "symmetric":
            encoding = fitted(encoding, float(np.abs(rows).max()))
        stored = reference.encode_rows(encoding, rows)
        for row, got in zip(rows, stored, strict=True):
            with np.errstate(all="ignore"):
                expected = Slowly(encoding, row).stored()
            assert got.tobytes() == expected, kind


# --- errors ----------------------------------------------------------------------------------


def rms(rows, encoding):
    decoded = kernels.decode_rows(encoding, kernels.encode_rows(encoding, rows), rows.shape[1])
    return np.sqrt(((rows.astype(np.float64) - decoded) ** 2).mean(axis=1))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["normal", "zero", "one huge value", "equal", "positive"])
@every_encoding
def test_errors_of_rows_are_within_the_named_bound(encoding, kind, dim):
    rows = kinds_of_rows(dim)[kind]
    encoding = fitted(encoding, float(np.abs(rows).max()))
    largest, size = np.abs(rows).max(axis=1), np.abs(rows).max(axis=1)
    if encoding.mode == "affine":
        size = rows.max(axis=1) - rows.min(axis=1) + 2 * FLOAT16_HALF_UNIT * largest
    bound = bound_of(encoding) * size * (1 + 2**-10) + 2 * FLOAT16_HALF_UNIT * largest
    assert (rms(rows, encoding) <= bound).all()


@pytest.mark.parametrize("size", [2.0**-100, 2.0**-70, 2.0**-50, 2.0**60, 2.0**110])
@pytest.mark.parametrize("encoding", [one for one in SEARCHED if one.scale_dtype == "float32"])
def test_rows_of_any_size_are_searched_alike(encoding, size):
    """Squares that float32 can't hold change nothing."""
    rows = random_rows(50, 16)
    plain = kernels.encode_rows(encoding, rows)
    scaled = kernels.encode_rows(encoding, rows * F(size))
    head = encoding.header_bytes
    np.testing.assert_array_equal(scaled[:, head:], plain[:, head:])
    assert_same_bits(scaled[:, :head].copy().view(F), plain[:, :head].copy().view(F) * F(size))


def squared_errors(rows, scales, lows, lowest, highest):
    codes = np.clip(np.rint((rows - lows) / scales), lowest, highest)
    return ((rows - codes * scales - lows) ** 2).mean(axis=1)


def least_errors(rows, encoding):
    """Least mean squared error of each row, over all scales or ends of a range."""
    rows = rows.astype(np.float64)
    levels = 2**encoding.bits
    if encoding.mode == "symmetric":
        scales = np.abs(rows).max(axis=1, keepdims=True) / (levels // 2)
        tried = [
            squared_errors(rows, scales * ratio * sign, 0, -levels // 2, levels // 2 - 1)
            for ratio in np.linspace(0.3, 1.1 if levels == 16 else 2.1, 150)
            for sign in (1, -1)
        ]
        return np.min(tried, axis=0)
    least, most = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    ends = np.linspace(-0.04, 0.3 if levels == 16 else 0.45, 26) * (most - least)
    tried = [
        squared_errors(
            rows,
            (most - ends[:, j, None] - least - ends[:, i, None]) / (levels - 1),
            least + ends[:, i, None],
            0,
            levels - 1,
        )
        for i in range(26)
        for j in range(26)
    ]
    return np.min(tried, axis=0)


@pytest.mark.parametrize("dim", [8, 16, 64])
@pytest.mark.parametrize(
    ("encoding", "above"),
    [(INT4, 0.15), (INT4_AFFINE, 0.13), (INT2, 0.10), (INT2_AFFINE, 0.03)],
    ids=str,
)
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
def test_the_search_comes_near_the_least_error(encoding, above, kind, dim):
    rng = np.random.default_rng(dim)
    draw = {"normal": rng.normal, "laplace": rng.laplace, "uniform": rng.uniform}[kind]
    rows = (draw(size=(400, dim)) - (0.5 if kind == "uniform" else 0)).astype(F)
    encoding = fitted(encoding, float(np.abs(rows).max()))
    assert (rms(rows, encoding) ** 2).mean() <= (1 + above) * least_errors(rows, encoding).mean()


@every_encoding
def test_the_value_farthest_from_zero_may_have_either_sign(encoding):
    rows = random_rows(200, 16)
    ours, turned = rms(rows, encoding), rms(-rows, encoding)
    np.testing.assert_allclose(ours, turned, rtol=0.15, atol=0.05)
    if encoding.mode == "symmetric":
        stored = kernels.encode_rows(encoding, rows), kernels.encode_rows(encoding, -rows)
        head = [one[:, : encoding.header_bytes].copy().view(encoding.scale_dtype) for one in stored]
        np.testing.assert_array_equal(head[0], -head[1])


# --- layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 6, 7, 8, 1023])
@every_encoding
def test_bits_behind_the_last_code_are_zero(encoding, dim):
    rows = random_rows(20, dim)
    stored = kernels.encode_rows(encoding, rows)
    spare = -dim * encoding.bits % 8
    assert stored.shape[1] == encoding.header_bytes + (dim * encoding.bits + spare) // 8
    assert (stored[:, -1] >> (8 - spare) == 0).all() if spare else True
