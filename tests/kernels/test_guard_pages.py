"""Kernels stay within their arrays, whatever row maps, ids and offsets say.

Every array lies between pages that may not be touched; what touches them crashes a process of
its own.
"""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from strategies import F16, F32, INT8, exact_rows, memory_table
from views import using

from sharkstore import kernels
from sharkstore.errors import CorruptStoreError

PROGRAM = Path(__file__).parent.parent / "guards.py"

every_backend = pytest.mark.parametrize("backend", kernels.backends())


def run(cases, backend):
    command = [sys.executable, "-X", "faulthandler", str(PROGRAM), cases, backend]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@every_backend
@pytest.mark.parametrize(
    "cases", ["sound", "few_ids", "forged", "forged_offsets", "changing", "encoding"]
)
def test_nothing_beside_an_array_is_touched(cases, backend):
    done = run(cases, backend)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@every_backend
def test_reads_behind_an_array_without_room_do_crash(backend):
    """So that the tests above say something."""
    done = run("no_room", backend)
    assert done.stdout == "room 64\nroom 0\n"
    assert -done.returncode in (signal.SIGSEGV, signal.SIGBUS), done.stderr


@every_backend
@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("row", [0, 70, 199])
def test_a_forged_slot_is_a_corrupt_store(backend, count, row):
    encodings = ([F32, F16, INT8] * 3)[:count]
    tiers = np.arange(200) % count
    table, _ = memory_table(exact_rows(200, 6), encodings, tiers)
    planes = (count - 1).bit_length()
    tier = int(tiers[row])
    counter = table._view.rowmap[row // 64, 8 * planes + 4 * tier :][:4]
    counter[:] = 255
    before = [other for other in range(200) if other // 64 != row // 64]
    message = f"'emb': the row map points past tier {tier} for row {row}; .*sharkstore verify"
    with using(backend):
        table.lookup(before)
        with pytest.raises(CorruptStoreError, match=message):
            table.lookup([*before, row, row, -1])
        with pytest.raises(CorruptStoreError, match=message):
            table.embedding_bag([*before, row], [0, 5])


@every_backend
def test_a_tier_that_the_table_lacks_is_a_corrupt_store(backend):
    table, _ = memory_table(exact_rows(64, 3), [F32, F16, INT8], np.arange(64) % 3)
    table._view.rowmap[0, :16] = 255
    with using(backend), pytest.raises(CorruptStoreError, match="past tier 3 for row 0"):
        table.lookup(np.arange(64))
