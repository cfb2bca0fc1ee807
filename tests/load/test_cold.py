"""Rows that are not in the page cache: read ahead, all of them right, and no others."""

import os
import threading

import numpy as np
import pytest
from page_cache import drop
from strategies import assert_same_bits, make_store, random_rows

import sharkstore
from sharkstore import kernels

PAGE = os.sysconf("SC_PAGE_SIZE")
NAME = "emb.a"
ROWS, DIM = 200_000, 16  # 64 bytes a row: 12.8 MB
TIERS = ["f32", "f32=50%,int8=rest", "f32=1%,f16=9%,int8=rest"]


def cached(store):
    return store.stats()["resident"]["cached"]


@pytest.fixture(scope="module")
def rows():
    return random_rows(ROWS, DIM)


@pytest.fixture(scope="module", params=TIERS)
def path(request, rows, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cold"), {NAME: rows}, tiers=request.param)


@pytest.fixture(scope="module")
def plain(rows, tmp_path_factory):
    """A store of one tier."""
    return make_store(tmp_path_factory.mktemp("plain"), {NAME: rows}, tiers="f32")


def test_cold_rows_are_those_of_a_copy(path):
    ids = np.random.default_rng(0).integers(ROWS, size=5000)
    with sharkstore.open(path, io="ram") as store:
        expected = store[NAME].lookup(ids), store[NAME].embedding_bag(ids.reshape(-1, 5))
    for dtype in (np.int64, np.int32):
        drop(path)
        with sharkstore.open(path) as store:
            assert cached(store) == 0
            assert_same_bits(store[NAME].lookup(ids.astype(dtype)), expected[0])
        drop(path)
        with sharkstore.open(path) as store:
            bags = store[NAME].embedding_bag(ids.astype(dtype).reshape(-1, 5))
            assert_same_bits(bags, expected[1])


def test_only_pages_of_rows_that_are_looked_up_are_read(path):
    ids = np.random.default_rng(1).choice(ROWS, 20, replace=False)
    drop(path)
    with sharkstore.open(path) as store:
        store[NAME].lookup(ids)
        read = cached(store)
    assert PAGE <= read <= 20 * 2 * 5 * PAGE  # rows may cross pages, and gaps are bridged


def test_neighbours_are_read_together(plain):
    drop(plain)
    with sharkstore.open(plain) as store:
        store[NAME].lookup(np.arange(100_000, 110_000))
        assert 10_000 * DIM * 4 <= cached(store) <= 10_000 * DIM * 4 + 3 * PAGE


def test_ids_outside_are_not_read_and_told(plain):
    drop(plain)
    with sharkstore.open(plain, bounds="default") as store:
        bad = np.array([-1, ROWS, 2**62, -(2**63)])
        assert not store[NAME].lookup(bad).any()
        assert store[NAME].ids_out_of_bounds == 4
        assert cached(store) == 0


def test_a_table_is_warm_when_nothing_is_read_any_more_and_cold_again_when_something_is(plain):
    ids = np.random.default_rng(2).integers(ROWS, size=8192)
    drop(plain)
    with sharkstore.open(plain) as store:
        table = store[NAME]
        table.lookup(ids)
        assert table.counts()["cold"]
        store.warm()
        for _ in range(6):
            table.lookup(ids)
        assert not table.counts()["cold"]
        assert kernels.advise_pages(table.stored_rows[0], "pageout")
        assert cached(store) < store.nbytes / 4
        table.lookup(ids)
        assert table.counts()["cold"]


def test_what_was_asked_to_be_mapped_is_left_to_the_system(plain):
    with sharkstore.open(plain, io="mmap") as store:
        store[NAME].lookup(np.arange(10_000))
        assert not store[NAME].counts()["cold"]


def test_threads_that_look_cold_rows_up_at_once_get_their_own(plain, rows):
    drop(plain)
    wrong = []
    with sharkstore.open(plain) as store:

        def look_up(seed):
            for turn in range(5):
                ids = np.random.default_rng([seed, turn]).integers(ROWS, size=2000)
                if store[NAME].lookup(ids).tobytes() != rows[ids].tobytes():
                    wrong.append(seed)

        threads = [threading.Thread(target=look_up, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store[NAME].counts()["calls"] == 8 * 5
        assert store[NAME].counts()["ids"] == 8 * 5 * 2000
    assert not wrong


def test_a_cold_store_that_is_deleted_is_read_on(rows, tmp_path):
    import shutil

    path = make_store(tmp_path, {NAME: rows}, tiers="f32")
    drop(path)
    with sharkstore.open(path) as store:
        shutil.rmtree(path)
        ids = np.random.default_rng(3).integers(ROWS, size=1000)
        assert_same_bits(store[NAME].lookup(ids), rows[ids])
