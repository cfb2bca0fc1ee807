"""tools/stress in small: answers are compared, and wrong ones are told."""

import re

import numpy as np
import pytest
from stress.__main__ import main
from stress.calls import differs
from stress.served import make_model
from stress.soak import MOST, Memory
from stress.workers import Plan, run_threads


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["stress", *options])
    return main()


def test_threads_get_what_they_ask_for(monkeypatch, capsys):
    assert run(monkeypatch, "--threads", "3", "--requests", "1000") == 0
    out = capsys.readouterr().out
    told = re.search(r"3 threads, ([\d,]+) requests.*: ([\d,]+) answers compared, 0 wrong", out)
    assert int(told[1].replace(",", "")) >= 3000
    assert int(told[2].replace(",", "")) >= 3000 // 16


def test_forked_processes_agree(monkeypatch, capsys):
    assert run(monkeypatch, "--processes", "2", "--requests", "100") == 0
    assert "2 forked processes, 100 requests each: 0 wrong, all alike" in capsys.readouterr().out


def test_a_wrong_answer_is_told(tmp_path):
    model = make_model(tmp_path)
    model.rows["emb.item"][:] += 1
    done = run_threads(model, Plan(2, 100, None, 0), lambda: None)
    assert done.wrong


def test_minus_zero_is_not_zero():
    assert differs("rows", np.zeros((1, 1), np.float32), -np.zeros((1, 1), np.float32))


@pytest.mark.parametrize(("step", "grew"), [(0, False), (MOST // 4, True)])
def test_memory_that_grows_is_told(step, grew):
    memory = Memory()
    memory._samples = [100 * MOST + step * i for i in range(100)]
    assert memory.grew == grew
