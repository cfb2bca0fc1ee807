"""Conversions by a Dask cluster: real workers, lost, wrong or missing ones among them."""

import functools
import importlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from checkpoints import contents, names, save
from distributed import Client, LocalCluster
from strategies import random_rows

import sharkstore.convert as convert
import sharkstore.write.scan as scan
import sharkstore.write.stages as stages
from sharkstore.convert import convert_checkpoint
from sharkstore.errors import WorkerError
from sharkstore.write import cluster as ours
from sharkstore.write import elsewhere

ROWS = 40_000
OPTIONS = {
    "tiers": {"tiers": "f32=2%,f16=9%,int8=rest", "default_row": "mean"},
    "budget": {"budget": "20%", "encodings": ["int8", "int4", "pq8.16", "constant"]},
}
# the command line, with tasks as small as in `small`
COMMAND = """
import functools
import importlib
import sharkstore.convert as convert
import sharkstore.write.scan as scan
import sharkstore.write.stages as stages
from sharkstore.cli.main import main
stages.BATCH_BYTES = scan.LEAST_SPAN = scan.MOST_SPAN = 1 << 16
convert.fill_store = functools.partial(convert.fill_store, chunk_target=1 << 15)
main()
"""


def local(workers, **options):
    """A scheduler and so many workers of one thread, on free ports of the loopback."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        **options,
    )


@pytest.fixture(scope="module")
def cluster():
    """A scheduler with three workers of one thread, each its own process."""
    with local(3, processes=True) as cluster:
        cluster.wait_for_workers(3)
        yield cluster


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


@pytest.fixture
def small(monkeypatch):
    """Many small tasks."""
    monkeypatch.setattr(stages, "BATCH_BYTES", 1 << 16)
    monkeypatch.setattr(scan, "LEAST_SPAN", 1 << 16)
    monkeypatch.setattr(scan, "MOST_SPAN", 1 << 16)
    fill = functools.partial(convert.fill_store, chunk_target=1 << 15)
    monkeypatch.setattr(convert, "fill_store", fill)


def by_cluster(inputs, store, cluster, **options):
    checkpoint, stats = inputs
    return convert_checkpoint(
        checkpoint, store, stats=stats, dask=cluster.scheduler_address, **options
    )


def alone(inputs, store, **options):
    """The bytes that a conversion without a cluster comes to."""
    checkpoint, stats = inputs
    convert_checkpoint(checkpoint, store, stats=stats, **options)
    return contents(store)


class Blow:
    """Strikes once, when so much of a stage is done."""

    def __init__(self, stage, share, strike):
        self.stage, self.share, self.strike = stage, share, strike
        self.done, self.struck = 0, False

    def __call__(self, stage, done, total):
        if stage == self.stage:
            self.done += done
            if not self.struck and self.done >= self.share * total:
                self.struck = True
                self.strike()


def kill_one(cluster):
    with Client(cluster, set_as_default=False) as client:
        pids = client.run(os.getpid)
    os.kill(min(pids.values()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("which", "stage"), [("tiers", "read"), ("tiers", "write"), ("budget", "measure")]
)
def test_a_worker_killed_half_way_costs_its_tasks_only(
    inputs, tmp_path, cluster, small, which, stage
):
    blow = Blow(stage, 0.5, lambda: kill_one(cluster))
    options = OPTIONS[which]
    done = by_cluster(inputs, tmp_path / "m.shark", cluster, progress=blow, **options)
    assert blow.struck
    assert done.resumed is None
    assert contents(tmp_path / "m.shark") == alone(inputs, tmp_path / "alone.shark", **options)
    assert names(tmp_path) == ["alone.shark", "m.shark"]


def test_a_task_that_loses_its_workers_ends_the_run_and_leaves_its_work(
    inputs, tmp_path, cluster, small, monkeypatch
):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    usual = elsewhere.write_there

    def deadly(job, batch):
        if batch[0].owner == "emb.item":
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(job, batch)

    with monkeypatch.context() as patched:
        patched.setattr(elsewhere, "write_there", deadly)
        with pytest.raises(WorkerError, match="lost at the same task, again and again"):
            by_cluster(inputs, tmp_path / "m.shark", cluster, **OPTIONS["tiers"])
    assert names(tmp_path) == [".m.shark.partial"]
    cluster.wait_for_workers(3)
    done = by_cluster(inputs, tmp_path / "m.shark", cluster, **OPTIONS["tiers"])
    assert done.resumed[0] > 0
    assert contents(tmp_path / "m.shark") == alone(
        inputs, tmp_path / "alone.shark", **OPTIONS["tiers"]
    )


def test_a_scheduler_that_goes_ends_the_run_and_leaves_its_work(
    inputs, tmp_path, small, monkeypatch
):
    monkeypatch.setattr(ours, "SECONDS", 1)  # that a client waits for it to come back
    options = OPTIONS["tiers"]
    with local(1, processes=False) as brief:
        blow = Blow("write", 0.3, brief.close)
        with pytest.raises(WorkerError, match="goes on from here"):
            by_cluster(inputs, tmp_path / "m.shark", brief, progress=blow, **options)
    assert names(tmp_path) == [".m.shark.partial"]
    expected = alone(inputs, tmp_path / "alone.shark", **options)
    assert alone(inputs, tmp_path / "m.shark", **options) == expected


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "127.0.0.1:99999", "nowhere", "a://b:1"])
def test_without_a_scheduler_it_says_so_at_once(inputs, tmp_path, address):
    start = time.monotonic()
    with pytest.raises(WorkerError, match=f"{address}: no Dask scheduler"):
        convert_checkpoint(inputs[0], tmp_path / "m.shark", dask=address)
    assert time.monotonic() - start < 5
    assert not (tmp_path / "m.shark").exists()


def test_a_cluster_without_workers_is_told_to_start_some(inputs, tmp_path):
    with (
        local(0) as idle,
        pytest.raises(WorkerError, match="the cluster has no workers; start some"),
    ):
        by_cluster(inputs, tmp_path / "m.shark", idle)


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("0.0.1", r"another sharkstore \(got 0\.0\.1, expected"),
        (ImportError("not here"), "no sharkstore: not here; install sharkstore"),
    ],
    ids=["older", "none"],
)
def test_workers_of_another_version_are_refused(inputs, tmp_path, cluster, there, message):
    def pretend(version):
        def told(_package):
            if isinstance(version, Exception):
                raise version
            return version

        usual = ours.version
        ours.version = told
        return usual

    with Client(cluster, set_as_default=False) as client:
        worker = min(client.scheduler_info()["workers"])
        client.run(pretend, there, workers=[worker])
        try:
            with pytest.raises(WorkerError, match=f"{worker}: {message}"):
                by_cluster(inputs, tmp_path / "m.shark", cluster)
        finally:
            client.run(importlib.reload, ours, workers=[worker])
    assert not (tmp_path / "m.shark").exists()


def test_an_interrupted_run_leaves_its_work_to_go_on_with(inputs, tmp_path, cluster, small):
    checkpoint, stats = inputs
    store, journal = tmp_path / "m.shark", tmp_path / ".m.shark.partial/work/journal"
    options = ["--stats", stats, "--tiers", "f16", "--dask", cluster.scheduler_address]
    command = [sys.executable, "-c", COMMAND, "convert", checkpoint, store, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (journal.exists() and journal.read_bytes().count(b" write ") > 1):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 1
    assert out == b""
    assert err.decode().split("\n") == [
        f"stopped; the same command goes on from here, or remove {tmp_path}/.m.shark.partial",
        "",
        "interrupted",
        "",
    ]
    done = by_cluster(inputs, store, cluster, tiers="f16")
    assert 1 <= done.resumed[0] < done.resumed[1]
    assert contents(store) == alone(inputs, tmp_path / "alone.shark", tiers="f16")


def test_no_scheduler_is_a_failure_and_two_crews_are_bad_usage(inputs, tmp_path):
    command = [sys.executable, "-c", COMMAND, "convert", inputs[0], tmp_path / "m.shark"]
    options = ["--dask", "tcp://127.0.0.1:1"]
    for more, code, message in (
        ([], 1, "error: tcp://127.0.0.1:1: no Dask scheduler: [Errno 111] Connection refused\n"),
        (["--workers", "2"], 2, "--workers and --dask don't mix: who does the work?\n"),
    ):
        done = subprocess.run(
            [*command, *options, *more], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert done.stderr.endswith(message)
        assert done.stdout == ""
        assert not (tmp_path / "m.shark").exists()
