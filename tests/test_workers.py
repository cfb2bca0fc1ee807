"""Conversions by processes of this machine, some of which are lost."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoints import contents, names, save
from strategies import random_rows

import sharkstore.convert as convert
import sharkstore.write.scan as scan
import sharkstore.write.stages as stages
from sharkstore.convert import convert_checkpoint
from sharkstore.errors import ArgumentError, CheckpointError, WorkerError
from sharkstore.write import crew, elsewhere

ROWS = 40_000
TIERS = {"tiers": "f32=2%,f16=9%,int8=rest", "default_row": "mean"}
BUDGET = {"budget": "20%", "encodings": ["int8", "int4", "pq8.16", "constant"]}
# a module that workers find too: its tasks kill them, or fail
DEADLY = """
import os
import signal
from pathlib import Path

from sharkstore.errors import CheckpointError
from sharkstore.write import elsewhere

HERE = Path(__file__).parent


def dies(job, batch):
    if any((one.owner, one.tier, one.index) == ("emb.item", 2, 0) for one in batch):
        with (HERE / "tries").open("a") as file:
            file.write("x\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return elsewhere.write_there(job, batch)


def fails(job, batch):
    with (HERE / "tries").open("a") as file:
        file.write("x\\n")
    raise CheckpointError("cut short", where="m.pt", remedy="copy it again")
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A checkpoint of two tables and a parameter, and stats of it."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    tensors = {
        "emb.user": random_rows(ROWS, 16, seed=1),
        "emb.item": random_rows(ROWS // 4, 8, seed=2),
        "mlp.weight": random_rows(300, 500, seed=3),
    }
    stats = {
        f"tables/{name}/count": rng.zipf(1.3, len(tensors[name])).clip(0, 10**6)
        for name in ("emb.user", "emb.item")
    }
    return save(folder / "m.safetensors", tensors), save(folder / "stats.safetensors", stats)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Many small tasks."""
    monkeypatch.setattr(stages, "BATCH_BYTES", 1 << 16)
    monkeypatch.setattr(scan, "LEAST_SPAN", 1 << 16)
    monkeypatch.setattr(scan, "MOST_SPAN", 1 << 16)
    fill = functools.partial(convert.fill_store, chunk_target=1 << 15)
    monkeypatch.setattr(convert, "fill_store", fill)


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture
def deadly(tmp_path_factory, monkeypatch):
    """A module whose tasks kill their worker, or fail; it counts how often they were tried."""
    folder = tmp_path_factory.mktemp("deadly")
    (folder / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(folder)
    import deadly

    yield deadly
    del sys.modules["deadly"]


def by_workers(inputs, store, workers=2, **options):
    checkpoint, stats = inputs
    return convert_checkpoint(checkpoint, store, stats=stats, workers=workers, **options)


def alone(inputs, store, **options):
    """The bytes that a conversion in one process comes to."""
    checkpoint, stats = inputs
    convert_checkpoint(checkpoint, store, stats=stats, **options)
    return contents(store)


def children(pid):
    """Processes that a process started and that are still there."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for thread in threads for one in (thread / "children").read_text().split()]


def workers_of(pid):
    """Those that are workers: a process that spawns has one more, which keeps its semaphores."""
    return [
        child
        for child in children(pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def runs(pid):
    """Whether a process is there and more than an entry that nobody has read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def catches_interrupts(pid):
    """Whether Python is up in a process, and turns interrupts into exceptions."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) & 1 << signal.SIGINT - 1)


@pytest.mark.parametrize(
    ("options", "stage"),
    [(TIERS, "read"), (TIERS, "write"), (BUDGET, "measure")],
    ids=["read", "write", "measure"],
)
def test_a_worker_killed_half_way_costs_its_task_only(inputs, tmp_path, options, stage):
    killed = []
    seen = 0

    def kill(at, done, total):
        nonlocal seen
        seen += done * (at == stage)
        if not killed and seen >= total / 2:
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    by_workers(inputs, tmp_path / "m.shark", progress=kill, **options)
    assert len(killed) == 1
    assert contents(tmp_path / "m.shark") == alone(inputs, tmp_path / "alone.shark", **options)
    assert names(tmp_path) == ["alone.shark", "m.shark"]


def test_a_task_that_kills_its_workers_ends_the_run_and_leaves_its_work(
    inputs, tmp_path, monkeypatch, deadly
):
    with monkeypatch.context() as patched:
        patched.setattr(elsewhere, "write_there", deadly.dies)
        with pytest.raises(WorkerError, match="3 workers were lost at the same task"):
            by_workers(inputs, tmp_path / "m.shark", **TIERS)
    assert len((deadly.HERE / "tries").read_text().split()) == crew.TRIES == 3
    assert names(tmp_path) == [".m.shark.partial"]
    done = by_workers(inputs, tmp_path / "m.shark", **TIERS)
    assert 0 < done.resumed[0] < done.resumed[1]
    assert contents(tmp_path / "m.shark") == alone(inputs, tmp_path / "alone.shark", **TIERS)


def test_a_task_that_fails_fails_the_run_with_its_own_words(inputs, tmp_path, monkeypatch, deadly):
    monkeypatch.setattr(elsewhere, "write_there", deadly.fails)
    with pytest.raises(CheckpointError, match=r"^m\.pt: cut short; copy it again$"):
        by_workers(inputs, tmp_path / "m.shark", workers=1)
    assert names(tmp_path) == []


def test_workers_go_when_the_conversion_is_killed(inputs, tmp_path):
    code = """
import sys
from sharkstore.convert import convert_checkpoint
if __name__ == "__main__":
    def wait(stage, done, total):
        print(stage, flush=True)
        sys.stdin.read()
    convert_checkpoint(*sys.argv[1:3], workers=2, progress=wait)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, script, inputs[0], tmp_path / "m.shark"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        workers = workers_of(process.pid)
        process.kill()
    assert workers
    end = time.monotonic() + 20
    while any(map(runs, workers)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_interrupt_reaches_no_worker_not_even_one_that_starts(inputs, tmp_path):
    executable = Path(sys.executable).with_name("sharkstore")
    command = [executable, "convert", inputs[0], tmp_path / "m.shark", "--workers", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        while not any(map(catches_interrupts, workers_of(process.pid))):
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate()
    assert process.returncode == 1
    assert out == b""
    assert err.decode().split("\n") == [
        f"stopped; the same command goes on from here, or remove {tmp_path}/.m.shark.partial",
        "",
        "interrupted",
        "",
    ]


def test_more_workers_than_memory_holds_are_refused_with_how_many_fit(inputs, tmp_path):
    with pytest.raises(ArgumentError, match=r"too little for 500 workers .*--workers \d+ fit"):
        by_workers(inputs, tmp_path / "m.shark", workers=500, max_memory="8GiB")
    with pytest.raises(ArgumentError, match="not both"):
        by_workers(inputs, tmp_path / "m.shark", dask="tcp://127.0.0.1:1")
    assert not (tmp_path / "m.shark").exists()
