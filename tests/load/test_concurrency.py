"""Threads, processes, and files that go away while a store is open."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from strategies import SAMPLE, assert_same_bits

import sharkstore
from sharkstore.errors import ClosedError

NAME = "emb.user.weight"
ROWS = SAMPLE[NAME]
THREADS = 8


def ids_of(seed):
    return np.random.default_rng(seed).integers(len(ROWS), size=500)


def test_threads_that_look_up_at_once_get_their_own_rows(store):
    ready = threading.Barrier(THREADS)

    def look_up(worker):
        ready.wait()
        for turn in range(20):
            ids = ids_of(worker * 100 + turn)
            assert_same_bits(store[NAME].lookup(ids), ROWS[ids])
            bags = store[NAME].embedding_bag(ids.reshape(-1, 1))
            assert_same_bits(bags, ROWS[ids])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(look_up, range(THREADS)))


def test_ids_outside_are_counted_from_all_threads(store):
    def look_up(_):
        for _ in range(50):
            store[NAME].lookup([-1, 0, 1000], bounds="default")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(look_up, range(THREADS)))
    assert store[NAME].ids_out_of_bounds == THREADS * 50 * 2


@pytest.mark.parametrize("io", ["mmap", "ram"])
def test_closing_while_threads_look_up_gives_right_rows_or_closed_errors(sample, io):
    for _ in range(10):
        store = sharkstore.open(sample, io=io)
        ready = threading.Barrier(THREADS)

        def look_up(worker, store=store, ready=ready):
            ids = ids_of(worker)
            ready.wait()
            while True:
                try:
                    got = store[NAME].lookup(ids)
                except ClosedError:
                    return
                assert_same_bits(got, ROWS[ids])

        with ThreadPoolExecutor(THREADS) as pool:
            workers = [pool.submit(look_up, worker) for worker in range(THREADS - 1)]
            ready.wait()
            store.close()
            for worker in workers:
                worker.result()


FORK = """
import os, sys
import numpy as np
import sharkstore

def rows():
    return store["emb.user.weight"].lookup(np.arange(200)).tobytes()

with sharkstore.open(sys.argv[1], io=sys.argv[2]) as store:
    before = rows()
    child = os.fork()
    same = rows() == before
    if child == 0:
        store.close()
        os._exit(not same)
    _, status = os.waitpid(child, 0)
    sys.exit(status != 0 or not same or rows() != before)
"""


@pytest.mark.parametrize("io", ["mmap", "ram"])
def test_a_forked_child_reads_the_same_and_may_close(sample, io):
    # in an interpreter of its own: forking one that has threads is another matter
    done = subprocess.run([sys.executable, "-c", FORK, sample, io], check=False, timeout=60)
    assert done.returncode == 0


DAEMONS = """
import sys, threading, time
import numpy as np
import sharkstore

ids = np.arange(200).repeat(200)

def look_up():
    while True:
        table.lookup(ids)

def open_again():
    while True:
        sharkstore.open(sys.argv[1]).close()

table = sharkstore.open(sys.argv[1])["emb.user.weight"]
for run in (look_up, look_up, open_again):
    threading.Thread(target=run, daemon=True).start()
time.sleep(0.1)
"""


def test_daemon_threads_do_not_disturb_the_end_of_a_process(sample):
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", DAEMONS, sample], capture_output=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("io", ["mmap", "ram"])
def test_lookups_go_on_when_the_store_is_deleted(copied, io):
    with sharkstore.open(copied, io=io) as store:
        shutil.rmtree(copied)
        assert_same_bits(store[NAME].lookup(np.arange(200)), ROWS)
        assert_same_bits(store.dense["mlp.weight"].copy(), SAMPLE["mlp.weight"])


def test_an_open_store_stays_as_it_was_when_a_new_one_takes_its_place(sample, copied):
    with sharkstore.open(copied) as store:
        os.rename(copied, f"{copied}.old")
        fresh = shutil.copytree(sample, copied)
        (fresh / "zarr.json").unlink()
        assert_same_bits(store[NAME].lookup(np.arange(200)), ROWS)


def test_a_store_in_ram_survives_truncated_files(copied):
    with sharkstore.open(copied, io="ram") as store:
        for chunk in copied.glob("*/*/*/c/0/0"):
            os.truncate(chunk, 0)
        assert_same_bits(store[NAME].lookup(np.arange(200)), ROWS)
