"""Tensors out of shards: every layout is read as the whole, and every fault is named."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_rows

from sharkstore.errors import CheckpointError
from sharkstore.readers.shards import Shard, Sharded
from sharkstore.tensors import Tensor

W = random_rows(500, 16)


def shard_of(values, low, high, file):
    """The box of an array between two corners."""
    box = values[tuple(map(slice, low, high))]
    sizes = tuple(b - a for a, b in zip(low, high, strict=True))
    return Shard(
        tuple(low), sizes, file, lambda start, stop: box[start:stop] if values.ndim else box
    )


def sharded(values, boxes):
    shards = [shard_of(values, low, high, f"f{i}") for i, (low, high) in enumerate(boxes)]
    return Sharded(Tensor("w", values.shape, str(values.dtype)), shards, "ckpt")


def grid(shape, *cuts):
    """Boxes between cuts of every axis."""
    edges = [[0, *inner, size] for inner, size in zip(cuts, shape, strict=True)]
    spans = itertools.product(*map(itertools.pairwise, edges))
    return [tuple(zip(*box, strict=True)) for box in spans]


PINWHEEL = [
    ((0, 0), (1, 2)),
    ((0, 2), (2, 3)),
    ((2, 1), (3, 3)),
    ((1, 0), (3, 1)),
    ((1, 1), (2, 2)),
]
LAYOUTS = {
    "whole": ((9, 4), [((0, 0), (9, 4))]),
    "rows": ((9, 4), grid((9, 4), [2, 3, 7], [])),
    "columns": ((9, 4), grid((9, 4), [], [1, 3])),
    "grid": ((9, 4), grid((9, 4), [4], [2])),
    "columns-with-rows-of-their-own": (
        (9, 4),
        [((0, 0), (9, 1)), ((0, 1), (2, 4)), ((2, 1), (5, 4)), ((5, 1), (9, 2)), ((5, 2), (9, 4))],
    ),
    "pinwheel": ((3, 3), PINWHEEL),
    "vector": ((9,), grid((9,), [4])),
    "three-axes": ((4, 3, 5), grid((4, 3, 5), [1, 2], [2], [3])),
    "scalar": ((), [((), ())]),
    "no-rows": ((0, 4), []),
    "no-rows-in-a-shard": ((0, 4), [((0, 0), (0, 4))]),
    "no-columns": ((9, 0), [((0, 0), (9, 0))]),
    "empty-shards": ((9, 4), [((0, 0), (9, 4)), ((9, 0), (9, 4)), ((3, 0), (3, 4))]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backwards", [False, True])
def test_every_range_of_rows_is_read_as_from_the_whole(layout, backwards):
    shape, boxes = LAYOUTS[layout]
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    tensor = sharded(values, boxes[::-1] if backwards else boxes)
    if not shape:
        np.testing.assert_array_equal(tensor.read(0, 1), values, strict=True)
        return
    for start, stop in itertools.combinations_with_replacement(range(shape[0] + 1), 2):
        np.testing.assert_array_equal(tensor.read(start, stop), values[start:stop], strict=True)


@st.composite
def tilings(draw):
    """A shape, and boxes that cover it exactly: halved again and again, on any axis."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    boxes = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 9))):
        low, high = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        cut = draw(st.integers(low[axis], high[axis]))
        boxes.append((low, (*high[:axis], cut, *high[axis + 1 :])))
        boxes.append(((*low[:axis], cut, *low[axis + 1 :]), high))
    return shape, draw(st.permutations(boxes))


@given(tilings(), st.data())
def test_any_tiling_is_read_as_the_whole(tiling, data):
    shape, boxes = tiling
    values = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    read = sharded(values, boxes).read(start, stop)
    np.testing.assert_array_equal(read, values[start:stop], strict=True)


