"""Rows out of a checkpoint: encoded by tier and slot, whatever the blocks."""

import numpy as np
import pytest
from checkpoints import bfloat16, save
from hypothesis import given
from hypothesis import strategies as st
from strategies import F16, F32, PACKED, SEARCHED, random_rows

from sharkstore.encodings import planes_for
from sharkstore.errors import StatsError
from sharkstore.kernels import build_rowmap, reference
from sharkstore.readers.safetensors import SafetensorsFile
from sharkstore.tensors import Tensor
from sharkstore.write import rows as module
from sharkstore.write.rows import TableRows

VALUES = random_rows(1000, 3)
INT4 = SEARCHED[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "m.safetensors"
    bad = random_rows(4, 2)
    bad[1, 0], bad[2, 1], bad[3, 0] = np.nan, np.inf, -np.inf
    wide = VALUES.astype(np.float64) * 1.0000000001
    tensors = {"f32": VALUES, "f64": wide, "f16": VALUES.astype(np.float16), "bad": bad}
    return SafetensorsFile(str(save(path, {**tensors, "bf16": bfloat16(VALUES)})))


def table(source, name, tiers=None, count=1, *, zero=False):
    rowmap = None if tiers is None else build_rowmap(tiers, planes_for(count))
    return TableRows(source, source.tensors[name], rowmap, zero)


class Parts:
    """Takes stored rows in, some at a time."""

    def __init__(self, most=100):
        self.most = most
        self.raw = b""

    def room(self, row_bytes):
        self.open = np.full((self.most, row_bytes), 0xA5, np.uint8)
        return self.open

    def done(self, filled):
        self.raw += self.open.tobytes()[:filled]

    def put(self, block):
        self.raw += block.tobytes()


def taken(rows, tier, first, last, encoding=F32, most=100):
    """Rows of a tier, stored: uint8 (n, row bytes)."""
    out = Parts(most)
    rows.encode(encoding, tier, first, last, out)
    row_bytes = encoding.row_bytes(rows.tensor.shape[1])
    return np.frombuffer(out.raw, np.uint8).reshape(-1, row_bytes)


def values(rows, tier, first, last, most=100):
    return taken(rows, tier, first, last, most=most).view(np.float32)


@st.composite
def slots(draw):
    """A random split of the rows into tiers, one of the tiers, and a range of its slots."""
    count = draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    shares = rng.dirichlet(np.full(count, draw(st.sampled_from([0.05, 1.0]))))
    tiers = rng.choice(count, len(VALUES), p=shares).astype(np.uint8)
    if draw(st.booleans()):
        tiers.sort()
    tier = draw(st.integers(0, count - 1))
    ends = st.integers(0, int(np.count_nonzero(tiers == tier)))
    first, last = sorted([draw(ends), draw(ends)])
    return tiers, count, tier, first, last


@given(
    case=slots(),
    block_bytes=st.sampled_from([1, 2000, 1 << 22]),
    most=st.sampled_from([1, 7, 64, 1000]),
)
def test_a_range_of_slots_is_that_of_the_rows_picked_out(source, case, block_bytes, most):
    tiers, count, tier, first, last = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", block_bytes)
        got = values(table(source, "f32", tiers, count), tier, first, last, most)
    np.testing.assert_array_equal(got, VALUES[tiers == tier][first:last])


@pytest.mark.parametrize(("first", "last"), [(0, 1000), (0, 0), (1, 999), (64, 128), (700, 701)])
def test_slots_of_one_tier_are_rows(source, monkeypatch, first, last):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    np.testing.assert_array_equal(values(table(source, "f32"), 0, first, last), VALUES[first:last])


@pytest.mark.parametrize("name", ["f64", "f16", "bf16"])
def test_every_float_dtype_comes_as_float32(source, name):
    expected = {
        "f64": source.read("f64", 0, 1000).astype(np.float32),
        "f16": VALUES.astype(np.float16).astype(np.float32),
        "bf16": (VALUES.view(np.uint32) & 0xFFFF0000).view(np.float32),
    }[name]
    got = values(table(source, name), 0, 0, 1000)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("encoding", [F16, *PACKED], ids=str)
def test_rows_are_encoded_as_by_the_reference(source, name, encoding):
    tiers = np.arange(1000, dtype=np.uint8) % 3
    rows = table(source, name, tiers, 3)
    expected = reference.encode_rows(encoding, values(rows, 2, 10, 300))
    np.testing.assert_array_equal(taken(rows, 2, 10, 300, encoding), expected)


@pytest.mark.parametrize("one_tier", [True, False])
def test_blocks_that_threads_encode_come_in_order(source, monkeypatch, one_tier):
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    tiers = None if one_tier else np.repeat(np.arange(20) % 3, 50).astype(np.uint8)
    own = np.arange(1000) if one_tier else np.flatnonzero(tiers == 1)
    expected = reference.encode_rows(INT4, VALUES[own])
    for first, last in ((0, len(own)), (0, 1), (63, 200), (len(own) - 1, len(own)), (70, 70)):
        got = taken(table(source, "f32", tiers, 3), 0 if one_tier else 1, first, last, INT4)
        np.testing.assert_array_equal(got, expected[first:last])


def test_blocks_are_whole_blocks_of_the_row_map_of_about_4_mib(source):
    assert table(source, "f32").block_rows == (4 << 20) // 12 // 64 * 64


def test_values_that_are_not_finite_become_zero_when_asked(source):
    rows = values(table(source, "bad", zero=True), 0, 0, 4)
    expected = random_rows(4, 2)
    expected[1, 0] = expected[2, 1] = expected[3, 0] = 0
    np.testing.assert_array_equal(rows, expected)


def test_values_that_are_not_finite_stay_when_not_asked(source):
    rows = values(table(source, "bad"), 0, 0, 4)
    assert np.count_nonzero(~np.isfinite(rows)) == 3


def test_a_row_of_any_length_is_read_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 64)

    class Wide:
        def read(self, name, start, stop):
            return np.arange(200, dtype=np.float32).reshape(2, 100)[start:stop]

    got = list(module.pieces(Wide(), Tensor("w", (2, 100), "float32"), 0, 2))
    assert max(piece.nbytes for piece in got) <= 64
    assert np.array_equal(np.concatenate(got), np.arange(200))


def test_a_tier_with_fewer_rows_than_told_ends_in_an_error(source):
    rows = table(source, "f32", np.zeros(1000, np.uint8), 2)
    with pytest.raises(StatsError, match="changed"):
        taken(rows, 1, 0, 1)
