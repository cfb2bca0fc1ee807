"""What callers may pass to lookups, and what is refused with which words."""

import math

import numpy as np
import pytest
import torch
from strategies import memory_table

from sharkstore.errors import ArgumentError, DtypeError, IdError
from sharkstore.load import arguments

# --- ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([1, 2, 3], np.int64),
        ((1, 2, 3), np.int64),
        (range(1, 4), np.int64),
        (np.array([1, 2, 3]), np.int64),
        (np.array([1, 2, 3], np.int32), np.int32),
        (torch.tensor([1, 2, 3]), np.int64),
        (torch.tensor([1, 2, 3], dtype=torch.int32), np.int32),
        ([np.int32(1), np.int32(2), np.int32(3)], np.int32),
        ([np.int8(1), np.int8(2), np.int8(3)], np.int64),
    ],
    ids=lambda ids: f"{type(ids).__name__} {getattr(ids, 'dtype', '')}",
)
def test_ids_become_int64_and_int32_stays(ids, dtype):
    got = arguments.as_ids(ids)
    assert got.dtype == dtype
    assert got.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("ids", "shape"),
    [(7, ()), (np.int64(7), ()), ([], (0,)), ([[], []], (2, 0)), ([[[1], [2]]], (1, 2, 1))],
)
def test_ids_keep_their_shape(ids, shape):
    assert arguments.as_ids(ids).shape == shape


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_ids_that_kernels_can_read_are_not_copied(dtype):
    ids = np.arange(10, dtype=dtype).reshape(5, 2)
    assert np.shares_memory(arguments.as_ids(ids), ids)
    tensor = torch.from_numpy(ids)
    assert np.shares_memory(arguments.as_ids(tensor), ids)


def unaligned(array):
    """The same values, one byte off what their dtype wants."""
    memory = np.empty(array.nbytes + 1, np.uint8)
    off = memory[1:].view(array.dtype).reshape(array.shape)
    off[:] = array
    assert not off.flags.aligned
    return off


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("lay", [lambda a: a[::2], lambda a: a[::-1], lambda a: a.T, unaligned])
def test_ids_come_out_contiguous_and_aligned(lay, dtype):
    ids = lay(np.arange(12, dtype=dtype).reshape(4, 3))
    got = arguments.as_ids(ids)
    assert got.flags.c_contiguous
    assert got.flags.aligned
    np.testing.assert_array_equal(got, ids)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([1], np.uint64),
        np.array([1], np.uint32),
        np.array([1], np.int16),
        np.array([1.0]),
        np.array([], np.float64),
        np.array([True]),
        np.array([1], object),
        np.array([1], ">i8"),
        np.float32(1),
        torch.tensor([1.0]),
        [1.0],
        [True],
        [None],
        ["1"],
        1.5,
        None,
    ],
    ids=repr,
)
def test_ids_of_another_dtype_are_a_type_error(ids):
    with pytest.raises(DtypeError, match=r"ids of dtype .*expected int64 or int32") as caught:
        arguments.as_ids(ids)
    assert isinstance(caught.value, TypeError)


def test_ids_of_uneven_length_are_refused():
    with pytest.raises(ValueError, match="uneven lengths"):
        arguments.as_ids([[1], [2, 3]])


@pytest.mark.parametrize("bad", [-1, 10, 2**40, 2**63 - 1, -(2**63)])
def test_id_outside_names_table_position_and_range(bad):
    ids = np.array([[3, bad], [9, bad]])
    with pytest.raises(IdError) as caught:
        arguments.refuse_outside(ids, position=1, count=2, rows=10, table="emb.user")
    for part in ("'emb.user'", f"id {bad} ", "position 1", "1 more", "0 to 9", "bounds='default'"):
        assert part in str(caught.value)
    assert isinstance(caught.value, IndexError)


def test_a_single_id_outside_has_no_others_beside_it():
    with pytest.raises(IdError, match=r"id -1 .* the table \(expected") as caught:
        arguments.refuse_outside([-1], 0, 1, 10, "emb")
    assert "more" not in str(caught.value)


def test_id_into_a_table_without_rows_says_so():
    with pytest.raises(IdError, match="the table has no rows"):
        arguments.refuse_outside(np.array([0]), 0, 1, 0, "emb")


# --- bags ------------------------------------------------------------------------------------


