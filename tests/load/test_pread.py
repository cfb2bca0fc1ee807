"""Tables that are read from their files as rows are needed: the same rows, and none held."""

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from guards import offsets_of_any_kind
from handmade import write_view
from page_cache import drop
from safetensors.numpy import save_file
from strategies import SAMPLE, assert_same_bits, assert_same_values, make_store, random_rows
from views import TIERS, make_view, some_ids

import sharkstore
from sharkstore import kernels
from sharkstore.errors import ArgumentError, CorruptStoreError, IdError
from sharkstore.plan.build import build_plan
from sharkstore.plan.policy import Policy
from sharkstore.plan.stats import Stats
from sharkstore.readers.open import open_checkpoint
from sharkstore.write.store import write_store

NAME = "emb.a"
ROWS, DIM = 60_000, 24
MIB = 1 << 20
NAMES = ("emb.a", "emb.b", "emb.c")
KEYS = ("emb.b", "emb.a", "emb.c", "emb.a")
MIXES = [{"*": "pread"}, {"emb.a": "pread", "*": "ram"}, {"emb.b": "pread", "*": "mmap"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three tables in three tiers each, which lie in several chunk files."""
    tensors = {name: random_rows(ROWS, DIM, seed) for seed, name in enumerate(NAMES)}
    folder = tmp_path_factory.mktemp("pread")
    save_file(tensors, folder / "model.safetensors")
    source = open_checkpoint(folder / "model.safetensors")
    policy = Policy(tiers="f32=20%,f16=30%,int8=rest")
    write_store(
        source,
        source.tensors,
        build_plan(source.tensors, source.left, Stats(), policy),
        Stats(),
        str(folder / "model.shark"),
        provenance={"tool": "test", "source": {"name": "model"}},
        overwrite=False,
        progress=lambda *_: None,
        chunk_target=1 << 15,
    )
    return folder / "model.shark"


@pytest.fixture
def plain(tmp_path):
    """A table of one tier and one file, to be damaged."""
    return make_store(tmp_path, {NAME: random_rows(ROWS, DIM)}, tiers="f32")


def chunks(path):
    return sorted(path.glob("tables/*/*/c/*/0"))


def descriptors(path):
    """Those that this process has open of files below a path, deleted ones too."""
    real = os.path.realpath(path) + "/"
    found = []
    for one in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            if os.readlink(f"/proc/self/fd/{one}").startswith(real):
                found.append(int(one))
    return found


def a_request(seed, batch=200, most=6, keys=KEYS):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(most, size=batch * len(keys))
    ids = rng.integers(ROWS, size=int(lengths.sum()))
    return ids, np.concatenate([[0], np.cumsum(lengths)])


# --- the same rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("name", TIERS)
def test_rows_and_bags_of_every_encoding_are_those_of_a_copy(name, dtype, tmp_path):
    rng = np.random.default_rng(0)
    for rows, dim in ((130, 16), (65, 7), (1, 5)):
        view = make_view(TIERS[name], rows, dim, seed=rows)
        path = write_view(tmp_path / f"{rows}.shark", view)
        ids = some_ids(rows, 600, rng, dtype)
        starts = np.sort(rng.integers(601, size=90))
        starts[0] = 0
        weights = rng.normal(size=600).astype(np.float32)
        calls = [
            lambda t, i=ids: t.lookup(i),
            lambda t, i=ids: t.lookup(i.reshape(3, 2, 100)),
            lambda t, i=ids, s=starts, w=weights: t.embedding_bag(i, s, w),
            lambda t, i=ids, w=weights: t.embedding_bag(i.reshape(60, 10), None, w.reshape(60, 10)),
            lambda t, i=ids, s=starts: t.embedding_bag(i, [*s, 600], include_last_offset=True),
            *(
                lambda t, i=ids, s=starts, m=mode: t.embedding_bag(i, s, mode=m, padding_idx=0)
                for mode in ("sum", "mean", "max")
            ),
        ]
        with (
            sharkstore.open(path, io="ram", bounds="default") as copy,
            sharkstore.open(path, io="pread", bounds="default") as read,
        ):
            for call in calls:
                assert_same_values(call(read["emb"]), call(copy["emb"]))
            assert read["emb"].ids_out_of_bounds == copy["emb"].ids_out_of_bounds > 0


def test_rows_of_many_files_are_found_in_them(path):
    with sharkstore.open(path, io="pread") as read, sharkstore.open(path, io="ram") as copy:
        assert len(chunks(path)) > 3 * 4 * len(NAMES)
        for name in NAMES:
            ids = np.random.default_rng(1).permutation(ROWS)
            assert_same_bits(read[name].lookup(ids), copy[name].lookup(ids))
            in_order = np.arange(ROWS)
            assert_same_bits(read[name].lookup(in_order), copy[name].lookup(in_order))


@pytest.mark.parametrize("io", MIXES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_requests_over_tables_held_in_any_way_give_the_same(path, io, threads, dtype):
    ids, offsets = a_request(2, batch=2000)
    given = ids.astype(dtype), offsets.astype(dtype)
    weights = np.random.default_rng(3).normal(size=len(ids)).astype(np.float32)
    paddings = [None, int(ids[offsets[2000]]), 5, None]
    modes = ["sum", "mean", "max", "mean"]
    with sharkstore.open(path, io="ram") as copy, sharkstore.open(path, io=io) as store:

        def both(call):
            assert_same_bits(np.concatenate(call(store)), np.concatenate(call(copy)))

        both(lambda s: s.embedding_bags(KEYS, *given, threads=threads))
        both(lambda s: s.embedding_bags(KEYS, *given, weights, threads=threads))
        both(lambda s: s.request(KEYS, modes, paddings)(*given, threads=threads))
        both(lambda s: s.lookups(KEYS, *given, threads=threads))
        for key in (offsets[:1], np.zeros(4 * 3 + 1, np.int64)):
            empty = np.zeros(0, dtype), key if len(key) > 1 else np.zeros(5, np.int64)
            both(lambda s, e=empty: s.embedding_bags(KEYS, *e, threads=threads))


def test_more_than_is_read_at_a_time_is_read_in_parts(path):
    """A lookup of 11 MB of rows, bags of a thousand ids, and one bag of all of them."""
    ids = np.random.default_rng(4).integers(ROWS, size=120_000)
    bags = np.arange(0, len(ids), 1000)
    both = np.concatenate([ids, ids])
    starts = np.concatenate([bags, [len(ids), len(both)]])
    with sharkstore.open(path, io="pread") as read, sharkstore.open(path, io="ram") as copy:
        for mode in ("sum", "mean", "max"):
            call = (ids, bags, None, mode)
            assert_same_bits(read[NAME].embedding_bag(*call), copy[NAME].embedding_bag(*call))
        assert_same_bits(read[NAME].lookup(ids), copy[NAME].lookup(ids))
        one = ids.reshape(1, -1)
        assert_same_bits(read[NAME].embedding_bag(one), copy[NAME].embedding_bag(one))
        call = [NAME], both, starts
        assert_same_bits(read.embedding_bags(*call), copy.embedding_bags(*call))
        assert_same_bits(read.lookups(*call)[0], copy.lookups(*call)[0])


@pytest.mark.parametrize("tables", ["emb.b", "*"])
def test_cold_rows_are_the_same_and_few_others_are_read(path, tables):
    ids, offsets = a_request(5, batch=8, most=3)
    with sharkstore.open(path, io="ram") as copy:
        expected = copy.embedding_bags(KEYS, ids, offsets)
        rows = copy["emb.b"].lookup(ids)
    drop(path)
    with sharkstore.open(path, io={tables: "pread"}) as store:
        assert_same_bits(store.embedding_bags(KEYS, ids, offsets), expected)
        told = store.stats()["tables"]
        read = sum(tier["cached"] for tier in told["emb.b"]["tiers"])
        assert 4096 <= read <= len(ids) * 2 * 5 * 4096  # rows may cross pages, gaps are bridged
        assert told["emb.b"]["cold"]
        assert_same_bits(store["emb.b"].lookup(ids), rows)


def test_a_table_is_warm_when_nothing_is_read_from_the_disk_any_more(path):
    ids = np.random.default_rng(6).integers(ROWS, size=8192)
    drop(path)
    with sharkstore.open(path, io="pread") as store:
        store[NAME].lookup(ids[:1000])
        assert store[NAME].counts()["cold"]
        assert store.warm() == store.nbytes
        for _ in range(3):
            store[NAME].lookup(ids)
        assert not store[NAME].counts()["cold"]
        assert store[NAME].counts()["ids"] == 1000 + 3 * 8192


# --- what is wrong ---------------------------------------------------------------------------


def test_ids_outside_are_told_by_their_positions(path):
    ids = np.zeros(150_000, np.int64)
    ids[[70_000, 149_000]] = ROWS, -1
    starts = np.arange(0, len(ids) + 1, 500)
    with sharkstore.open(path, io="pread") as store:
        wrong = rf"id {ROWS} at position 70000 .* as are 1 more"
        with pytest.raises(IdError, match=wrong):
            store[NAME].lookup(ids)
        with pytest.raises(IdError, match=wrong):
            store[NAME].embedding_bag(ids, starts, include_last_offset=True)
        with pytest.raises(IdError, match=rf"'emb.a': id {ROWS} at position 70000"):
            store.embedding_bags(["emb.a", "emb.b"], ids, starts, threads=2)
        store.embedding_bags(["emb.a", "emb.b"], ids, starts, bounds="default")
        assert [store[name].ids_out_of_bounds for name in NAMES] == [1, 1, 0]


@pytest.mark.parametrize("offsets", [[1, 2], [0, 90, 80], [0, 50, 101], [0, -(2**62), 2**62]])
def test_bad_offsets_of_bags_are_refused(path, offsets):
    with sharkstore.open(path, io="pread") as store, pytest.raises(ArgumentError):
        store[NAME].embedding_bag(np.zeros(100, np.int64), offsets)


def told_of(store, ids, offsets):
    """What is made of a request of five bags: rows, or the error."""
    try:
        return store.embedding_bags([*KEYS, "emb.b"], ids, offsets).tobytes()
    except ArgumentError as error:
        return str(error)


@pytest.mark.parametrize("io", MIXES)
def test_offsets_of_any_kind_are_answered_as_for_a_copy(path, io):
    rng = np.random.default_rng(10)
    sound = 0
    with sharkstore.open(path, io="ram") as copy, sharkstore.open(path, io=io) as store:
        for count in (0, 1, 100):
            ids = rng.integers(ROWS, size=count)
            for offsets in offsets_of_any_kind(count, rng):
                expected = told_of(copy, ids, offsets)
                assert told_of(store, ids, offsets) == expected
                sound += isinstance(expected, bytes)
    assert sound > 50


def test_ids_and_offsets_that_change_meanwhile_lead_nowhere_else(path):
    rng = np.random.default_rng(11)
    ids, offsets = a_request(12, batch=400)
    lowest, highest = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    wild = rng.integers(lowest, highest, len(ids)), rng.integers(lowest, highest, len(offsets))
    moved = np.sort(rng.integers(0, len(ids), len(offsets)))
    sound, stop = (ids.copy(), offsets.copy()), threading.Event()

    def change():
        while not stop.is_set():
            for some, starts in ((ids, wild[1]), (wild[0], offsets), sound, (wild[0], moved)):
                given[0][:], given[1][:] = some, starts

    given = ids.copy(), offsets.copy()
    other = threading.Thread(target=change)
    with sharkstore.open(path, io=MIXES[1]) as store:
        request, met = store.request(KEYS), set()
        other.start()
        begin, turn = time.monotonic(), 0
        while turn < 150 or (len(met) < 2 and time.monotonic() - begin < 60):
            turn += 1
            try:
                request(*given, threads=1 + turn % 3, bounds="default")
                met.add(None)
            except ArgumentError as error:
                met.add(type(error))
        stop.set()
        other.join()
    assert met == {None, ArgumentError}, "the offsets never changed"


def test_a_forged_row_map_is_told_by_row_and_tier(tmp_path):
    view = make_view(TIERS["3 tiers"], 200, 16)
    view.rowmap[1, 16:32] = 255
    path = write_view(tmp_path / "forged.shark", view)
    with sharkstore.open(path, io="pread") as store, sharkstore.open(path, io="ram") as copy:
        for ids in (np.arange(200), np.arange(199, -1, -1)):
            calls = (
                lambda s, i=ids: s["emb"].lookup(i),
                lambda s, i=ids: s["emb"].embedding_bag(i.reshape(20, 10)),
                lambda s, i=ids: s.embedding_bags(["emb", "emb"], i, [0, 100, 200]),
            )
            for call in calls:
                with pytest.raises(CorruptStoreError, match="the row map points past") as expected:
                    call(copy)
                with pytest.raises(CorruptStoreError) as got:
                    call(store)
                assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("warm", [False, True])
def test_a_file_cut_short_under_a_reader_is_an_error_that_names_it(plain, warm):
    with sharkstore.open(plain, io="pread") as store:
        if warm:
            store.warm()
        os.truncate(chunks(plain)[0], 1000 * DIM * 4 + 10)
        assert_same_bits(store[NAME].lookup(np.arange(1000)), random_rows(ROWS, DIM)[:1000])
        ids = np.array([0, ROWS - 1])
        calls = (
            lambda: store[NAME].lookup(ids),
            lambda: store[NAME].lookup([1000]),  # of which some bytes are left
            lambda: store[NAME].embedding_bag(ids, [0]),
            lambda: store.embedding_bags([NAME], ids, [0, 2]),
            lambda: store.lookups([NAME, NAME], np.arange(8000) + 40_000, [0, 10, 8000], threads=3),
            store.warm,
        )
        for call in calls:
            with pytest.raises(
                CorruptStoreError, match=r"tables/emb.a/0/c/0/0: chunk file cut short"
            ):
                call()


def test_a_file_that_cannot_be_read_is_an_error_that_names_it_and_why(plain, tmp_path):
    with sharkstore.open(plain, io="pread") as store, open(tmp_path / "none", "wb") as unreadable:
        (mine,) = descriptors(plain)
        os.dup2(unreadable.fileno(), mine, inheritable=False)
        for call in (lambda: store[NAME].lookup([1]), lambda: store.lookups([NAME], [1], [0, 1])):
            with pytest.raises(CorruptStoreError, match=r"emb.a/0/c/0/0: can't read: Bad file"):
                call()


def test_a_missing_file_and_one_of_wrong_size_are_told_when_the_store_is_opened(plain):
    chunk = chunks(plain)[0]
    os.truncate(chunk, 1000)
    with pytest.raises(CorruptStoreError, match=r"c/0/0: chunk file of wrong size \(got 1,000"):
        sharkstore.open(plain, io="pread")
    chunk.unlink()
    with pytest.raises(CorruptStoreError, match=r"c/0/0: chunk file missing"):
        sharkstore.open(plain, io="pread")
    chunk.mkdir()
    with pytest.raises(CorruptStoreError, match=r"c/0/0: not a regular file"):
        sharkstore.open(plain, io="pread")
    assert not descriptors(plain)


FEW_FILES = """
import os, resource, sys
import sharkstore
from sharkstore.errors import OpenFilesError

# enough for the files of one table, and a few
limit = len(os.listdir("/proc/self/fd")) + 16
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    sharkstore.open(sys.argv[1], io="pread")
except OpenFilesError as error:
    print(error)
sharkstore.open(sys.argv[1]).close()
"""


def test_more_files_than_a_process_may_have_open_are_refused_with_the_remedy(path):
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, path], capture_output=True, text=True, check=True
    )
    assert "too many open files" in done.stdout
    assert re.search(r"expected fewer than \d+ in this process", done.stdout)
    assert "ulimit -n" in done.stdout


# --- nothing is held -------------------------------------------------------------------------


def test_nothing_is_mapped_and_what_is_cached_is_told(path):
    drop(path)
    with sharkstore.open(path, io={"emb.a": "pread", "*": "mmap"}) as store:
        told = store.stats()["tables"]["emb.a"]
        assert told["io"] == {"held": "pread", "why": "asked for"}
        assert [tier["cached"] for tier in told["tiers"]] == [0, 0, 0]
        store.warm(["emb.a"], ["f16"])
        store["emb.a"].lookup(np.arange(ROWS))
        store.warm(["emb.a"])
        told = store.stats()["tables"]["emb.a"]["tiers"]
        assert [(tier["ram"], tier["mapped"]) for tier in told] == [(0, 0)] * 3
        assert all(tier["cached"] >= tier["bytes"] > 0 for tier in told)
        with open("/proc/self/maps") as maps:
            mapped = [line for line in maps if str(path) in line]
        assert mapped
        assert not any("tables/emb.a/" in line for line in mapped)


def test_warm_reads_the_tiers_that_are_named(path):
    drop(path)
    steps = []
    with sharkstore.open(path, io="pread") as store:
        read = store.warm([NAME], ["f16"], steps.append)
        f32, f16, int8 = (t["cached"] for t in store.stats()["tables"][NAME]["tiers"])
    assert read == sum(steps)
    assert (f32, int8) == (0, 0)
    assert f16 >= read > 0


def test_rows_that_are_read_do_not_count_in_max_resident(tmp_path):
    rows = random_rows(400_000, DIM)  # 38 MB
    path = make_store(tmp_path, {NAME: rows, "emb.b": rows[:1000]}, tiers="f32")
    limit = 36 * MIB
    with pytest.raises(ArgumentError, match="max_resident is too small"):
        sharkstore.open(path, io="ram", max_resident=limit)
    io = {NAME: "pread", "emb.b": "mmap"}
    with sharkstore.open(path, io=io, max_resident=limit) as store:
        ids = np.random.default_rng(7).integers(1000, size=3000)
        offsets = np.array([0, 1500, 3000])
        found = store.lookups([NAME, "emb.b"], ids, offsets, threads=2)
        assert_same_bits(np.concatenate(found), rows[ids])
        assert_same_bits(store[NAME].lookup(ids), rows[ids])


def test_a_deleted_store_is_read_on_and_its_files_are_closed_with_it(plain):
    rows = random_rows(ROWS, DIM)
    store = sharkstore.open(plain, io="pread")
    request = store.request([NAME])
    assert len(descriptors(plain)) == 1
    shutil.rmtree(plain)
    ids = np.random.default_rng(8).integers(ROWS, size=500)
    assert_same_bits(store[NAME].lookup(ids), rows[ids])
    assert_same_bits(request(ids, np.arange(501)), rows[ids])
    store.close()
    assert not descriptors(plain)


def test_files_are_not_handed_on_to_programs_that_are_started(plain):
    with sharkstore.open(plain, io="pread"):
        assert [os.get_inheritable(one) for one in descriptors(plain)] == [False]


def test_closing_while_threads_look_up_lets_them_end(plain):
    rows = random_rows(ROWS, DIM)
    ids = np.random.default_rng(9).integers(ROWS, size=3000)
    ended = []
    store = sharkstore.open(plain, io="pread")
    request, ready = store.request([NAME]), threading.Barrier(4)

    def look_up(call):
        ready.wait()
        try:
            while True:
                assert_same_bits(call(), rows[ids])
        except sharkstore.errors.ClosedError:
            ended.append(True)

    calls = [lambda: store[NAME].lookup(ids), lambda: request(ids, np.arange(3001), threads=2)]
    workers = [threading.Thread(target=look_up, args=(call,)) for call in [*calls, calls[0]]]
    for worker in workers:
        worker.start()
    ready.wait()
    store.close()
    for worker in workers:
        worker.join()
    assert len(ended) == 3
    assert not descriptors(plain)


FORK = """
import os, pickle, sys
import numpy as np
import sharkstore

ids = np.random.default_rng(0).integers(60_000, size=(50, 400))

def rows():
    return b"".join(store["emb.a"].lookup(some).tobytes() for some in ids)

with sharkstore.open(sys.argv[1], io="pread") as store:
    before = rows()
    child = os.fork()
    same = rows() == before
    if child == 0:
        store.close()
        os._exit(not same)
    _, status = os.waitpid(child, 0)
    again = pickle.loads(pickle.dumps(store))
    held = again.stats()["tables"]["emb.a"]["io"]["held"]
    again.close()
    sys.exit(status != 0 or not same or rows() != before or held != "pread")
"""


def test_a_forked_child_reads_the_same_and_a_copy_is_held_the_same_way(path):
    done = subprocess.run([sys.executable, "-c", FORK, path], check=False, timeout=60)
    assert done.returncode == 0


def test_threads_read_their_own_rows(path):
    with sharkstore.open(path, io="ram") as copy:
        expected = copy[NAME].lookup(np.arange(ROWS))
    wrong = []
    drop(path)
    with sharkstore.open(path, io="pread") as store:

        def look_up(seed):
            for turn in range(10):
                ids = np.random.default_rng([seed, turn]).integers(ROWS, size=2000)
                if store[NAME].lookup(ids).tobytes() != expected[ids].tobytes():
                    wrong.append(seed)

        workers = [threading.Thread(target=look_up, args=(seed,)) for seed in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


# --- the native part alone -------------------------------------------------------------------


def test_what_the_native_part_is_given_is_checked(plain):
    folder = os.open(plain, os.O_RDONLY)
    name = str(chunks(plain)[0].relative_to(plain)).encode()
    size = ROWS * DIM * 4
    files = kernels.ChunkFiles(folder, [name], size, size, size + 4)
    for at, length in ((size, 1), (size - 10, 11), (2**63, 1)):
        with pytest.raises(ValueError, match="out of range"):
            files.read(at, np.empty(length, np.uint8))
    with pytest.raises(ValueError, match="out must be uint8"):
        files.read(0, np.empty(4, np.float32))
    with pytest.raises(ValueError, match="bytes out of range"):
        kernels.ChunkFiles(folder, [name], 2 * size, size, size + 4)
    with pytest.raises(OSError, match="none") as missing:
        kernels.ChunkFiles(folder, [b"none"], size, size, size + 4)
    assert missing.value.errno == errno.ENOENT
    os.close(folder)


def test_the_sample_is_served_whole(sample):
    with sharkstore.open(sample, io="pread") as store:
        for name, table in store.items():
            assert_same_bits(table.lookup(np.arange(table.rows)), SAMPLE[name])
        assert_same_bits(store.dense["mlp.weight"].copy(), SAMPLE["mlp.weight"])
        assert all(len(stored) == 0 for t in store.values() for stored in t.stored_rows)
