"""Run the command line: in this process, or as users do, the installed executable."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from checkpoints import ITEM, USER, model, save, save_stats

from sharkstore.cli.main import main


@dataclass(frozen=True)
class Result:
    """What a run left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def message(self):
        """The error, without click's usage lines ahead of it."""
        return self.err.strip().rpartition("\n\n")[2]


@pytest.fixture
def shark(capsys, monkeypatch):
    """Run `sharkstore` with these arguments in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sharkstore", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leave:
            code = leave.code or 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def executable():
    """The installed command, beside the Python that runs the tests."""
    return Path(sys.executable).with_name("sharkstore")


@pytest.fixture
def spawn(executable):
    """Run the installed command to its end, its output in pipes."""

    def run(*arguments, **options):
        done = subprocess.run(
            [executable, *arguments], capture_output=True, text=True, check=False, **options
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of two tables and a layer."""
    return save(tmp_path / "model.safetensors", model())


@pytest.fixture
def stats(tmp_path):
    """Stats of that checkpoint: counts, scores, and a table that two fields share."""
    arrays = {
        f"tables/{USER}/count": np.arange(1000),
        f"tables/{ITEM}/count": np.arange(500)[::-1].copy(),
        "fields/user/score": np.array([0.5]),
        "fields/friend/score": np.array([0.1]),
        "fields/item/score": np.array([0.25]),
    }
    fields = {"user": USER, "friend": USER, "item": ITEM}
    return save_stats(tmp_path / "stats.safetensors", arrays, fields)