def bags_of(ids, offsets, *, include_last):
    """Number of bags; what makes none is refused."""
    starts = arguments.bag_starts(ids, offsets)
    count = arguments.bag_count(ids, starts, include_last=include_last)
    if starts is not None:
        assert starts.dtype == np.int64
        arguments.check_offsets(starts, len(ids), include_last=include_last)
    return count


@pytest.mark.parametrize(
    ("offsets", "include_last", "expected"),
    [
        ([0], False, 1),
        ([0, 2], False, 2),
        ([0, 0, 5, 5], False, 4),
        ([0, 5], True, 1),
        ([0, 2, 2, 5], True, 3),
        (np.array([0, 2], np.int32), False, 2),
        (np.array([0, 9, 2, 9])[::2], False, 2),
        (torch.tensor([0, 2]), False, 2),
    ],
)
def test_offsets_make_bags(offsets, include_last, expected):
    assert bags_of(np.arange(5), offsets, include_last=include_last) == expected


@pytest.mark.parametrize(("offsets", "include_last"), [([], False), ([0], True)])
def test_no_bags_of_no_ids(offsets, include_last):
    assert bags_of(np.empty(0, np.int64), offsets, include_last=include_last) == 0


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (0, 0)])
def test_each_row_of_two_dimensional_ids_is_a_bag(shape):
    ids = np.zeros(shape, np.int64)
    assert arguments.bag_starts(ids, None) is None
    assert bags_of(ids, None, include_last=False) == shape[0]


BAD_OFFSETS = [
    ([1, 2], False, r"first offset must be 0 \(got 1\)"),
    ([-1, 2], False, "first offset must be 0"),
    ([0, 3, 2], False, r"offset 2 falls \(got 2, expected >= 3\)"),
    ([0, 6], False, r"offset 1 passes the end of 5 ids \(got 6\)"),
    ([0, 2**62], False, "offset 1 passes the end"),
    ([0, 2**63 - 1, -2], False, "offset"),
    ([0, 2**63 - 1, -2, 5], True, "offset"),
    ([0, -(2**63), 5], True, "offset 1 falls"),
    ([0, 4], True, r"last offset must be the number of ids \(got 4, expected 5\)"),
    ([0, 6], True, "last offset must be the number of ids"),
    ([0, 5, 3], True, "offset 2 falls"),
    ([0, 5, 3], False, "offset 2 falls"),
    ([], False, "no bags, but 5 ids"),
    ([5], True, "no bags, but 5 ids"),
    ([], True, "at least one offset"),
    ([[0, 2]], False, r"one dimension \(got 2\)"),
    (0, False, r"one dimension \(got 0\)"),
    (None, False, "need offsets"),
]
every_kind_of_bad_offsets = pytest.mark.parametrize(
    ("offsets", "include_last", "message"), BAD_OFFSETS
)


@every_kind_of_bad_offsets
def test_offsets_that_make_no_bags_are_refused(offsets, include_last, message):
    with pytest.raises(ArgumentError, match=message):
        bags_of(np.arange(5), offsets, include_last=include_last)


@pytest.mark.parametrize("as_array", [False, True], ids=["list", "array"])
@every_kind_of_bad_offsets
def test_tables_refuse_the_same_offsets_in_the_same_words(offsets, include_last, message, as_array):
    given = np.array(offsets, np.int64) if as_array and offsets is not None else offsets
    table, _ = memory_table(np.zeros((5, 3), np.float32))
    with pytest.raises(ArgumentError, match=message):
        table.embedding_bag(np.arange(5), given, include_last_offset=include_last)


@pytest.mark.parametrize(
    "offsets", [np.array([0.0]), np.array([0], np.uint64), [0.5], np.array([False])], ids=repr
)
def test_offsets_of_another_dtype_are_refused(offsets):
    with pytest.raises(DtypeError, match="offsets of dtype"):
        arguments.bag_starts(np.arange(5), offsets)


def test_two_dimensional_ids_take_no_offsets():
    with pytest.raises(ArgumentError, match="no offsets"):
        arguments.bag_starts(np.zeros((2, 2), np.int64), [0, 2])


