"""Requests over tables that are not in the page cache, and within `max_resident`."""

import threading

import numpy as np
import pytest
from page_cache import drop
from strategies import assert_same_bits, make_store, random_rows

import sharkstore
from sharkstore import kernels
from sharkstore.errors import ArgumentError, IdError

MIB = 1 << 20
ROWS, DIM = 200_000, 16
NAMES = ("emb.a", "emb.b", "emb.c")
KEYS = ("emb.b", "emb.a", "emb.c", "emb.a")
TIERS = ["f32", "f32=25%,f16=25%,int8=rest"]
BATCH = 300


@pytest.fixture(scope="module", params=TIERS)
def path(request, tmp_path_factory):
    """Tables of 12.8 MB and less, none of them held in RAM."""
    tensors = {name: random_rows(ROWS, DIM) for name in NAMES}
    return make_store(tmp_path_factory.mktemp("cold"), tensors, tiers=request.param)


def ids_and_offsets(seed, batch=BATCH, most=5):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(most, size=batch * len(KEYS))
    ids = rng.integers(ROWS, size=int(lengths.sum()))
    return ids, np.concatenate([[0], np.cumsum(lengths)])


def in_memory(path, ids, offsets, weights=None, mode="sum"):
    with sharkstore.open(path, io="ram") as store:
        rows = store.lookups(KEYS, ids, offsets)
        return store.embedding_bags(KEYS, ids, offsets, weights, mode), np.concatenate(rows)


@pytest.mark.parametrize("options", [{}, {"max_resident": 48 * MIB}, {"io": "mmap"}])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_cold_requests_give_what_those_in_memory_give(path, options, dtype):
    ids, offsets = ids_and_offsets(0)
    weights = np.random.default_rng(1).normal(size=len(ids)).astype(np.float32)
    bags, rows = in_memory(path, ids, offsets)
    weighed, _ = in_memory(path, ids, offsets, weights)
    longest, _ = in_memory(path, ids, offsets, mode="max")
    drop(path)
    with sharkstore.open(path, **options) as store:
        given = ids.astype(dtype), offsets.astype(dtype)
        assert_same_bits(np.concatenate(store.lookups(KEYS, *given, threads=2)), rows)
        assert_same_bits(store.embedding_bags(KEYS, *given), bags)
        assert_same_bits(store.embedding_bags(KEYS, *given, weights, threads=3), weighed)
        assert_same_bits(store.embedding_bags(KEYS, *given, mode="max"), longest)


def test_only_pages_of_rows_of_a_request_are_read(path):
    ids, offsets = ids_and_offsets(2, batch=3)
    drop(path)
    with sharkstore.open(path) as store:
        store.embedding_bags(KEYS, ids, offsets)
        read = store.stats()["resident"]["cached"]
    assert 4096 <= read <= len(ids) * 2 * 5 * 4096  # rows may cross pages, and gaps are bridged


def test_what_is_looked_up_by_requests_is_counted(path):
    ids, offsets = ids_and_offsets(3)
    with sharkstore.open(path) as store:
        for _ in range(2):
            store.embedding_bags(KEYS, ids, offsets)
        store.lookups(KEYS, ids, offsets)
        told = {name: store[name].counts() for name in NAMES}
    starts = offsets[::BATCH]
    times = {name: KEYS.count(name) for name in NAMES}
    assert {name: one["calls"] for name, one in told.items()} == {
        n: 3 * t for n, t in times.items()
    }
    counts = dict.fromkeys(NAMES, 0)
    for key, count in zip(KEYS, np.diff(starts), strict=True):
        counts[key] += 3 * int(count)
    assert {name: one["ids"] for name, one in told.items()} == counts


def test_a_table_that_is_read_is_asked_for_and_the_others_are_left(path):
    per_key = 4096
    rng = np.random.default_rng(4)
    ids = rng.integers(ROWS, size=per_key * len(NAMES))
    offsets = np.arange(0, len(ids) + 1, per_key // 64)
    drop(path)
    with sharkstore.open(path) as store:
        cold = lambda: [store[name].counts()["cold"] for name in NAMES]  # noqa: E731
        store.embedding_bags(NAMES, ids, offsets)
        assert cold() == [True, True, True]
        store.warm()
        for _ in range(3):
            store.embedding_bags(NAMES, ids, offsets)
        assert cold() == [False, False, False]
        for stored in store["emb.c"].stored_rows:
            assert kernels.advise_pages(stored, "pageout")
        for _ in range(3):  # waited for; then asked for, which tells of which table
            store.embedding_bags(NAMES, ids, offsets)
            for stored in store["emb.c"].stored_rows:
                kernels.advise_pages(stored, "pageout")
        assert cold() == [False, False, True]


def test_ids_outside_of_a_cold_request_are_told(path):
    ids, offsets = ids_and_offsets(5)
    ids[len(ids) // 2] = ROWS
    drop(path)
    for options in ({}, {"max_resident": 48 * MIB}):
        with sharkstore.open(path, **options) as store:
            with pytest.raises(IdError, match=f"id {ROWS} at position {len(ids) // 2}"):
                store.embedding_bags(KEYS, ids, offsets)
            store.embedding_bags(KEYS, ids, offsets, bounds="default")
            assert sum(store[name].ids_out_of_bounds for name in NAMES) == 1


@pytest.mark.parametrize(("at", "to"), [(0, 1), (5, 2**40), (7, -3), (-1, 0)])
@pytest.mark.parametrize("options", [{}, {"max_resident": 48 * MIB}])
def test_bad_offsets_are_refused_cold_and_within_a_limit(path, at, to, options):
    ids, offsets = ids_and_offsets(6)
    offsets[at] = to
    drop(path)
    with sharkstore.open(path, **options) as store, pytest.raises(ArgumentError):
        store.embedding_bags(KEYS, ids, offsets)


def test_requests_within_a_limit_let_go_of_pages(tmp_path):
    tensors = {name: random_rows(700_000, DIM) for name in NAMES}  # 134 MB
    path = make_store(tmp_path, tensors, tiers="f32")
    limit = 48 * MIB
    with sharkstore.open(path, max_resident=limit) as store:
        store.warm()
        rng = np.random.default_rng(7)
        for _ in range(20):
            ids = rng.integers(700_000, size=4 * BATCH)
            starts = np.arange(4 * BATCH + 1)
            bags = store.embedding_bags(KEYS, ids, starts, threads=2)
            assert_same_bits(bags[:, :DIM], tensors["emb.b"][ids[:BATCH]])
            assert store.stats()["resident"]["mapped"] <= limit
        assert store.stats()["resident"]["dropped"] > 0


def test_threads_that_make_cold_requests_at_once_get_their_own(path):
    ids, offsets = ids_and_offsets(8)
    bags, _ = in_memory(path, ids, offsets)
    drop(path)
    wrong = []
    with sharkstore.open(path) as store:
        request = store.request(KEYS)

        def serve():
            all_bags = [request(ids, offsets, threads=2) for _ in range(10)]
            wrong.extend(one for one in all_bags if one.tobytes() != bags.tobytes())

        threads = [threading.Thread(target=serve) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