@st.composite
def any_boxes(draw):
    """A shape, and boxes in it that are a tiling in part."""
    shape, boxes = draw(tilings())
    kept = [box for box in boxes if draw(st.integers(0, 9)) > 0]
    for _ in range(draw(st.integers(0, 2))):
        corners = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
        kept.insert(draw(st.integers(0, len(kept))), tuple(zip(*corners, strict=True)))
    return shape, kept


@given(any_boxes())
def test_shards_are_refused_just_when_an_element_is_not_in_exactly_one(drawn):
    shape, boxes = drawn
    times = np.zeros(shape, int)
    for low, high in boxes:
        times[tuple(map(slice, low, high))] += 1
    if (times == 1).all():
        sharded(np.zeros(shape, np.int8), boxes)
        return
    with pytest.raises(CheckpointError, match=r"in no file|both in|twice in") as caught:
        sharded(np.zeros(shape, np.int8), boxes)
    assert ("in no file" in str(caught.value)) <= (times == 0).any()
    assert ("in no file" not in str(caught.value)) <= (times > 1).any()


@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        pytest.param([], "rows 0 to 499 are in no file", id="nothing"),
        pytest.param([((0, 0), (250, 16))], "rows 250 to 499 are in no file", id="end"),
        pytest.param([((7, 0), (500, 16))], "rows 0 to 6 are in no file", id="start"),
        pytest.param(
            [((0, 0), (100, 16)), ((200, 0), (500, 16))],
            "rows 100 to 199 are in no file",
            id="middle",
        ),
        pytest.param(
            [((0, 0), (500, 4)), ((0, 8), (500, 16))],
            "rows 0 to 499 of columns 4 to 7 are in no file",
            id="columns",
        ),
        pytest.param(
            [box for box in grid((500, 16), [250], [8]) if box[0] != (250, 8)],
            "rows 250 to 499 of columns 8 to 15 are in no file",
            id="corner",
        ),
        pytest.param(
            [((0, 0), (150, 16)), ((100, 0), (500, 16))],
            "rows 100 to 149 are both in f0 and f1",
            id="overlap",
        ),
        pytest.param(
            [((0, 0), (500, 9)), ((0, 8), (500, 16))],
            "rows 0 to 499 of columns 8 to 8 are both in f0 and f1",
            id="overlap-in-columns",
        ),
        pytest.param(
            [((0, 0), (500, 16)), ((20, 3), (30, 5))],
            "rows 20 to 29 of columns 3 to 4 are both in f0 and f1",
            id="inside",
        ),
        pytest.param(
            [*grid((500, 16), [200, 400], [8]), ((200, 8), (400, 16))],
            "rows 200 to 399 of columns 8 to 15 are both in f3 and f6",
            id="the-same-twice",
        ),
    ],
)
def test_gaps_and_overlaps_are_named(boxes, fault):
    with pytest.raises(CheckpointError, match=f"^ckpt: tensor 'w': {fault}$"):
        sharded(W, boxes)


def test_an_overlap_within_one_file_is_named():
    shards = [shard_of(W, (low, 0), (high, 16), "a") for low, high in ((0, 300), (299, 500))]
    with pytest.raises(CheckpointError, match="rows 299 to 299 are twice in a"):
        Sharded(Tensor("w", W.shape, "float32"), shards)


def test_a_scalar_is_in_exactly_one_file():
    value = np.float32(3.5).reshape(())
    with pytest.raises(CheckpointError, match="its values are in no file"):
        sharded(value, [])
    with pytest.raises(CheckpointError, match="its values are both in f0 and f1"):
        sharded(value, [((), ())] * 2)