@pytest.mark.parametrize("dimensions", [0, 3])
def test_ids_of_other_dimensions_make_no_bags(dimensions):
    with pytest.raises(ArgumentError, match=f"one or two dimensions .got {dimensions}"):
        arguments.bag_starts(np.zeros((1,) * dimensions, np.int64), None)


@pytest.mark.parametrize(
    ("padding", "expected"), [(0, 0), (4, 4), (-1, 4), (-5, 0), (np.int32(2), 2)]
)
def test_negative_padding_counts_from_the_end(padding, expected):
    assert arguments.padding_id(padding, 5) == expected


@pytest.mark.parametrize(("padding", "rows"), [(5, 5), (-6, 5), (2**40, 5), (0, 0), (-1, 0)])
def test_padding_outside_the_table_is_refused(padding, rows):
    with pytest.raises(ArgumentError, match="padding_idx outside the table"):
        arguments.padding_id(padding, rows)


@pytest.mark.parametrize("padding", [1.5, "1"])
def test_padding_that_is_no_integer_is_a_type_error(padding):
    with pytest.raises(DtypeError, match="padding_idx must be an integer"):
        arguments.padding_id(padding, 5)


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [[0.5, 2], np.array([0.5, 2], np.float32), torch.tensor([0.5, 2])],
    ids=lambda weights: type(weights).__name__,
)
def test_weights_become_float32(weights):
    got = arguments.as_weights(weights, np.array([3, 4]))
    assert got.dtype == np.float32
    assert got.tolist() == [0.5, 2]


def test_weights_of_two_dimensional_ids_are_flattened():
    weights = arguments.as_weights(np.ones((2, 3), np.float32), np.zeros((2, 3), np.int64))
    assert weights.shape == (6,)


@pytest.mark.parametrize(
    "weights", [np.ones(2), np.ones(2, np.float16), np.ones(2, np.int64), [True, False], ["a", "b"]]
)
def test_weights_of_another_dtype_are_refused(weights):
    with pytest.raises(DtypeError, match="per_sample_weights of dtype"):
        arguments.as_weights(weights, np.array([3, 4]))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_weights_of_another_shape_are_refused(shape):
    with pytest.raises(ArgumentError, match="must have the shape of ids"):
        arguments.as_weights(np.ones(shape, np.float32), np.array([3, 4]))


# --- out -------------------------------------------------------------------------------------


def test_out_is_made_when_left_out():
    made = arguments.out_array(None, (2, 3))
    assert (made.shape, made.dtype) == ((2, 3), np.float32)


@pytest.mark.parametrize("shape", [(1 << 14, 1), (1 << 12, 7), (3, 4096, 2), (512, 1)])
def test_large_arrays_start_on_a_cache_line(shape):
    for _ in range(4):
        made = arguments.fresh_array(shape, math.prod(shape[:-1]))
        assert made.ctypes.data % 64 == 0
        assert (made.shape, made.dtype) == (shape, np.float32)
        assert made.flags.carray


def test_out_that_fits_is_taken():
    out = np.empty((2, 3), np.float32)
    assert arguments.out_array(out, (2, 3)) is out


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((3, 2), np.float32), ArgumentError, r"got \(3, 2\), expected \(2, 3\)"),
        (np.empty(6, np.float32), ArgumentError, "wrong shape"),
        (np.empty((3, 2), np.float32).T, ArgumentError, "C-contiguous, aligned and writable"),
        (np.empty((2, 6), np.float32)[:, ::2], ArgumentError, "C-contiguous, aligned and writable"),
        (unaligned(np.zeros((2, 3), np.float32)), ArgumentError, "aligned"),
        (read_only(np.empty((2, 3), np.float32)), ArgumentError, "aligned and writable"),
        (np.empty((2, 3)), DtypeError, "got float64, expected float32"),
        (np.empty((2, 3), ">f4"), DtypeError, "expected float32"),
        ([[0.0] * 3] * 2, DtypeError, "got list"),
        (torch.empty((2, 3)), DtypeError, "got Tensor"),
    ],
)
def test_out_that_does_not_fit_is_refused(out, error, message):
    with pytest.raises(error, match=message):
        arguments.out_array(out, (2, 3))


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["men", "", None, 3, ["sum"]], ids=repr)
def test_unknown_option_names_what_is_known(value):
    with pytest.raises(ArgumentError, match="expected sum or mean"):
        arguments.check_choice("mode", value, ("sum", "mean"))
