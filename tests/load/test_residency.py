"""What is in memory: told, read ahead by `warm`, and kept within `max_resident`."""

import re
import threading
import time

import numpy as np
import pytest
from page_cache import drop
from strategies import assert_same_bits, make_store, random_rows

import sharkstore
from sharkstore import kernels
from sharkstore.errors import ArgumentError, ClosedError, DtypeError, IdError, UnknownTableError

MIB = 1 << 20
NAME = "emb.a"
ROWS, DIM = 1_000_000, 32
LIMIT = 48 * MIB


@pytest.fixture(scope="module")
def rows():
    return random_rows(ROWS, DIM)


@pytest.fixture(scope="module")
def path(rows, tmp_path_factory):
    """Tables of 122 MiB in two tiers, and of 16 KiB."""
    tensors = {NAME: rows, "emb.small": random_rows(256, 16)}
    return make_store(tmp_path_factory.mktemp("residency"), tensors, tiers="f32=75%,f16=rest")


@pytest.fixture(scope="module")
def expected(path):
    """All rows, as they are served."""
    with sharkstore.open(path, io="ram") as store:
        return store[NAME].lookup(np.arange(ROWS))


def of_tiers(store, key):
    return [tier[key] for tier in store.stats()["tables"][NAME]["tiers"]]


# --- told ------------------------------------------------------------------------------------


