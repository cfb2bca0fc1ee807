"""Requests: many tables in one call."""

import gc
import pickle
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    F32,
    INT8,
    SAMPLE,
    assert_same_bits,
    exact_rows,
    memory_table,
    random_rows,
    tiered_tables,
)

import sharkstore
from sharkstore.errors import (
    ArgumentError,
    ClosedError,
    CorruptStoreError,
    DtypeError,
    IdError,
    UnknownTableError,
)
from sharkstore.load.request import KEPT, Request

USER, ITEM, TINY = "emb.user.weight", "emb.item.weight", "emb.tiny.weight"
KEYS = [USER, TINY, ITEM, USER]
DIMS = [SAMPLE[key].shape[1] for key in KEYS]
WIDTH = sum(DIMS)
VALUES = np.array([5, 199, 7, 0, 0, 129, 0, 3, 3])
OFFSETS = np.array([0, 2, 3, 3, 5, 6, 7, 7, 9])  # a batch of 2


@pytest.fixture
def request_(store):
    return store.request(KEYS)


def pooled():
    """What `VALUES` and `OFFSETS` sum to."""
    user, tiny, item = SAMPLE[USER], SAMPLE[TINY], SAMPLE[ITEM]
    first = [user[5] + user[199], np.zeros(2, np.float32), item[129], np.zeros(7, np.float32)]
    second = [user[7], tiny[0] + tiny[0], item[0], user[3] + user[3]]
    return np.stack([np.concatenate(first), np.concatenate(second)])


# --- bags ------------------------------------------------------------------------------------


def test_bags_stand_key_after_key_in_each_row(store):
    assert_same_bits(store.embedding_bags(KEYS, VALUES, OFFSETS), pooled())


@pytest.mark.parametrize(
    ("values", "offsets"),
    [
        (VALUES.tolist(), OFFSETS.tolist()),
        (VALUES.astype(np.int32), OFFSETS),
        (VALUES, OFFSETS.astype(np.int32)),
        (VALUES.repeat(2)[::2], OFFSETS.repeat(3)[::3]),
        (torch.from_numpy(VALUES), torch.from_numpy(OFFSETS).int()),
    ],
    ids=["lists", "int32 ids", "int32 offsets", "strided", "torch"],
)
def test_ids_and_offsets_of_every_kind(request_, values, offsets):
    assert_same_bits(request_(values, offsets), pooled())
    rows = request_.lookups(values, offsets)
    assert_same_bits(rows[0], SAMPLE[USER][[5, 199, 7]])


def per_table(tables, modes, paddings, ids, offsets, weights):
    """The bags of every table by its own call, side by side."""
    batch = (len(offsets) - 1) // len(tables)
    columns = []
    for i, (table, mode, padding) in enumerate(zip(tables, modes, paddings, strict=True)):
        starts = offsets[i * batch : (i + 1) * batch + 1]
        part = slice(starts[0], starts[-1])
        chosen = None if weights is None else weights[part]
        bags = table.embedding_bag(
            ids[part],
            starts - starts[0],
            chosen,
            mode,
            include_last_offset=True,
            padding_idx=padding,
        )
        columns.append(bags)
    return np.concatenate(columns, axis=1)


@settings(max_examples=80)
@given(st.data(), st.lists(tiered_tables(), min_size=1, max_size=5), st.integers(0, 6))
def test_a_request_equals_calls_of_its_tables(data, drawn, batch):
    chosen = [*drawn, *data.draw(st.lists(st.sampled_from(drawn), max_size=2))]
    tables = [table for table, _ in chosen]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    weighted = data.draw(st.booleans())
    modes = [
        "sum" if weighted else data.draw(st.sampled_from(["sum", "mean", "max"])) for _ in tables
    ]
    paddings = [data.draw(st.none() | st.integers(-table.rows, table.rows - 1)) for table in tables]
    longest = data.draw(st.sampled_from([0, 1, 4, 90]))
    sizes = rng.integers(0, longest + 1, (len(tables), batch))
    offsets = np.concatenate([[0], np.cumsum(sizes.reshape(-1))])
    ids = np.concatenate(
        [rng.integers(t.rows, size=n) for t, n in zip(tables, sizes.sum(axis=1), strict=True)]
    )
    weights = rng.normal(size=len(ids)).astype(np.float32) if weighted else None
    request = Request(tables, modes, paddings)
    got = request(ids, offsets, weights, threads=data.draw(st.integers(1, 3)))
    assert_same_bits(got, per_table(tables, modes, paddings, ids, offsets, weights))
    ends = np.cumsum(sizes.sum(axis=1))
    rows = request.lookups(ids, offsets)
    for (_, expected), part, own in zip(chosen, rows, np.split(ids, ends[:-1]), strict=True):
        assert_same_bits(part, expected[own])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_padding_only_are_zero(store, mode):
    request = store.request([USER, ITEM], mode, padding_idx=[5, -1])
    got = request([5, 5, 129, 129, 7], [0, 2, 5])
    assert not got[0, :7].any()
    assert_same_bits(got[0, 7:], SAMPLE[ITEM][7])


