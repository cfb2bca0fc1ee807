"""Each row's tier: the radix select against sorting, and the row map it is written as."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sharkstore.encodings import ROWMAP_BLOCK_BYTES, planes_for
from sharkstore.kernels import rowmap_counters, rowmap_tiers
from sharkstore.write import ranks
from sharkstore.write.ranks import Boundary, find_boundary, tiers_by_row, write_ranks

EXTREMES = {
    "float32": [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38],
    "float64": [0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308],
    "float16": [0.0, -0.0, 6e-8, 65504.0, -65504.0],
    "int32": [0, 1, -1, 2**31 - 1, -(2**31)],
    "int64": [0, 1, -1, 2**53 + 1, 2**53, 2**63 - 1, -(2**63)],
    "uint8": [0, 1, 255],
}


def sorted_tiers(priority, counts):
    """What tiers must be, by sorting: highest priority first, ties by id."""
    order = sorted(range(len(priority)), key=lambda row: (-priority[row].item(), row))
    tiers = np.empty(len(priority), np.uint8)
    tiers[order] = np.repeat(np.arange(len(counts), dtype=np.uint8), counts)
    return tiers


def all_tiers(rows, counts, priority):
    return np.concatenate([np.empty(0, np.uint8), *tiers_by_row(rows, counts, priority)])


@st.composite
def ranked(draw):
    """Priorities with ties and extremes, and counts of 2 to 8 tiers, empty ones among them."""
    dtype = np.dtype(draw(st.sampled_from(sorted(EXTREMES))))
    finite = {} if dtype.kind in "iu" else {"allow_nan": False, "allow_infinity": False}
    anything = (
        st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max)
        if dtype.kind in "iu"
        else st.floats(width=8 * dtype.itemsize, **finite)
    )
    few = st.sampled_from(EXTREMES[dtype.name])
    values = draw(arrays(dtype, st.integers(1, 40), elements=st.one_of(few, anything)))
    cuts = draw(st.lists(st.integers(0, len(values)), min_size=1, max_size=7))
    counts = np.diff([0, *sorted(cuts), len(values)])
    return values, counts.tolist()


@given(ranked())
def test_tiers_are_those_of_a_stable_sort(case):
    priority, counts = case
    np.testing.assert_array_equal(
        all_tiers(len(priority), counts, priority), sorted_tiers(priority, counts)
    )


@given(case=ranked(), block=st.sampled_from([1, 3, 7]))
def test_tiers_dont_depend_on_the_block(case, block):
    priority, counts = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "BLOCK", block)
        np.testing.assert_array_equal(
            all_tiers(len(priority), counts, priority), sorted_tiers(priority, counts)
        )


def test_counts_above_the_signed_range_rank_first():
    priority = np.array([1, 2**63 + 5, 2, 2**64 - 1], np.uint64)
    np.testing.assert_array_equal(all_tiers(4, [2, 2], priority), [1, 0, 1, 0])


def test_zero_and_negative_zero_tie():
    priority = np.array([-0.0, 0.0, -0.0, 0.0], np.float32)
    np.testing.assert_array_equal(all_tiers(4, [2, 2], priority), [0, 0, 1, 1])


def test_equal_priorities_go_by_id():
    np.testing.assert_array_equal(all_tiers(5, [2, 1, 2], np.ones(5)), [0, 0, 1, 2, 2])


def test_no_priorities_go_by_id(monkeypatch):
    monkeypatch.setattr(ranks, "BLOCK", 2)
    np.testing.assert_array_equal(all_tiers(5, [2, 0, 1, 2], None), [0, 0, 2, 3, 3])


def test_no_rows_have_no_tiers():
    assert all_tiers(0, [0, 0], np.empty(0, np.float32)).tolist() == []


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6])
def test_a_boundary_takes_exactly_its_rows(count):
    priority = np.array([5, 3, 3, 3, 9, 1], np.int64)
    boundary = find_boundary(priority, count)
    keys = np.concatenate(list(ranks.key_blocks(priority)))
    above = int(np.count_nonzero(keys > np.uint64(boundary.key)))
    assert above + boundary.ties == count
    assert boundary.ties <= np.count_nonzero(keys == np.uint64(boundary.key))


def test_a_boundary_of_no_rows_is_above_every_key():
    assert find_boundary(np.array([2**63 - 1], np.int64), 0) == Boundary(2**64 - 1, 0)


@pytest.mark.parametrize("tiers", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("rows", [63, 64, 65, 1000])
def test_the_row_map_has_every_rows_tier_and_the_rows_before_each_block(
    tmp_path, monkeypatch, tiers, rows
):
    monkeypatch.setattr(ranks, "BLOCK", 128)
    priority = np.random.default_rng(rows).integers(0, 20, rows)
    counts = np.bincount(np.arange(rows) % tiers, minlength=tiers).tolist()
    write_ranks(str(tmp_path / "map"), rows, counts, priority)
    width = ROWMAP_BLOCK_BYTES[planes_for(tiers)]
    rowmap = np.fromfile(tmp_path / "map", np.uint8).reshape(-1, width)
    assert len(rowmap) == -(-rows // 64)
    expected = sorted_tiers(priority, counts)
    np.testing.assert_array_equal(rowmap_tiers(rowmap)[:rows], expected)
    before = [np.bincount(expected[: 64 * b], minlength=tiers) for b in range(len(rowmap))]
    np.testing.assert_array_equal(rowmap_counters(rowmap)[:, :tiers], before)
