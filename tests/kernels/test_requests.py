"""Many tables in one native call, against the reference."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import AFFINE, BOOKED, F16, F32, INT8, assert_same_values, exact_rows
from views import TIERS, guarded_out, make_view, some_ids, using

from sharkstore import kernels
from sharkstore.kernels import Feature, request

PROGRAM = Path(__file__).parent.parent / "request_guards.py"

every_backend = pytest.mark.parametrize("backend", kernels.backends())
MODES = ["sum", "mean", "max"]
DIMS = [1, 2, 4, 7, 8, 16, 24, 33, 64, 128, 130, 300]


def bind(features):
    bound = {id(one.table): kernels.bind(one.table) for one in features}
    return kernels.bind_request([(bound[id(one.table)], one.mode, one.padding) for one in features])


def what_is_wrong(features, ids, starts):
    """What a native call returns for ids of sound tables; starts (features + 1,)."""
    counts, first = [], -1
    for one, start, stop in zip(features, starts, starts[1:], strict=False):
        bad = np.flatnonzero((ids[start:stop] < 0) | (ids[start:stop] >= one.table.rows))
        counts.append(len(bad))
        if len(bad) and first < 0:
            first = int(start + bad[0])
    return (sum(counts), first, 0, -1, 0, False, counts, None) if any(counts) else None


def check_request(features, ids, offsets, weights=None, threads=1):
    """Bags and lookups of a request equal the reference's."""
    batch = (len(offsets) - 1) // len(features)
    width = sum(one.table.dim for one in features)
    bound = bind(features)
    wide, rising = ids.astype(np.int64), offsets.astype(np.int64)
    starts = rising[::batch] if batch else np.zeros(len(features) + 1, np.int64)
    wrong = what_is_wrong(features, ids, starts)

    expected = np.empty((batch, width), np.float32)
    request.embedding_bags(features, wide, rising, weights, expected)
    out, check = guarded_out(expected.shape)
    assert bound.embedding_bags(ids, offsets, weights, out, threads) == wrong
    assert_same_values(out, expected, f"{kernels.backend()} bags")
    check("bags")

    dims = [one.table.dim for one in features]
    expected = np.empty(int(np.diff(starts) @ dims), np.float32)
    request.lookups(features, wide, starts, expected)
    out, check = guarded_out(expected.shape)
    assert bound.lookups(ids, starts.copy(), out, threads) == wrong
    assert_same_values(out, expected, f"{kernels.backend()} lookups")
    check("lookups")


