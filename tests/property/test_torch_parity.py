"""Lookups and bags against torch over the same rows.

torch adds rows in order and divides a sum by its count, as we do: sums, means and maxima are
equal bit for bit. It fuses a weight's product into the sum, so weighted sums are close only.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import F16, F32, INT8, assert_same_bits, memory_table, random_rows, tiered_tables
from torch.nn import functional

from sharkstore import kernels
from sharkstore.encodings import Encoding

INTEGERS = [np.int32, np.int64]
WIDE = {
    dim: memory_table(random_rows(300, dim), (F32, F16, INT8), np.arange(300) % 3)
    for dim in (64, 128, 129)
}


@st.composite
def bags(draw, rows):
    """Arguments of `embedding_bag`: ids in bags of 0 to 9, offsets, and what goes with them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(INTEGERS))
    last = draw(st.booleans())
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    offsets = np.cumsum([0, *lengths])
    return {
        "input": rng.integers(rows, size=offsets[-1]).astype(dtype),
        "offsets": (offsets if last else offsets[:-1]).astype(dtype),
        "include_last_offset": last,
        "padding_idx": draw(st.none() | st.integers(-rows, rows - 1)),
    }


@st.composite
def even_bags(draw, rows):
    """The same with two-dimensional ids: one bag a row, which torch wants not to be empty."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {
        "input": rng.integers(rows, size=shape).astype(draw(st.sampled_from(INTEGERS))),
        "padding_idx": draw(st.none() | st.integers(-rows, rows - 1)),
    }


def ours(table, arguments):
    return table.embedding_bag(
        **{("ids" if key == "input" else key): value for key, value in arguments.items()}
    )


def theirs(rows, arguments):
    given_to_torch = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in arguments.items()
    }
    return functional.embedding_bag(weight=torch.from_numpy(rows), **given_to_torch).numpy()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("kind", [bags, even_bags])
@given(st.data(), tiered_tables())
def test_bags_equal_torch_bit_for_bit(mode, kind, data, table_and_rows):
    table, rows = table_and_rows
    arguments = {**data.draw(kind(table.rows)), "mode": mode}
    assert_same_bits(ours(table, arguments), theirs(rows, arguments))


@pytest.mark.parametrize("kind", [bags, even_bags])
@given(st.data(), tiered_tables())
def test_weighted_sums_are_close_to_torch(kind, data, table_and_rows):
    table, rows = table_and_rows
    arguments = data.draw(kind(table.rows))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    weights = rng.random(arguments["input"].shape).astype(np.float32)
    arguments |= {"mode": "sum", "per_sample_weights": weights}
    # where rows cancel, the error is that of the terms and not of their small sum
    terms = np.abs(rows).max() * max(1, weights.size)
    np.testing.assert_allclose(
        ours(table, arguments), theirs(rows, arguments), rtol=1e-6, atol=1e-7 * terms
    )


@given(st.data(), tiered_tables(max_dim=5))
def test_lookups_equal_torch_bit_for_bit(data, table_and_rows):
    table, rows = table_and_rows
    ids = data.draw(even_bags(table.rows))["input"]
    expected = functional.embedding(torch.from_numpy(ids), torch.from_numpy(rows)).numpy()
    assert_same_bits(table.lookup(ids), expected)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("dim", [64, 128, 129])
def test_long_bags_of_wide_rows_equal_torch_bit_for_bit(mode, dim):
    table, rows = WIDE[dim]
    rng = np.random.default_rng(dim)
    arguments = {
        "input": rng.integers(table.rows, size=5000),
        "offsets": np.array([0, 1, 1, 1000, 4999]),
        "mode": mode,
    }
    assert_same_bits(ours(table, arguments), theirs(rows, arguments))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_no_bags_at_all_equal_torch(mode):
    table, rows = WIDE[64]
    arguments = {
        "input": np.empty(0, np.int64),
        "offsets": np.empty(0, np.int64),
        "mode": mode,
    }
    assert_same_bits(ours(table, arguments), theirs(rows, arguments))


# --- rows of other libraries -----------------------------------------------------------------

UNPACK = {
    "int4": torch.ops.quantized.embedding_bag_4bit_unpack,
    "int2": torch.ops.quantized.embedding_bag_2bit_unpack,
}


@pytest.mark.parametrize("name", UNPACK)
@given(seed=st.integers(0, 2**32 - 1), bytes_of_codes=st.integers(1, 40))
def test_affine_rows_are_those_of_torch_but_for_the_place_of_the_scale(name, seed, bytes_of_codes):
    """torch has scale and bias, float16, behind the codes; FBGEMM's tables have them in front."""
    encoding = Encoding(name, "affine")
    dim = bytes_of_codes * 8 // encoding.bits
    rows = random_rows(20, dim, seed)
    stored = kernels.encode_rows(encoding, rows)
    moved = np.concatenate([stored[:, 4:], stored[:, :4]], axis=1)
    theirs = UNPACK[name](torch.from_numpy(moved)).numpy()
    assert_same_bits(kernels.decode_rows(encoding, stored, dim), theirs)


@pytest.mark.parametrize("name", UNPACK)
def test_rows_that_torch_packed_are_read_bit_for_bit(name):
    encoding = Encoding(name, "affine")
    pack = {"int4": "embedding_bag_4bit_prepack", "int2": "embedding_bag_2bit_prepack"}[name]
    packed = getattr(torch.ops.quantized, pack)(torch.from_numpy(random_rows(200, 64)))
    theirs = UNPACK[name](packed).numpy()
    stored = np.concatenate([packed.numpy()[:, -4:], packed.numpy()[:, :-4]], axis=1)
    assert_same_bits(kernels.decode_rows(encoding, stored, 64), theirs)
