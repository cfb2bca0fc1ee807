"""Memory: of a conversion, whatever the table's size; of an open store of many tables."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import save
from strategies import make_store, random_rows

MIB = 1 << 20
OF_THIS_PROCESS = """
import re, sys
def mib(key):
    with open("/proc/self/status") as status:
        return int(re.search(key + r":\\s+(\\d+)", status.read())[1]) / 1024
"""
# of a conversion: the largest of samples, a few in every millisecond
CONVERSION = """
import threading
from sharkstore.convert import convert_checkpoint
before, peak, over = mib("RssAnon"), [0.0], threading.Event()
def watch():
    while not over.is_set():
        peak[0] = max(peak[0], mib("RssAnon"))
watcher = threading.Thread(target=watch)
watcher.start()
convert_checkpoint(sys.argv[1], sys.argv[2], **OPTIONS)
over.set()
watcher.join()
print([before, peak[0]])
"""


def run(code, *arguments):
    """Run code in a fresh process; the last line that it prints, as JSON."""
    command = [sys.executable, "-c", OF_THIS_PROCESS + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def converted(source, store, **options):
    """MiB beyond mapped files: of the process, and what a conversion added at most."""
    before, peak = run(f"OPTIONS = {options!r}" + CONVERSION, source, store)
    return peak, peak - before


def sparse_checkpoint(path, rows, dim):
    """A checkpoint of zeros that takes no room on disk."""
    size = rows * dim * 4
    entry = {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, size]}
    header = json.dumps({"emb": entry}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    return path


@pytest.mark.parametrize("tiers", ["int8", "f32=1%,f16=9%,int8=rest"])
def test_memory_of_a_conversion_does_not_grow_with_the_table(tmp_path, tiers):
    peaks = []
    for size in (512, 2048):
        path = sparse_checkpoint(tmp_path / f"{size}.safetensors", size * MIB // 256, 64)
        peaks.append(converted(path, tmp_path / f"{size}.shark", tiers=tiers)[1])
    assert peaks[1] < 120
    # a second task may be under way, or not
    assert peaks[1] < peaks[0] + 60


@pytest.mark.parametrize("tiers", ["f32", "int8", "f32=1%,f16=9%,int4=rest"])
def test_a_limit_is_kept_by_a_checkpoint_eight_times_as_large(tmp_path, tiers):
    path = sparse_checkpoint(tmp_path / "m.safetensors", 8 * 128 * MIB // 256, 64)
    whole, _ = converted(path, tmp_path / "m.shark", tiers=tiers, max_memory="128MiB")
    assert whole < 128


def test_memory_of_a_budget_does_not_grow_with_the_table(tmp_path):
    options = {"budget": "14%", "encodings": ["int8", "int4", "pq8.16", "constant"]}
    peaks = []
    for rows in (1 << 17, 1 << 19):
        path = save(tmp_path / f"{rows}.safetensors", {"emb": random_rows(rows, 32)})
        peaks.append(converted(path, tmp_path / f"{rows}.shark", **options)[1])
    assert peaks[1] < 120
    assert peaks[1] < peaks[0] + 40


def test_an_open_store_of_200_tables_takes_little_memory(tmp_path):
    tensors = {f"emb.f{i}": random_rows(300, 16, seed=i) for i in range(200)}
    path = make_store(tmp_path, tensors, tiers="f32=1%,f16=9%,int8=rest")
    code = """
import sharkstore
before = mib("VmRSS")
store = sharkstore.open(sys.argv[1])
assert len(store) == 200 and sum(len(table.tiers) for table in store.values()) == 600
print(mib("VmRSS") - before)
"""
    assert run(code, path) < 15


def test_a_lookup_reads_only_the_pages_it_needs(tmp_path):
    path = make_store(tmp_path, {"emb": random_rows(400_000, 16)}, tiers="f32")
    code = """
import sharkstore
store = sharkstore.open(sys.argv[1])
before = mib("RssFile")
row = store["emb"].lookup([200_000])
print(mib("RssFile") - before)
"""
    read = run(code, path)
    assert read < np.prod([400_000, 64]) / MIB / 4