def test_padding_is_of_bags_and_not_of_lookups(store):
    request = store.request([USER], padding_idx=[5])
    assert_same_bits(request.lookups([5], [0, 1])[0], SAMPLE[USER][[5]])


def test_every_key_may_be_pooled_in_its_own_way(store):
    got = store.embedding_bags([USER, USER], [1, 2, 1, 2], [0, 2, 4], mode=["sum", "mean"])
    total = SAMPLE[USER][1] + SAMPLE[USER][2]
    assert_same_bits(got[0], np.concatenate([total, total / np.float32(2)]))


def test_weights_go_with_sums_only(store):
    weights = np.full(9, 2, np.float32)
    assert_same_bits(store.embedding_bags(KEYS, VALUES, OFFSETS, weights), 2 * pooled())
    modes = ["sum", "mean", "sum", "sum"]
    with pytest.raises(ArgumentError, match="weights go with mode 'sum' only"):
        store.embedding_bags(KEYS, VALUES, OFFSETS, weights, modes)


@pytest.mark.parametrize(
    ("weights", "error"),
    [(np.ones(8, np.float32), ArgumentError), (np.ones(9), DtypeError), ([[1.0]], ArgumentError)],
)
def test_weights_that_do_not_fit_are_refused(request_, weights, error):
    with pytest.raises(error):
        request_(VALUES, OFFSETS, weights)


# --- lookups ---------------------------------------------------------------------------------


@pytest.mark.parametrize("offsets", [OFFSETS, OFFSETS[::2]], ids=["of bags", "of keys"])
def test_lookups_give_the_rows_of_each_key(store, offsets):
    got = store.lookups(KEYS, VALUES, offsets)
    for key, rows, ids in zip(KEYS, got, np.split(VALUES, OFFSETS[2:-1:2]), strict=True):
        assert_same_bits(rows, SAMPLE[key][ids])


def test_lookups_are_views_of_one_buffer_in_order(request_):
    expected = np.concatenate([rows.reshape(-1) for rows in request_.lookups(VALUES, OFFSETS)])
    out = np.zeros(expected.size, np.float32)
    rows = request_.lookups(VALUES, OFFSETS, out)
    assert_same_bits(out, expected)
    assert all(np.shares_memory(part, out) for part in rows)


def test_a_batch_of_nothing_gives_no_rows(store):
    assert store.embedding_bags(KEYS, VALUES[:0], [0]).shape == (0, WIDTH)
    assert [rows.shape for rows in store.lookups(KEYS, [], [0])] == [(0, dim) for dim in DIMS]


# --- out -------------------------------------------------------------------------------------


def test_bags_are_written_into_out_which_is_returned(request_):
    out = np.full((2, WIDTH), np.nan, np.float32)
    assert request_(VALUES, OFFSETS, out=out) is out
    assert_same_bits(out, pooled())


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.zeros((2, WIDTH + 1), np.float32), ArgumentError),
        (np.zeros((1, WIDTH), np.float32), ArgumentError),
        (np.zeros((2, WIDTH)), DtypeError),
        (np.zeros((2, 2 * WIDTH), np.float32)[:, ::2], ArgumentError),
        (torch.zeros(2, WIDTH), DtypeError),
    ],
    ids=["wide", "short", "float64", "strided", "torch"],
)
def test_out_that_does_not_fit_is_refused(request_, out, error):
    with pytest.raises(error):
        request_(VALUES, OFFSETS, out=out)
    assert not out.any()


def test_out_within_the_memory_of_what_is_looked_up_is_refused(request_):
    memory = np.zeros(WIDTH + 9, np.int64)
    memory[: len(VALUES)] = VALUES
    out = memory.view(np.float32)[: 2 * WIDTH].reshape(2, WIDTH)
    with pytest.raises(ArgumentError, match="shares memory"):
        request_(memory[: len(VALUES)], OFFSETS, out=out)
    rows = memory.view(np.float32)[: sum(part.size for part in request_.lookups(VALUES, OFFSETS))]
    with pytest.raises(ArgumentError, match="shares memory"):
        request_.lookups(memory[: len(VALUES)], OFFSETS, rows)


