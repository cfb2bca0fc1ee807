"""Chunk sizes, names, and row-map geometry."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.encodings import planes_for
from sharkstore.format import layout
from sharkstore.format.layout import MIB, ArraySpec, array_spec, chunk_rows


@given(
    rows=st.integers(1, 2**32 - 1),
    row_bytes=st.sampled_from([1, 16, 18, 20, 32, 64, 66, 68, 130, 1003, 4098, 16380, 16384]),
)
def test_chunks_keep_the_rules_of_the_format(rows, row_bytes):
    chunk = chunk_rows(rows, row_bytes)
    chunks = -(-rows // chunk)
    assert chunks <= layout.MAX_CHUNKS
    if chunks == 1:
        assert chunk == rows
    else:
        assert chunk * row_bytes % layout.CHUNK_ALIGNMENT == 0


@given(rows=st.integers(1, 2**28), row_bytes=st.sampled_from([16, 18, 20, 64, 66, 68, 130, 260]))
def test_padding_stays_small(rows, row_bytes):
    total = rows * row_bytes
    chunk = chunk_rows(rows, row_bytes) * row_bytes
    assert layout.padding(total, chunk) <= total / 7


@pytest.mark.parametrize(
    ("rows", "row_bytes", "chunk_bytes"),
    [
        (1_000, 18, 18_000),  # small: one chunk, exactly
        (1_000_000, 64, 64_000_000),  # up to twice the target: one chunk
        (20_000_000, 64, 26 * MIB),  # whole huge pages, little padding
    ],
)
def test_chunk_bytes_of_known_arrays(rows, row_bytes, chunk_bytes):
    assert chunk_rows(rows, row_bytes) * row_bytes == chunk_bytes


def test_large_arrays_take_whole_huge_pages():
    for row_bytes in (18, 20, 64, 66, 68, 128, 256):
        rows = 10 * 2**30 // row_bytes
        assert chunk_rows(rows, row_bytes) * row_bytes % layout.HUGE_PAGE == 0


def test_rows_whose_unit_is_too_large_for_huge_pages_take_small_pages():
    row_bytes = 4097
    assert math.lcm(row_bytes, layout.HUGE_PAGE) > layout.LARGEST_UNIT
    rows = 2**30 // row_bytes * 8
    chunk = chunk_rows(rows, row_bytes) * row_bytes
    assert chunk % layout.CHUNK_ALIGNMENT == 0
    assert chunk < rows * row_bytes


def test_ten_terabytes_fit_the_number_of_chunks():
    rows, row_bytes = 2**32 - 1, 2500
    spec = array_spec("a", (rows, row_bytes), np.dtype("u1"))
    assert spec.chunks <= layout.MAX_CHUNKS
    assert spec.data_bytes > 2**43


def test_scalar_and_empty_arrays():
    scalar = array_spec("a", (), np.dtype("<i8"))
    assert (scalar.chunks, scalar.file_bytes, scalar.chunk_path(0)) == (1, 12, "a/c")
    empty = array_spec("a", (0, 4), np.dtype("<f4"))
    assert (empty.chunks, empty.chunk_shape) == (0, (1, 4))
    flat = array_spec("a", (3, 0), np.dtype("<f4"))
    assert (flat.chunks, flat.chunk_shape) == (0, (3, 1))


def test_chunk_paths_have_one_part_an_axis():
    assert ArraySpec("a", (9, 4, 2), np.dtype("<f4"), 3).chunk_path(2) == "a/c/2/0/0"


def test_planes():
    assert [planes_for(tiers) for tiers in range(2, 9)] == [1, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize(
    "node",
    [
        "..",
        ".",
        "",
        "a/../b",
        "a//b",
        "/a",
        "zarr.json",
        "ZARR.json",
        "a\\b",
        "a b",
        "ü",
        "x" * 211,
        "a\n",
    ],
)
def test_unsafe_nodes_are_refused(node):
    assert not layout.is_node_path(f"tables/{node}")