@pytest.mark.parametrize(
    ("offsets", "sizes", "fault"),
    [
        ((400, 0), (200, 16), "f has rows 400 to 599 of columns 0 to 15 of tensor 'w'"),
        ((0, 1), (500, 16), "f has rows 0 to 499 of columns 1 to 16 of tensor 'w'"),
        ((-1, 0), (501, 16), "f has rows -1 to 499 of columns"),
        ((0, 0), (-5, 16), "f has rows 0 to -6"),
        ((2**62, 0), (2**62, 16), "f has rows 4611686018427387904 to 9223372036854775807"),
        ((0, 0), (2**70, 16), "f has rows 0 to 1180591620717411303423"),
        ((0,), (500,), r"has a shard at \(0,\) of \(500,\) in f"),
        ((0, 0), (500,), r"has a shard at \(0, 0\) of \(500,\) in f"),
    ],
)
def test_a_shard_outside_its_tensor_is_named(offsets, sizes, fault):
    with pytest.raises(CheckpointError, match=fault):
        Sharded(Tensor("w", W.shape, "float32"), [Shard(offsets, sizes, "f", W.__getitem__)])


def test_a_tensor_of_absurd_size_is_checked_without_its_memory():
    tensor = Tensor("w", (2**62, 2**40), "float64")
    shards = [Shard((0, 0), (2**61, 2**40), "f", W.__getitem__)]
    with pytest.raises(CheckpointError, match="rows 2305843009213693952 to 4611686018427387903"):
        Sharded(tensor, shards)


@pytest.mark.parametrize("shape", [(2**63, 4), (-1, 4)])
def test_a_tensor_of_no_possible_shape_is_refused(shape):
    with pytest.raises(CheckpointError, match="tensor 'w' of shape"):
        Sharded(Tensor("w", shape, "float64"), [])


def test_rows_of_one_shard_are_a_view_and_others_are_not_touched():
    asked = []

    def rows(start, stop):
        asked.append((start, stop))
        return W[100:][start:stop]

    def untouched(start, stop):
        raise AssertionError

    shards = [
        Shard((0, 0), (100, 16), "a", untouched),
        Shard((100, 0), (400, 16), "b", rows),
    ]
    read = Sharded(Tensor("w", W.shape, "float32"), shards).read(120, 130)
    assert np.shares_memory(read, W)
    assert asked == [(20, 30)]
    np.testing.assert_array_equal(read, W[120:130])


MANY = 100_000


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(lambda: ((MANY * 3, 4), [(MANY * 3, 4), (3, 4)]), id="rows"),
        pytest.param(lambda: ((8, MANY), [(8, MANY), (8, 1)]), id="columns"),
        pytest.param(lambda: ((MANY, 2), [(MANY, 2), (2, 1)]), id="two-columns"),
        pytest.param(lambda: ((316, 316), [(316, 316), (1, 1)]), id="grid"),
        pytest.param(lambda: ((46, 46, 46), [(46, 46, 46), (1, 1, 1)]), id="cube"),
    ],
)
def test_a_hundred_thousand_shards_are_checked_and_read_quickly(layout):
    shape, (_, sizes) = layout()
    starts = (range(0, whole, size) for whole, size in zip(shape, sizes, strict=True))
    value = np.zeros(sizes, np.int8)
    shards = [
        Shard(low, sizes, "f", lambda start, stop: value[start:stop])
        for low in itertools.product(*starts)
    ]
    begun = time.process_time()
    tensor = Sharded(Tensor("w", shape, "int8"), shards[::-1])
    tensor.read(3, 5)
    assert time.process_time() - begun < 5
    del shards[len(shards) // 3]
    with pytest.raises(CheckpointError, match="in no file"):
        Sharded(Tensor("w", shape, "int8"), shards)


def test_overlapping_shards_in_great_number_are_refused_quickly():
    drawn = np.random.default_rng(0).integers(0, 10**6, (MANY, 2, 2))
    low, high = drawn.min(axis=2), drawn.max(axis=2) + 1
    shards = [
        Shard(tuple(a), tuple(b), "f", W.__getitem__)
        for a, b in zip(low.tolist(), (high - low).tolist(), strict=True)
    ]
    shards.append(Shard((0, 0), (2 * 10**6, 1), "f", W.__getitem__))
    begun = time.process_time()
    with pytest.raises(CheckpointError, match="'w'"):
        Sharded(Tensor("w", (2 * 10**6, 2 * 10**6), "int8"), shards)
    assert time.process_time() - begun < 5
