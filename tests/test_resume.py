"""Conversions that are killed: the next run goes on where they were, to the same bytes."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from checkpoints import contents, names, save
from strategies import random_rows

import sharkstore

KILLS = 3
ROWS = 300_000
# many small tasks, each of which takes a while, so that a kill comes in the midst of them
SMALL = """
import functools, json, sys
import sharkstore.convert as convert
import sharkstore.write.scan as scan
import sharkstore.write.stages as stages
stages.BATCH_BYTES = scan.LEAST_SPAN = scan.MOST_SPAN = 1 << 16
convert.fill_store = functools.partial(convert.fill_store, chunk_target=1 << 16)
if __name__ == "__main__":
    options = json.loads(sys.argv[3])
    done = convert.convert_checkpoint(sys.argv[1], sys.argv[2], tell=print, **options)
    print(json.dumps(done.resumed))
"""
TIERS = {"tiers": "f32=2%,f16=9%,int8=rest", "default_row": "mean"}
CODED = {"tiers": "int8=5%,pq4.16=rest", "rounding": "metric"}
BUDGET = {"budget": "20%", "encodings": ["int8", "int4", "pq8.16", "constant"]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A checkpoint of two tables and a parameter, and stats of it."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    tensors = {
        "emb.user": random_rows(ROWS, 16, seed=1),
        "emb.item": random_rows(ROWS // 3, 8, seed=2),
        "mlp.weight": random_rows(300, 500, seed=3),
    }
    stats = {}
    for name, dim in (("emb.user", 16), ("emb.item", 8)):
        stats[f"tables/{name}/count"] = rng.zipf(1.3, len(tensors[name])).clip(0, 10**6)
        half = rng.normal(size=(dim, dim))
        stats[f"tables/{name}/metric"] = (half @ half.T).astype(np.float32)
    script = folder / "small.py"
    script.write_text(SMALL)
    return (
        save(folder / "m.safetensors", tensors),
        save(folder / "stats.safetensors", stats),
        script,
    )


def command(inputs, store, **options):
    checkpoint, stats, script = inputs
    told = json.dumps({"stats": str(stats), **options})
    return [sys.executable, script, checkpoint, store, told]


def convert(inputs, store, **options):
    """Convert in a process of its own; what it printed."""
    done = subprocess.run(
        command(inputs, store, **options), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def work_of(store):
    """Where the work of a conversion under way lies."""
    return store.with_name(f".{store.name}.partial") / "work"


def begun(inputs, store, **options):
    """A conversion in a process of its own, that has just begun to work."""
    before = set(work_of(store).glob("run-*"))
    run = subprocess.Popen(command(inputs, store, **options), stdout=subprocess.PIPE)
    while not set(work_of(store).glob("run-*")) - before and run.poll() is None:
        time.sleep(0.001)
    return run


def remove(store):
    for path in sorted(store.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    store.rmdir()


def kill_and_go_on(inputs, store, kills, seed, **options):
    """Kill a conversion so many times, at random moments; how many of its runs went on."""
    rng = np.random.default_rng(seed)
    undisturbed = store.with_name("undisturbed.shark")
    with begun(inputs, undisturbed, **options) as run:
        start = time.monotonic()
        assert run.wait() == 0
        whole = time.monotonic() - start
    expected, went_on = contents(undisturbed), 0
    for _ in range(kills):
        with begun(inputs, store, **options) as run:
            time.sleep(rng.uniform(0, 0.8) * whole)
            run.kill()
            went_on += b"going on where" in run.communicate()[0]
        if store.exists():  # it was done before the blow
            assert contents(store) == expected
            sharkstore.open(store).close()
            remove(store)
        else:
            with pytest.raises(FileNotFoundError):
                sharkstore.open(store)
    went_on += "going on where" in convert(inputs, store, **options)
    assert contents(store) == expected
    return went_on


@pytest.mark.parametrize(
    "options",
    [TIERS, CODED, BUDGET, {**TIERS, "workers": 2}],
    ids=["tiers", "codebooks", "budget", "workers"],
)
def test_killed_at_any_instant_it_comes_to_the_same_bytes(inputs, tmp_path, options):
    kill_and_go_on(inputs, tmp_path / "m.shark", KILLS, seed=len(str(options)), **options)
    assert names(tmp_path) == ["m.shark", "undisturbed.shark"]


@pytest.mark.parametrize("options", [TIERS, CODED, BUDGET], ids=["tiers", "codebooks", "budget"])
def test_every_number_of_workers_gives_the_same_bytes(inputs, tmp_path, options):
    found = []
    for workers in (None, 1, 3):
        convert(inputs, tmp_path / f"{workers}.shark", workers=workers, **options)
        found.append(contents(tmp_path / f"{workers}.shark"))
    assert found[0] == found[1] == found[2]


def stopped(inputs, store, **options):
    """A conversion that was killed when it had written a few parts."""
    journal = work_of(store) / "journal"
    with subprocess.Popen(command(inputs, store, **options), stdout=subprocess.DEVNULL) as run:
        while not (journal.exists() and journal.read_bytes().count(b" write ") > 1):
            assert run.poll() is None
            time.sleep(0.001)
        run.kill()
    return journal


def test_a_rerun_says_what_it_found_and_does_only_the_rest(inputs, tmp_path):
    journal = stopped(inputs, tmp_path / "m.shark", **TIERS)
    written = journal.read_bytes().count(b" write ")
    out = convert(inputs, tmp_path / "m.shark", **TIERS).splitlines()
    done, total = json.loads(out[-1])
    # the last line may have been cut off
    assert max(1, written - 1) <= done <= written < total
    assert f"{done} of {total} parts of the store are written already" in out[-2]
    assert "parts of the checkpoint are read" in out[-3]


@pytest.mark.parametrize("change", ["checkpoint", "stats", "plan"])
def test_for_other_inputs_it_starts_anew_and_says_why(inputs, tmp_path, change):
    stopped(inputs, tmp_path / "m.shark", **TIERS)
    options = {**TIERS, "tiers": "f16"} if change == "plan" else TIERS
    if change != "plan":
        path = inputs[["checkpoint", "stats"].index(change)]
        os.utime(path, ns=(time.time_ns(), time.time_ns()))
    out = convert(inputs, tmp_path / "m.shark", **options)
    assert out.splitlines()[0].startswith("an earlier run stopped here, for")
    assert change in out.splitlines()[0]
    assert "going on" not in out
    convert(inputs, tmp_path / "fresh.shark", **options)
    assert contents(tmp_path / "m.shark") == contents(tmp_path / "fresh.shark")


def test_another_version_starts_anew(inputs, tmp_path):
    journal = stopped(inputs, tmp_path / "m.shark", **TIERS)
    identity = journal.with_name("identity.json")
    document = json.loads(identity.read_text())
    identity.write_text(json.dumps({**document, "a version": "sharkstore 0.0.1"}))
    out = convert(inputs, tmp_path / "m.shark", **TIERS)
    assert out.startswith("an earlier run stopped here, for a version of before: starting anew")


@pytest.mark.parametrize("damage", ["gone", "short", "swapped", "journal", "line"])
def test_parts_that_were_damaged_since_are_made_again(inputs, tmp_path, damage):
    journal = stopped(inputs, tmp_path / "m.shark", **TIERS)
    store = journal.parents[1] / "store"
    some = sorted(path for path in store.rglob("*") if path.is_file() and path.stat().st_size > 9)
    if damage == "gone":
        some[0].unlink()
    elif damage == "short":
        os.truncate(some[0], 5)
    elif damage == "swapped":
        some[0].write_bytes(bytes(some[0].stat().st_size))
    elif damage == "journal":
        journal.write_bytes(journal.read_bytes()[:-7])
    else:
        raw = bytearray(journal.read_bytes())
        raw[len(raw) // 2] ^= 1
        journal.write_bytes(raw)
    convert(inputs, tmp_path / "m.shark", **TIERS)
    convert(inputs, tmp_path / "fresh.shark", **TIERS)
    assert contents(tmp_path / "m.shark") == contents(tmp_path / "fresh.shark")


@pytest.mark.parametrize(
    "lost", ["rowmap.0", "codebooks.0.safetensors", "*/choices.0", "plan.json"]
)
@pytest.mark.parametrize("how", ["gone", "short"])
def test_without_a_file_that_later_tasks_need_all_is_done_again(inputs, tmp_path, lost, how):
    options = BUDGET if "choices" in lost else CODED
    journal = stopped(inputs, tmp_path / "m.shark", **options)
    (path,) = journal.parent.glob(lost)
    if how == "gone":
        path.unlink()
    else:
        os.truncate(path, 5)
    assert "going on" not in convert(inputs, tmp_path / "m.shark", **options)
    convert(inputs, tmp_path / "fresh.shark", **options)
    assert contents(tmp_path / "m.shark") == contents(tmp_path / "fresh.shark")


def test_while_one_converts_a_second_says_so_and_leaves(inputs, tmp_path):
    store = tmp_path / "m.shark"
    with subprocess.Popen(command(inputs, store, **TIERS), stdout=subprocess.DEVNULL) as run:
        while not (tmp_path / ".m.shark.lock").exists():
            time.sleep(0.001)
        second = subprocess.run(
            command(inputs, store, **TIERS), capture_output=True, text=True, check=False
        )
        assert run.wait(60) == 0
    if second.returncode:  # slower machines see it after the first was done
        assert "another conversion is writing this store" in second.stderr or (
            "exists" in second.stderr
        )
    assert names(tmp_path) == ["m.shark"]
    sharkstore.open(store).close()
