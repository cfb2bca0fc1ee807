"""Stores that are exchanged, copied, pickled, or read while something else goes on."""

import copy
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from strategies import SAMPLE, SAMPLE_TIERS, make_store

import sharkstore
from sharkstore.convert import convert_checkpoint
from sharkstore.errors import ArgumentError, ClosedError
from sharkstore.load import open as open_module

NAME = next(iter(SAMPLE))


def exchange_after_reading(monkeypatch, folder, times=1):
    """Replace the store each time its root document has been read."""
    real, left = open_module.read_document, [times]

    def read_document(*arguments):
        result = real(*arguments)
        if left[0]:
            left[0] -= 1
            changed = {name: values * 100 for name, values in SAMPLE.items()}
            (folder / "newer").mkdir()
            newer = make_store(folder / "newer", changed, tiers=SAMPLE_TIERS)
            convert_checkpoint(
                newer.parent / "model.safetensors",
                folder / "model.shark",
                tiers=SAMPLE_TIERS,
                overwrite=True,
            )
        return result

    monkeypatch.setattr(open_module, "read_document", read_document)


def test_a_store_exchanged_while_it_is_opened_is_read_whole(tmp_path, monkeypatch):
    path = make_store(tmp_path, SAMPLE, tiers=SAMPLE_TIERS)
    exchange_after_reading(monkeypatch, tmp_path)
    with sharkstore.open(path) as store:
        rows = store[NAME].lookup(np.arange(store[NAME].rows))
    whole = np.abs(rows - SAMPLE[NAME] * 100).max()
    assert whole <= np.abs(SAMPLE[NAME] * 100).max() / 100


def test_a_store_removed_while_it_is_opened_is_an_error(tmp_path, monkeypatch):
    path = make_store(tmp_path, SAMPLE, tiers=SAMPLE_TIERS)
    real = open_module.read_document

    def read_document(*arguments):
        result = real(*arguments)
        shutil.rmtree(path)
        return result

    monkeypatch.setattr(open_module, "read_document", read_document)
    with pytest.raises(sharkstore.CorruptStoreError, match="chunk file missing"):
        sharkstore.open(path)


def test_a_store_goes_to_other_processes_by_its_path(sample):
    with sharkstore.open(sample, bounds="default") as store:
        code = (
            "import pickle, sys; store = pickle.loads(sys.stdin.buffer.read());"
            f"print(store[{NAME!r}].lookup([-1, 0]).sum())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(store), capture_output=True, check=True
        )
        assert float(done.stdout) == pytest.approx(store[NAME].lookup([-1, 0]).sum())


def test_a_copy_is_a_store_of_its_own(sample):
    with sharkstore.open(sample) as store:
        copy.copy(store).close()
        assert store[NAME].lookup([0]).shape[0] == 1


def test_a_table_is_not_pickled(store):
    with pytest.raises(TypeError, match="pickle the store"):
        pickle.dumps(store[NAME])


def test_a_closed_store_is_neither_entered_nor_pickled(sample):
    store = sharkstore.open(sample)
    store.close()
    with pytest.raises(ClosedError), store:
        pass
    with pytest.raises(ClosedError):
        pickle.dumps(store)


def test_out_may_not_be_memory_of_the_ids(store):
    table = store[NAME]
    memory = np.zeros(4 * table.dim, np.float32)
    ids = memory[: 2 * 4].view(np.int64)[:4]
    with pytest.raises(ArgumentError, match="shares memory"):
        table.lookup(ids, out=memory.reshape(4, table.dim))


def test_out_may_not_be_memory_of_the_weights(store):
    table = store[NAME]
    memory = np.zeros(table.dim, np.float32)
    with pytest.raises(ArgumentError, match="shares memory"):
        table.embedding_bag([[0, 1]], None, memory[None, :2], out=memory[None])


def test_counting_survives_a_fork_at_any_moment(sample):
    """Children look up unknown ids while threads of the parent do the same."""
    code = f"""
import os, signal, sys, threading
import numpy as np
import sharkstore
table = sharkstore.open({os.fspath(sample)!r}, bounds="default")[{NAME!r}]
bad = np.full(200_000, -1)
stop = []
def count():
    while not stop:
        table.lookup(bad)
threads = [threading.Thread(target=count, daemon=True) for _ in range(2)]
[thread.start() for thread in threads]
failed = 0
for _ in range(10):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        table.lookup([-1])
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
stop.append(1)
sys.exit(failed)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False)
    assert done.returncode == 0


def test_a_path_with_nul_is_no_store():
    with pytest.raises(sharkstore.StoreNotFoundError):
        sharkstore.open("a\0b")


def test_lookups_are_counted_by_thread_and_summed(store):
    table = store[NAME]
    table.lookup([-1, 0, 10**9], bounds="default")
    assert store.stats()["tables"][NAME]["ids_out_of_bounds"] >= 2