def draw_request(features, batch, lengths, seed, dtype=np.int64, outside=0.02):
    """Ids and offsets: bags of the lengths that are drawn from `lengths`."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice(lengths, size=(len(features), batch))
    ids = [
        some_ids(one.table.rows, int(sizes[i].sum()), rng, dtype, outside)
        for i, one in enumerate(features)
    ]
    offsets = np.concatenate([[0], np.cumsum(sizes.reshape(-1))])
    return np.concatenate(ids), offsets


@st.composite
def any_features(draw):
    """1 to 9 tables of any tiers and sizes, some of them more than once, pooled in any way."""
    names = draw(st.lists(st.sampled_from(list(TIERS)), min_size=1, max_size=6))
    seed = draw(st.integers(0, 2**16))
    views = [
        make_view(TIERS[name], draw(st.integers(1, 150)), draw(st.sampled_from(DIMS)), seed + i)
        for i, name in enumerate(names)
    ]
    chosen = [*views, *draw(st.lists(st.sampled_from(views), max_size=3))]
    weighted = draw(st.booleans())
    modes = st.just("sum") if weighted else st.sampled_from(MODES)
    paddings = st.sampled_from([-1, -1, 0])
    features = [Feature(view, draw(modes), draw(paddings)) for view in chosen]
    return features, weighted


@every_backend
@settings(max_examples=40)
@given(any_features(), st.data())
def test_requests_equal_the_reference(backend, drawn, data):
    features, weighted = drawn
    lengths = data.draw(st.sampled_from([[0], [1], [0, 1, 2], [0, 1, 70], [20], [1, 0, 0, 0, 300]]))
    batch = data.draw(st.integers(0, 7))
    dtype = data.draw(st.sampled_from([np.int32, np.int64]))
    seed = data.draw(st.integers(0, 2**16))
    ids, offsets = draw_request(features, batch, lengths, seed, dtype)
    weights = None
    if weighted:
        weights = np.random.default_rng(seed).normal(size=len(ids)).astype(np.float32)
    with using(backend):
        check_request(
            features, ids, offsets.astype(data.draw(st.sampled_from(["i4", "i8"]))), weights
        )


@every_backend
@pytest.mark.parametrize("batch", [1, 2, 9, 40])
@pytest.mark.parametrize("lengths", [[1], [0, 0, 0, 1], [0, 3]])
def test_many_tables_of_few_ids_equal_the_reference(backend, batch, lengths):
    """More tables than there is room for in the ring, and runs of them without ids."""
    names = ["int8", "3 tiers", "f32", "8 tiers", "2 tiers"]
    views = [make_view(TIERS[name], 90 + i, [8, 64, 5][i % 3], i) for i, name in enumerate(names)]
    features = [Feature(views[i % 5]) for i in range(150)]
    ids, offsets = draw_request(features, batch, lengths, batch)
    with using(backend):
        check_request(features, ids, offsets)


@every_backend
@pytest.mark.parametrize("dims", [(16, 16), (8, 300), (64, 24)])
def test_tables_of_few_and_of_many_ids_take_turns(backend, dims):
    views = [make_view(TIERS[name], 500, dims[i], i) for i, name in enumerate(["int8", "4 tiers"])]
    features = [Feature(views[i % 2]) for i in range(40)]
    rng = np.random.default_rng(0)
    sizes = np.where(np.arange(40) % 7 == 3, 1000, 1)
    ids = rng.integers(500, size=sizes.sum())
    with using(backend):
        check_request(features, ids, np.concatenate([[0], np.cumsum(sizes)]))


@every_backend
@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads_give_the_same_rows_and_the_same_counts(backend, threads):
    views = [make_view(TIERS[name], 400, 64, i) for i, name in enumerate(["int8", "5 tiers"])]
    features = [Feature(views[0]), Feature(views[1], "mean", 3), Feature(views[0], "max")]
    ids, offsets = draw_request(features, 1500, [0, 1, 2, 40], seed=1, outside=0.001)
    with using(backend):
        check_request(features, ids, offsets, threads=threads)


@every_backend
@pytest.mark.parametrize("each", [1, 9])  # past the cache, and places fetched ahead
def test_a_large_output_is_the_same(backend, each):
    views = [make_view([encoding], n, 64) for n, encoding in [(200_000, F16), (300_000, INT8)]]
    features = [Feature(views[0]), Feature(views[1]), Feature(views[0])]
    ids, offsets = draw_request(features, 2000, [each], seed=2, outside=0)
    starts = offsets[::2000].copy()
    rows, bags = np.empty(6000 * each * 64, np.float32), np.empty((2000, 192), np.float32)
    request.lookups(features, ids, starts, rows)
    request.embedding_bags(features, ids, offsets, None, bags)
    bound = bind(features)
    with using(backend):
        for shift in (0, 4):  # aligned and not
            out, check = guarded_out(rows.shape, shift)
            assert bound.lookups(ids, starts, out, 1) is None
            assert_same_values(out, rows)
            check("lookups")
            out, check = guarded_out(bags.shape, shift)
            assert bound.embedding_bags(ids, offsets, None, out, 1) is None
            assert_same_values(out, bags)
            check("bags")


OTHER_ARRAYS = {
    "ids of two dimensions": {0: np.zeros((2, 1), np.int64)},
    "ids of another dtype": {0: np.zeros(2, np.uint64)},
    "offsets of another dtype": {1: np.array([0.0, 1.0, 2.0])},
    "an offset too many": {1: np.array([0, 1, 2, 2])},
    "too few weights": {2: np.ones(1, np.float32)},
    "weights of float64": {2: np.ones(2)},
    "a narrow out": {3: np.zeros((1, 13), np.float32)},
    "out of one dimension": {3: np.zeros(14, np.float32)},
    "out of float64": {3: np.zeros((1, 14))},
    "a list": {0: [0, 0]},
}


@pytest.mark.parametrize("changed", OTHER_ARRAYS.values(), ids=OTHER_ARRAYS)
def test_other_arrays_are_not_taken(changed):
    features = [Feature(make_view([F32], 5, 7))] * 2
    given_arrays = [np.zeros(2, np.int64), np.array([0, 1, 2]), None, np.zeros((1, 14), np.float32)]
    for position, array in changed.items():
        given_arrays[position] = array
    assert bind(features).embedding_bags(*given_arrays, 1) is NotImplemented


def test_out_within_the_memory_of_what_is_looked_up_is_not_taken():
    features = [Feature(make_view([F32], 5, 7))] * 2
    memory = np.zeros(64, np.int64)
    out = memory.view(np.float32)[:14]
    apart = np.array([0, 1, 2])
    bound = bind(features)
    assert bound.embedding_bags(memory[:2], apart, None, out.reshape(1, 14), 1) is NotImplemented
    assert (
        bound.embedding_bags(apart[:2], memory[:3], None, out.reshape(1, 14), 1) is NotImplemented
    )
    assert bound.lookups(memory[:2], apart, out, 1) is NotImplemented


@pytest.mark.parametrize(
    "starts", [[0, 2, 2], [1, 1, 2], [0, 3, 2], [0, -1, 2], [0, 1, 1], [0, 1, 3], [0, 2**62, 2]]
)
def test_starts_that_do_not_fit_out_are_not_taken(starts):
    features = [Feature(make_view([F32], 5, 7)), Feature(make_view([F32], 5, 3))]
    out = np.zeros(10, np.float32)
    assert bind(features).lookups(np.zeros(2, np.int64), np.array(starts), out, 1) is NotImplemented


@every_backend
@pytest.mark.parametrize("threads", [1, 4])
def test_a_forged_row_map_is_told_with_its_key(backend, threads):
    sound, forged = (make_view(TIERS["3 tiers"], 200, 64, seed) for seed in (1, 2))
    forged.rowmap[1, 16:32] = 255
    features = [Feature(sound), Feature(forged), Feature(sound)]
    ids, offsets = draw_request(features, 3000, [3], seed=3, outside=0)
    first = next(i for i in ids[9000:18000] if 64 <= i < 128)
    with using(backend):
        out = np.empty((3000, 192), np.float32)
        found = bind(features).embedding_bags(ids, offsets, None, out, threads)
    assert (found[0], found[2], found[3], found[5]) == (0, 1, first, False)


def test_no_tables_make_no_request():
    with pytest.raises(ValueError, match="no tables"):
        kernels.bind_request([])


def test_a_request_keeps_its_tables():
    rows = exact_rows(50, 6)
    stored = kernels.encode_rows(F32, rows)
    view = make_view([F32], 50, 6)
    view.tiers[0].data[:] = stored
    bound = kernels.bind_request([(kernels.bind(view), "sum", -1)])
    del view, stored
    out = np.empty((50, 6), np.float32)
    assert bound.embedding_bags(np.arange(50), np.arange(51), None, out, 1) is None
    assert_same_values(out, rows)


def test_tables_of_all_encodings_beside_one_another():
    features = [
        Feature(make_view([encoding], 64, 12, i))
        for i, encoding in enumerate([F32, F16, INT8, *AFFINE, *BOOKED])
    ]
    ids, offsets = draw_request(features, 5, [2], seed=5)
    check_request(features, ids, offsets)


@every_backend
@pytest.mark.parametrize("cases", ["sound", "forged", "forged_offsets", "changing"])
def test_nothing_beside_an_array_is_touched(cases, backend):
    command = [sys.executable, "-X", "faulthandler", str(PROGRAM), cases, backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