def test_what_is_cached_and_what_is_mapped_are_told_apart(path):
    drop(path)
    with sharkstore.open(path, io={NAME: "mmap"}) as store:
        assert (of_tiers(store, "cached"), of_tiers(store, "mapped")) == ([0, 0], [0, 0])
        kernels.populate(store[NAME].stored_rows[1])
        size = store[NAME].stored_rows[1].nbytes
        first, second = of_tiers(store, "cached")
        assert (first, second) == (0, -(-size // 4096) * 4096)
        assert of_tiers(store, "mapped") == [0, second]
    with sharkstore.open(path, io={NAME: "mmap"}) as store:
        assert of_tiers(store, "cached") == [0, second]
        assert of_tiers(store, "mapped") == [0, 0]


def test_tables_in_ram_are_told_by_their_bytes(path):
    with sharkstore.open(path, io="ram") as store:
        told = store.stats()["resident"]
        sizes = [stored.nbytes for table in store.values() for stored in table.stored_rows]
    assert told == {
        "rss": sum(sizes),
        "ram": sum(sizes),
        "mapped": 0,
        "cached": 0,
        "limit": None,
        "dropped": 0,
    }


def test_lookups_are_counted(path):
    with sharkstore.open(path) as store:
        table = store[NAME]
        table.lookup(np.zeros(10, np.int64))
        table.embedding_bag(np.zeros((5, 4), np.int64))
        with pytest.raises(IdError):
            table.lookup([-1])
        told = store.stats()["tables"][NAME]
    assert (told["calls"], told["ids"]) == (3, 31)


def test_bytes_read_are_those_of_the_tiers_that_are_read(path):
    with sharkstore.open(path) as store:
        table = store[NAME]
        hot = table.tiers[0].rows  # by id, as there are no stats
        for _ in range(16):
            table.lookup(np.random.default_rng(0).integers(hot, size=8192))
        told = table.counts()
    assert told["bytes_read"] == 16 * 8192 * DIM * 4


def test_waits_for_the_disk_are_counted(path):
    drop(path)
    with sharkstore.open(path, io="mmap") as store:
        before = store.stats()["major_faults"]
        store[NAME].lookup([0, ROWS // 2])
        assert store.stats()["major_faults"] > before


def test_a_closed_store_tells_nothing_held(path):
    store = sharkstore.open(path, max_resident=LIMIT)
    table = store[NAME]
    view = table.stored_rows[0]
    assert view.nbytes
    store.close()
    assert store.stats()["resident"]["mapped"] == 0
    assert store._memory.budget is None


# --- warm ------------------------------------------------------------------------------------


def test_warm_reads_everything_and_tells_each_step(path):
    drop(path)
    steps = []
    with sharkstore.open(path) as store:
        read = store.warm(progress=steps.append)
        sizes = of_tiers(store, "bytes")
        assert all(c >= size for c, size in zip(of_tiers(store, "cached"), sizes, strict=True))
        # the kernel may leave what is less than a huge page at the end to be mapped when it is used
        mapped = zip(of_tiers(store, "mapped"), sizes, strict=True)
        assert all(m >= size - (2 << 20) for m, size in mapped)
    assert read == sum(steps) == store.nbytes
    assert len(steps) > 4


def test_a_table_that_was_warmed_is_not_asked_for(path):
    drop(path)
    with sharkstore.open(path) as store:
        assert store[NAME].counts()["cold"]
        store.warm([NAME], ["f16"])
        assert store[NAME].counts()["cold"]
        store.warm([NAME], ["f16", "f32"])
        assert not store[NAME].counts()["cold"]


def test_warm_that_is_interrupted_leaves_the_table_as_it_was(path):
    def interrupt(_):
        raise KeyboardInterrupt

    drop(path)
    with sharkstore.open(path) as store:
        with pytest.raises(KeyboardInterrupt):
            store.warm([NAME], ["f16"], interrupt)
        read = sum(of_tiers(store, "cached"))
        store[NAME].lookup([0])  # one page, and no read-ahead
        assert sum(of_tiers(store, "cached")) <= read + 2 * 4096


def test_warm_reads_the_tiers_that_are_named(path):
    drop(path)
    with sharkstore.open(path) as store:
        read = store.warm([NAME], ["f16"])
        first, second = of_tiers(store, "cached")
        assert read == store[NAME].stored_rows[1].nbytes
    assert first == 0
    assert second >= read


def test_warm_reads_a_table_on_the_same_pages_when_some_rows_were_read_before(path, expected):
    drop(path)
    ids = np.random.default_rng(0).integers(ROWS, size=500)
    with sharkstore.open(path) as store:
        store[NAME].lookup(ids)
        store.warm()
        assert sum(of_tiers(store, "mapped")) >= sum(of_tiers(store, "bytes")) - 2 * (2 << 20)
        assert_same_bits(store[NAME].lookup(ids), expected[ids])


@pytest.mark.parametrize("what", [{"tables": NAME}, {"tiers": "f16"}])
def test_warm_refuses_one_text(path, what):
    with sharkstore.open(path) as store, pytest.raises(ArgumentError, match="must be names"):
        store.warm(**what)


def test_warm_refuses_unknown_tables_and_tiers_and_closed_stores(path):
    store = sharkstore.open(path)
    with pytest.raises(
        ArgumentError, match=r"no table has such a tier \(got int3, expected f16, f32\)"
    ):
        store.warm(tiers=["f16", "int3"])
    with pytest.raises(UnknownTableError):
        store.warm(["emb.none"])
    store.close()
    with pytest.raises(ClosedError):
        store.warm()


def test_a_table_without_rows_is_warm(tmp_path):
    tensors = {"emb.none": np.zeros((0, 8), np.float32), "emb.one": random_rows(1, 8)}
    store = sharkstore.open(make_store(tmp_path, tensors, tables=["emb.*"], tiers="f32"), io="mmap")
    assert store.warm() == store.nbytes
    store.close()


# --- max_resident ----------------------------------------------------------------------------


def file_bytes():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssFile:\s+(\d+)", status.read())[1]) << 10


class Peak:
    """The most bytes of files in this process's page tables, sampled while it runs."""

    def __enter__(self):
        self._before, self.bytes, self._over = file_bytes(), 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self):
        while not self._over.wait(0.0005):
            self.bytes = max(self.bytes, file_bytes() - self._before)

    def __exit__(self, *_):
        self._over.set()
        self._watcher.join()


@pytest.mark.parametrize("state", ["cold", "cached"])
def test_mapped_rows_stay_within_the_limit(path, expected, state):
    drop(path)
    if state == "cached":
        with sharkstore.open(path) as store:
            store.warm()
    rng = np.random.default_rng(4)
    with sharkstore.open(path, max_resident=LIMIT) as store, Peak() as peak:
        for _ in range(15):  # 70 MiB of pages
            ids = rng.integers(ROWS, size=2000)
            assert_same_bits(store[NAME].lookup(ids), expected[ids])
        told = store.stats()["resident"]
    assert told["limit"] == LIMIT
    assert told["mapped"] <= LIMIT
    assert peak.bytes <= LIMIT * 1.1
    assert told["dropped"] > 0


def test_threads_stay_within_the_limit(path, expected):
    with sharkstore.open(path) as store:
        store.warm()
    wrong = []
    with sharkstore.open(path, max_resident=2 * LIMIT) as store, Peak() as peak:

        def look_up(seed):
            ids = np.random.default_rng(seed).integers(ROWS, size=8000)
            if store[NAME].lookup(ids).tobytes() != expected[ids].tobytes():
                wrong.append(seed)

        threads = [threading.Thread(target=look_up, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert peak.bytes <= 2 * LIMIT * 1.1


@pytest.mark.parametrize("weighted", [False, True])
def test_bags_are_the_same_within_a_limit(path, weighted):
    rng = np.random.default_rng(5)
    ids = rng.integers(ROWS, size=3000)
    weights = rng.normal(size=3000).astype(np.float32) if weighted else None
    starts = np.sort(rng.integers(3001, size=300))
    starts[0] = 0
    starts[50:60] = starts[50]  # empty bags
    ends = np.append(starts, 3000)
    calls = [
        (ids, starts, weights, "sum", False),
        (ids, ends, weights, "sum", True),
        (ids.reshape(-1, 6), None, None if weights is None else weights.reshape(-1, 6)),
        (ids[:0], np.zeros(4, np.int64), None if weights is None else weights[:0]),
    ]
    if not weighted:
        calls += [(ids, starts, None, mode) for mode in ("mean", "max")]
    with (
        sharkstore.open(path, io="ram") as plain,
        sharkstore.open(path, max_resident=LIMIT) as store,
    ):
        for call in calls:
            expected = plain[NAME].embedding_bag(*call)
            assert_same_bits(store[NAME].embedding_bag(*call), expected)
        padded = plain[NAME].embedding_bag(ids, starts, padding_idx=int(ids[7]))
        assert_same_bits(store[NAME].embedding_bag(ids, starts, padding_idx=int(ids[7])), padded)


def test_what_a_large_bag_brought_is_let_go_of_after_it(path):
    with sharkstore.open(path) as store:
        store.warm()
    ids = np.random.default_rng(6).integers(ROWS, size=30_000)
    with sharkstore.open(path, max_resident=LIMIT) as store:
        request = store.request([NAME])
        for call in (
            lambda: store[NAME].embedding_bag(ids, [0]),
            lambda: request(ids, [0, 30_000]),
        ):
            call()
            told = store.stats()["resident"]
            assert told["mapped"] <= LIMIT
            assert told["dropped"] > 0


@pytest.mark.parametrize("offsets", [[1, 2], [0, 90, 80], [0, 50, 101]])
def test_bad_offsets_are_refused_within_a_limit(path, offsets):
    with sharkstore.open(path, max_resident=LIMIT) as store, pytest.raises(ArgumentError):
        store[NAME].embedding_bag(np.zeros(100, np.int64), offsets)


def test_the_first_id_outside_is_told_by_its_position_within_a_limit(path):
    ids = np.zeros(1000, np.int64)
    ids[[700, 900]] = -5
    with sharkstore.open(path, max_resident=LIMIT) as store:
        with pytest.raises(IdError, match=r"id -5 at position 700 .* as are 1 more"):
            store[NAME].lookup(ids)
        store[NAME].lookup(ids, bounds="default")
        assert store[NAME].ids_out_of_bounds == 2


def test_warm_within_a_limit_maps_nothing(path):
    drop(path)
    with sharkstore.open(path, max_resident=LIMIT) as store:
        store.warm()
        assert of_tiers(store, "mapped") == [0, 0]
        end = time.monotonic() + 60  # what was asked for is on its way, if memory is not short
        while sum(of_tiers(store, "cached")) < sum(of_tiers(store, "bytes")):
            assert time.monotonic() < end
            time.sleep(0.05)
            store.warm()
        assert of_tiers(store, "mapped") == [0, 0]


@pytest.mark.parametrize("limit", [1, 16 * MIB])
def test_too_small_a_limit_is_refused(path, limit):
    with pytest.raises(ArgumentError, match="max_resident is too small"):
        sharkstore.open(path, max_resident=limit)


def test_tables_in_ram_count(path):
    with pytest.raises(ArgumentError, match="tables in RAM"):
        sharkstore.open(path, io="ram", max_resident=64 * MIB)


@pytest.mark.parametrize("limit", ["1GiB", 1e9])
def test_a_limit_is_an_integer(path, limit):
    with pytest.raises(DtypeError, match="max_resident must be an integer"):
        sharkstore.open(path, max_resident=limit)