def test_a_large_output_starts_on_a_cache_line(store):
    request = store.request([ITEM] * 100)
    got = request(np.zeros(100 * 90, np.int64), np.arange(100 * 90 + 1))
    for out in (got, request.empty(90)):
        assert out.shape == (90, 1600)
        assert out.ctypes.data % 64 == 0
    assert_same_bits(got, np.tile(SAMPLE[ITEM][0], (90, 100)))


# --- what is refused -------------------------------------------------------------------------


def test_an_unknown_table_is_named(store):
    with pytest.raises(UnknownTableError, match=r"'emb.users'.*did you mean emb.user.weight"):
        store.embedding_bags(["emb.users"], [0], [0, 1])


@pytest.mark.parametrize("keys", [[], USER], ids=["none", "one name"])
def test_keys_must_be_names(store, keys):
    with pytest.raises(ArgumentError):
        store.embedding_bags(keys, [0], [0, 1])


@pytest.mark.parametrize("mode", ["median", None, ["sum"], ["sum", "mean", "max", "x"]], ids=repr)
def test_modes_that_do_not_fit_are_refused(store, mode):
    with pytest.raises(ArgumentError, match="mode"):
        store.embedding_bags(KEYS, VALUES, OFFSETS, mode=mode)


@pytest.mark.parametrize("padding", [[0], [0, 1, 0, 0], [0, 0, 0, -201]], ids=repr)
def test_padding_ids_that_do_not_fit_are_refused(store, padding):
    with pytest.raises(ArgumentError, match="padding_idx"):
        store.request(KEYS, padding_idx=padding)


@pytest.mark.parametrize("threads", [0, -1, 1.0, None, "2"], ids=repr)
def test_threads_must_be_a_number_of_them(request_, threads):
    with pytest.raises(ArgumentError, match="threads"):
        request_(VALUES, OFFSETS, threads=threads)
    with pytest.raises(ArgumentError, match="threads"):
        request_.lookups(VALUES, OFFSETS, threads=threads)


BAD_OFFSETS = {
    "one too few": (OFFSETS[:-1], r"4 keys \* batch \+ 1 \(got 8\)"),
    "none": (OFFSETS[:0], r"4 keys \* batch \+ 1 \(got 0\)"),
    "not from 0": (OFFSETS + 1, "the first offset must be 0"),
    "not to the end": (np.minimum(OFFSETS, 8), "the last offset must be the number of ids"),
    "past the end": (np.where(np.arange(9) == 6, 90, OFFSETS), "offset 6 passes the end"),
    "falling": (np.where(np.arange(9) == 6, 5, OFFSETS), "offset 6 falls"),
    "of two dimensions": (OFFSETS[None], "one dimension"),
    "no bags of ids": ([0], "no bags, but 9 ids"),
}


@pytest.mark.parametrize(("offsets", "message"), BAD_OFFSETS.values(), ids=BAD_OFFSETS)
def test_offsets_that_make_no_bags_are_refused(request_, offsets, message):
    with pytest.raises(ArgumentError, match=message):
        request_(VALUES, offsets)


@pytest.mark.parametrize("dtype", [np.float32, np.uint64, bool])
def test_ids_and_offsets_of_other_dtypes_are_refused(request_, dtype):
    with pytest.raises(DtypeError, match="values"):
        request_(VALUES.astype(dtype), OFFSETS)
    with pytest.raises(DtypeError, match="offsets"):
        request_(VALUES, OFFSETS.astype(dtype))


# --- ids outside -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [1, -1, 2**40, -(2**63)])
def test_an_id_outside_names_table_id_and_position(request_, bad):
    values = VALUES.copy()
    values[4] = bad
    for call in (request_, request_.lookups):
        with pytest.raises(IdError, match=f"'{TINY}': id {bad} at position 4 is outside"):
            call(values, OFFSETS)


def test_ids_outside_are_counted_by_table(store):
    values = np.array([5, 200, -1, 0, 0, 129, 130, 3, -7])
    got = store.embedding_bags(KEYS, values, OFFSETS, bounds="default")
    assert_same_bits(got[0, :7], SAMPLE[USER][5])
    assert [store[key].ids_out_of_bounds for key in (USER, TINY, ITEM)] == [3, 0, 1]
    store.lookups(KEYS, values, OFFSETS, bounds="default")
    assert store[USER].ids_out_of_bounds == 6


