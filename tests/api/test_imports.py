"""What the serving side imports, what it exports, and which way modules import."""

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sharkstore
from sharkstore import errors

HEAVY = ("torch", "zarr", "numcodecs", "click", "safetensors", "google_crc32c", "tqdm")


def modules_after(statement: str, cwd: Path) -> set[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd
    )
    return set(json.loads(done.stdout))


def test_serving_import_loads_numpy_and_our_own(tmp_path: Path):
    plain = modules_after("import numpy", tmp_path)
    added = modules_after("import sharkstore", tmp_path) - plain
    tops = {name.split(".")[0] for name in added} - set(sys.stdlib_module_names)
    assert not tops & set(HEAVY)
    # a development install brings its own finder
    assert {top for top in tops if not top.startswith("_editable")} <= {"sharkstore", "numpy"}
    arm = ("readers", "plan", "quant", "write", "convert", "report", "cli", "importance")
    assert not {name for name in added if name.startswith(tuple(f"sharkstore.{a}" for a in arm))}
    assert len([name for name in added if name.startswith("sharkstore")]) <= 33


def test_the_command_line_does_without_torch_and_zarr(tmp_path: Path):
    loaded = modules_after("import sharkstore.cli.main", tmp_path)
    assert not {"torch", "zarr", "numcodecs"} & loaded


def test_exports_exist_and_are_all():
    assert all(hasattr(sharkstore, name) for name in sharkstore.__all__)
    assert sorted(sharkstore.__all__) == sharkstore.__all__


def test_every_module_imports_alone():
    names = [m.name for m in pkgutil.walk_packages(sharkstore.__path__, "sharkstore.")]
    assert len(names) > 30
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert sharkstore.__version__ == version("sharkstore")


ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.SharkstoreError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_are_of_the_tree_and_the_built_in_it_draws(kind):
    assert kind.__name__ in (errors.__doc__ or "")
    line = next(
        li
        for li in errors.__doc__.splitlines()
        if f"─ {kind.__name__} " in li + " " or li.strip() == kind.__name__
    )
    if "(" in line:
        built_in = line.split("(")[1].split(")")[0]
        assert issubclass(kind, getattr(__import__("builtins"), built_in))


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_say_where_got_expected_remedy_and_travel_between_processes(kind):
    import pickle

    error = kind("wrong", where="a/b", got=1, expected=2, remedy="mend it")
    assert str(error) == "a/b: wrong (got 1, expected 2); mend it"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_codes_are_unique():
    assert len({kind.code for kind in ERRORS}) == len(ERRORS)


def test_a_missing_native_module_says_how_to_build(tmp_path: Path):
    code = (
        "import sys; sys.modules['sharkstore.kernels._native'] = None\n"
        "try:\n import sharkstore\n"
        "except ImportError as error:\n print(error.__notes__[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "pip install" in done.stdout
    assert "C++17" in done.stdout
