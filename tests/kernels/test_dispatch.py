"""Which kernels run, and who decides it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from strategies import assert_same_bits, exact_rows, memory_table

from sharkstore import kernels
from sharkstore.errors import ArgumentError

ROWS = exact_rows(50, 5)
KNOWN = ["avx512", "avx2", "neon", "portable"]


def run(code, kernel=None):
    """Run code in a fresh process whose environment names these kernels."""
    env = {key: value for key, value in os.environ.items() if key != "SHARKSTORE_KERNEL"}
    if kernel is not None:
        env["SHARKSTORE_KERNEL"] = kernel
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def tell(expression, kernel=None):
    """An expression over `kernels`, in a fresh process."""
    done = run(
        f"import json; from sharkstore import kernels; print(json.dumps({expression}))", kernel
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_machine_has_portable_kernels_and_the_fastest_come_first():
    names = kernels.backends()
    assert names[-1] == "portable"
    assert names == [name for name in KNOWN if name in names]


def test_the_fastest_kernels_run_unless_told_otherwise():
    assert tell("kernels.backend()") == kernels.backends()[0]


@pytest.mark.parametrize("kernel", kernels.backends())
def test_the_variable_chooses_the_kernels(kernel):
    assert tell("kernels.backend()", kernel) == kernel


def test_an_empty_variable_is_none():
    assert tell("kernels.backend()", "") == kernels.backends()[0]


def test_a_call_goes_before_the_variable():
    chosen = tell('[kernels.use_backend("portable"), kernels.backend()]', kernels.backends()[0])
    assert chosen == [None, "portable"]


USES = {
    "backend": "kernels.backend()",
    "use_backend": "kernels.use_backend('portable')",
    "a table": (
        "view = kernels.TableView(0, 1, [kernels.Tier(Encoding('f32'), 0, np.empty((0, 4), 'u1'))],"
        " None, np.zeros(1, 'f4')); kernels.bind(view)"
    ),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_unknown_kernels_are_refused_at_first_use_and_not_at_import(use):
    code = (
        "import numpy as np, sharkstore; from sharkstore import kernels\n"
        "from sharkstore.encodings import Encoding\n"
        "print('imported', flush=True)\n"
        f"{use}"
    )
    done = run(code, "cuda")
    assert done.stdout == "imported\n"
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("sharkstore.errors.ArgumentError: ")
    assert "SHARKSTORE_KERNEL: no kernels 'cuda'" in error
    assert " or ".join(kernels.backends()) in error


def test_unknown_kernels_in_a_call_are_refused_and_the_old_ones_stay():
    before = kernels.backend()
    for name in ("cuda", "", "AVX2"):
        with pytest.raises(ArgumentError, match=r"no kernels .*expected .*portable"):
            kernels.use_backend(name)
    assert kernels.backend() == before


def test_tables_bound_before_use_the_kernels_chosen_since():
    table, _ = memory_table(ROWS)
    before = kernels.backend()
    try:
        for name in kernels.backends():
            kernels.use_backend(name)
            assert_same_bits(table.lookup(np.arange(50)), ROWS)
    finally:
        kernels.use_backend(before)


def test_a_store_tells_its_kernels(sample):
    code = f"import sharkstore; print(sharkstore.open({os.fspath(sample)!r}).stats()['kernel'])"
    assert run(code, "portable").stdout == "portable\n"