def test_unknown_bounds_are_refused(request_):
    with pytest.raises(ArgumentError, match="bounds"):
        request_(VALUES, OFFSETS, bounds="clip")


def test_a_forged_row_map_names_its_table():
    tables = [memory_table(exact_rows(200, 4), [F32, INT8], np.arange(200) % 2)[0] for _ in "ab"]
    tables[1]._view.rowmap[:] = 255
    with pytest.raises(CorruptStoreError, match="'emb': the row map points past tier 1 for row 6"):
        Request(tables)([150, 6], [0, 1, 2])


# --- the life of a request -------------------------------------------------------------------


def test_a_closed_store_answers_no_requests(store):
    request = store.request(KEYS)
    store.embedding_bags(KEYS, VALUES, OFFSETS)
    store.close()
    calls = [
        lambda: request(VALUES, OFFSETS),
        lambda: request.lookups(VALUES, OFFSETS),
        lambda: store.request(KEYS),
        lambda: store.embedding_bags(KEYS, VALUES, OFFSETS),
        lambda: store.lookups(KEYS, VALUES, OFFSETS),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()


def test_a_request_outlives_a_store_that_was_not_closed(sample):
    request = sharkstore.open(sample).request(KEYS)
    gc.collect()
    assert_same_bits(request(VALUES, OFFSETS), pooled())


def test_requests_are_kept_by_keys_and_mode_but_not_without_end(store):
    first = store._prepared(KEYS, "sum")
    assert store._prepared(tuple(KEYS), "sum") is first
    assert store._prepared(KEYS, "mean") is not first
    seen = weakref.ref(first)
    del first
    for count in range(KEPT):
        store.embedding_bags([USER] * (count + 1), [], [0])
    gc.collect()
    assert seen() is None
    assert len(store._requests._all) <= KEPT


def test_requests_are_not_pickled(request_):
    with pytest.raises(TypeError, match="pickle the store"):
        pickle.dumps(request_)


def test_threads_of_a_request_give_the_same_rows():
    made = [memory_table(random_rows(500, dim, dim), [INT8])[0] for dim in (64, 16, 128)]
    request = Request(made)
    rng = np.random.default_rng(0)
    ids, offsets = rng.integers(500, size=3 * 5000), np.arange(0, 3 * 5000 + 1, 2)
    one = request(ids, offsets)
    rows = request.lookups(ids, offsets)
    for threads in (2, 5):
        assert_same_bits(request(ids, offsets, threads=threads), one)
        many = request.lookups(ids, offsets, threads=threads)
        for part, expected in zip(many, rows, strict=True):
            assert_same_bits(part, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_callers_at_once_get_their_own_rows(store, threads):
    request, ready = store.request([USER, ITEM]), threading.Barrier(8)

    def look_up(worker):
        rng = np.random.default_rng(worker)
        ready.wait()
        for _ in range(20):
            ids = rng.integers(130, size=2000)
            got = request(ids, np.arange(2001), threads=threads)
            expected = [SAMPLE[USER][ids[:1000]], SAMPLE[ITEM][ids[1000:]]]
            assert_same_bits(got, np.concatenate(expected, axis=1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(look_up, range(8)))


def test_closing_while_threads_call_gives_right_rows_or_closed_errors(sample):
    for _ in range(5):
        store, ready = sharkstore.open(sample), threading.Barrier(5)
        ids, offsets = np.arange(100).repeat(20), np.arange(2001)

        def look_up(_, store=store, ready=ready, ids=ids, offsets=offsets):
            ready.wait()
            while True:
                try:
                    got = store.embedding_bags([USER], ids, offsets)
                except ClosedError:
                    return
                assert_same_bits(got, SAMPLE[USER][ids])

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(look_up, worker) for worker in range(4)]
            ready.wait()
            store.close()
            for worker in workers:
                worker.result()


FORK = """
import os, sys
import numpy as np
import sharkstore

def rows():
    return request(np.arange(40_000) % 130, np.arange(40_001), threads=2).tobytes()

with sharkstore.open(sys.argv[1]) as store:
    request = store.request(["emb.item.weight", "emb.user.weight"])
    before = rows()
    child = os.fork()
    same = rows() == before
    if child == 0:
        store.close()
        os._exit(not same)
    _, status = os.waitpid(child, 0)
    sys.exit(status != 0 or not same or rows() != before)
"""


def test_a_forked_child_has_threads_of_its_own(sample):
    done = subprocess.run([sys.executable, "-c", FORK, sample], check=False, timeout=60)
    assert done.returncode == 0
