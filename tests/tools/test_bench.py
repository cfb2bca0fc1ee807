"""The benchmarks: figures, reports, and contenders that compute something else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import fleets, floor, memory, resume, sizing, traffic, traffic_ours
from benchmarks.bars import Bar
from benchmarks.check import Truth, WrongAnswerError
from benchmarks.data import draw, generate, make_work
from benchmarks.ours import Ours
from benchmarks.processes import watched
from benchmarks.report import Result, markdown
from benchmarks.sizing import Cost
from benchmarks.timing import (
    Claim,
    Contender,
    Effort,
    best_of,
    figure,
    measure,
    measure_each,
    ratios,
)
from benchmarks.workers import Input, Shared, Way
from fresh_memory import fresh_memory

import sharkstore
from sharkstore.kernels import reference

TOP = Path(__file__).resolve().parents[2]
SHORT = Effort(1, 0.0005, 4)


def bench(*arguments, code="from benchmarks.__main__ import cli; cli()"):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TOP / "tools")},
    )


# --- figures and reports -----------------------------------------------------------------------


def test_a_figure_is_the_median_and_the_middle_eight_tenths():
    found = figure([float(value) for value in range(1, 12)])
    assert found.median == 6
    assert found.spread == pytest.approx((10 - 2) / 6)
    assert figure([3.0]).spread == 0


def test_ratios_are_peer_over_ours_round_by_round():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_markdown_has_peers_over_ours_and_ours_over_floors():
    result = Result(
        "1,000 × 16", "lookup zipf", "ours", {"ours": [2e-9], "peer": [6e-9], "floor": [1e-9]}, {}
    )
    other = Result("1,000 × 16", "bag zipf", "ours", {"ours": [4e-9], "floor": [2e-9]}, {})
    lines = markdown([result, other], ["floor"]).splitlines()
    assert lines[0] == "### 1,000 × 16"
    assert lines[2] == "| | lookup zipf | bag zipf | notes |"
    assert lines[4] == "| **ours**, ns | 2.00 ±0% | 4.00 ±0% |  |"
    assert lines[5] == "| ours / floor | 2.00 ±0% | 2.00 ±0% |  |"
    assert lines[6] == "| peer / ours | 3.00 ±0% | – |  |"


# --- timing ------------------------------------------------------------------------------------


def contender(name, run):
    return Contender(name, (run,), 1, Claim("bytes"))


def busy(steps):
    return lambda _: sum(range(steps))


def test_contenders_take_turns_over_all_batches():
    seen = []
    first, second = (contender(n, lambda i, n=n: seen.append((n, i))) for n in "ab")
    found = measure([first, second], Effort(40, 0, 4))
    assert [name for name, _ in seen] == ["a", "b"] * 40
    assert set(seen) == {(name, i) for name in "ab" for i in range(4)}
    assert [len(found[name]) for name in "ab"] == [40, 40]


def test_the_best_setting_of_a_contender_counts():
    slow, fast = contender("x", busy(100_000)), contender("x", busy(10))
    assert best_of([slow, fast], SHORT) is fast


def test_lanes_share_a_batch():
    done = []
    both = Contender("x", (done.append, lambda i: done.append(-i)), 1, Claim("bytes"))
    measure([both], Effort(3, 0, 4))
    assert sum(done) == 0
    assert len(done) == 6


def test_every_single_request_of_a_turn_is_timed():
    slow, fast = contender("slow", busy(100_000)), contender("fast", busy(1))
    found = measure_each([slow, fast], Effort(3, 0.0005, 4))
    assert [len(turn) for turn in found["slow"]] == [1, 1, 1]
    assert all(len(turn) > 10 for turn in found["fast"])
    assert min(min(turn) for turn in found["slow"]) > 0.0005


# --- data --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("bench"), 2000, 16)


def test_zipf_ids_mostly_hit_the_rows_of_the_first_tier(source):
    store = Ours(source.store("f32=10%,int8=rest"))
    tiers, _ = reference.resolve(store.view, draw("zipf", 2000, 10_000))
    assert (tiers == 0).mean() > 0.6
    assert draw("uniform", 2000, 10_000).max() < 2000


def test_huge_arrays_start_on_a_huge_page():
    array = memory.huge((3, 5), np.float32)
    assert memory.address(array) % memory.HUGE == 0
    assert array.shape == (3, 5)
    assert not array.any()


@pytest.mark.parametrize("branching", [True, False])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("cache", [1, 2])
def test_the_floor_gathers_every_row(source, branching, stream, mapped, cache):
    store = Ours(source.store("f32=10%,int8=rest"))
    setting = floor.Setting(branching, stream, ahead=64, cache=cache)
    low = floor.Floor(store.view, source.folder, SHORT)
    for shape in ("lookup", "bag"):
        # a cache's worth of ids, and fewer than the floor looks ahead
        for count in (1600, 40):
            work = make_work("zipf", shape, source, count=count, batches=1)
            work.whole.out[:] = np.nan
            low.contender("floor", work, [setting], mapped=mapped).lanes[0](0)
            rows = source.values()[work.whole.ids[0]]
            tiers, _ = reference.resolve(store.view, work.whole.ids[0])
            exact = (tiers == 0).reshape(len(work.whole.out), -1).all(axis=1)
            wanted = rows.reshape(len(work.whole.out), -1, 16).astype(np.float64).sum(axis=1)
            assert np.allclose(work.whole.out[exact], wanted[exact], rtol=1e-5, atol=1e-6)
            assert shape == "bag" or exact.any()


# --- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["lookup", "bag"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_wrong_answer_is_refused(source, shape, threads):
    store = Ours(source.store("f32=10%,int8=rest"))
    work = make_work("zipf", shape, source, count=400, batches=2, threads=threads)
    truth = Truth(source, store.view)
    (ours,) = store.contenders(work)
    truth.check([ours], work)

    def off_by_one_bit(lane):
        def run(index):
            answer = lane(index).copy()
            answer[-1:, -1:].view(np.uint32)[:] ^= 1
            return answer

        return run

    wrong = Contender("wrong", tuple(map(off_by_one_bit, ours.lanes)), 400, Claim("stored"))
    with pytest.raises(WrongAnswerError, match="wrong"):
        truth.check([wrong], work)
    idle = Contender("idle", tuple(lambda _, p=p: p.out for p in work.parts), 400, Claim("stored"))
    with pytest.raises(WrongAnswerError, match="idle"):
        truth.check([idle], work)


def test_half_a_step_is_the_most_that_a_quantised_peer_may_be_off(source):
    work = make_work("uniform", "lookup", source, count=300, batches=1)
    truth = Truth(source, Ours(source.store("int8")).view)
    rows = source.values()[work.whole.ids[0]]
    step = np.ptp(rows, axis=1, keepdims=True) / 255
    for share, right in ((0.49, True), (0.6, False)):
        answer = (rows + share * step).astype(np.float32)
        one = Contender("peer", (lambda _, a=answer: a,), 300, Claim("source", 255))
        if right:
            truth.check([one], work)
        else:
            with pytest.raises(WrongAnswerError, match="peer"):
                truth.check([one], work)


# --- the commands ------------------------------------------------------------------------------

TINY = ("--rows", 2000, "--dim", 16, "--quick", "--repeats", 1, "--batch", 2000)


def test_lookup_end_to_end(tmp_path):
    done = bench("lookup", *TINY, "--only", "floor,float,zarr", "--json", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["results"]
    columns = {one["column"] for one in found}
    assert columns == {f"{s} {d}" for s in ("lookup", "bag") for d in ("zipf", "uniform")}
    names = {one["contender"] for one in found}
    assert {"sharkstore", "floor", "floor with row map", "zarr oindex fp32"} <= names
    assert all(one["median_s"] > 0 for one in found)
    assert list(tmp_path.iterdir()) == []


def test_rows_in_other_codes_are_timed_beside_int8(tmp_path):
    some = ("--tiers", "int8", "--only", "int4,pq4", "--shape", "lookup", "--distribution", "zipf")
    done = bench("lookup", *TINY, *some, "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    for codes in ("int4", "pq4"):
        assert f"| sharkstore, {codes} / sharkstore |" in done.stdout


WRONG_PEER = """
from benchmarks import peers_torch
from benchmarks.__main__ import cli
peers_torch._take = lambda mapped: lambda part: lambda i: mapped[part.ids[i] ^ 1]
cli()
"""


def test_a_wrong_contender_ends_the_run(tmp_path):
    done = bench("lookup", *TINY, "--only", "float", "--dir", tmp_path, code=WRONG_PEER)
    assert done.returncode == 1
    assert "wrong answer: numpy memmap fp32 take(out=)" in done.stderr
    assert "###" not in done.stdout


def test_open_and_convert_end_to_end(tmp_path):
    done = bench("open", "--tables", "1,3", "--quick")
    assert done.returncode == 0, done.stderr
    assert "| **sharkstore**, ms |" in done.stdout
    done = bench("convert", "--gb", 0.004, "--pairs", 1, "--quick", "--dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| `--tiers int8` |" in done.stdout
    assert "| `--tiers int8 --workers 1` |" in done.stdout
    assert "| `--budget 10%` |" in done.stdout
    assert "| `--budget 10% --encodings f16,int8,int4,int2,constant` |" in done.stdout
    sections = done.stdout.split("### ")
    for title in ("`sharkstore convert --workers 2`", "A rerun after SIGKILL", "Sizing: 10 TB"):
        (section,) = [one for one in sections if one.startswith(title)]
        assert "\n| `--tiers int8` |" in section
        assert "\n| `--budget 10% --encodings int8,int2,constant` |" in section
    assert list(tmp_path.iterdir()) == []


def test_a_command_is_watched_with_the_processes_that_it_starts():
    code = """
import subprocess, sys, time
block = bytearray(64 << 20)
child = "block = bytearray(64 << 20); print(len(block)); import time; time.sleep(0.5)"
print(subprocess.run([sys.executable, "-c", child], stdout=subprocess.PIPE).returncode)
"""
    ran = watched([sys.executable, "-c", code])
    assert ran.out == "0\n"
    assert 128 << 20 <= ran.private < 256 << 20
    assert ran.peak > ran.private
    with pytest.raises(subprocess.CalledProcessError):
        watched([sys.executable, "-c", "raise SystemExit(3)"])
    assert watched([sys.executable, "-c", "raise SystemExit(3)"], fails=True).code == 3


# --- workers, reruns, sizing -------------------------------------------------------------------


def test_a_conversion_that_is_killed_is_taken_up_where_it_was(source):
    way = Way("--tiers f32", {"tiers": "f32"}, bound=False)
    stored = Input(source.checkpoint, source.folder / "stats.safetensors")
    (found,) = resume.run([(stored, way)], 1, 0.1)
    assert 1 <= int(0.9 * found.tasks) <= found.found <= found.tasks
    assert f"| {found.found} of {found.tasks} |" in resume.text([found])


def test_the_sizing_note_multiplies_what_one_worker_costs():
    told = {
        "source": 10**9,
        "rows": 10**7,
        "stored": 3 * 10**8,
        "rowmaps": 10**6,
        "gathers": 2.0,
        "workers_cpu": 8.9,
        "train_workers_cpu": 2.0,
        "tasks_cpu": 0.5,
        "sample_cpu": 0.1,
    }
    way = Way("--budget 5%", {"budget": "5%"}, bound=True)
    pairs = ({1: [8.0], 2: [4.0]}, {1: [2.0], 2: [2.0]}, {1: [6.9], 2: [7.0]})
    shared = Shared(way, *pairs, {1: 1, 2: 2}, [told])
    assert shared.gained == [2.0]
    assert shared.gained_growing == [3.0]
    cost = Cost.of(shared, start=0.5)
    assert cost.worker == pytest.approx(6.4e-9)
    assert cost.alone == pytest.approx(0.6e-9)
    assert cost.reads == 4
    assert cost.scratch == pytest.approx(0.021)
    assert cost.seconds == pytest.approx(1000 + 6000)
    row = sizing.text([shared], 0.5).splitlines()[6]
    assert row == (
        "| `--budget 5%` | 0.16 | 16.7 | 100.0 | 116.7 | 40 | 3.21 | 210 | 5.71 | 0.459 | 72 |"
    )


# --- requests of many tables -------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return traffic.generate(tmp_path_factory.mktemp("serve"), 3, 500, 16)


def test_a_bar_says_whether_it_is_met():
    assert str(Bar("a", 5.25, 5)) == "- a: 5.25 × (bar 5)"
    assert str(Bar("a", 4.9, 5)) == "- a: **4.9 × (bar 5): missed**"
    assert str(Bar("a", 12.0, 15, "µs")) == "- a: 12 µs (bar 15)"
    assert not Bar("a", 16.0, 15, "µs").met


def test_a_rotation_has_all_ids_of_a_request_table_after_table(model):
    few, many = (traffic.make_requests(model, "uniform", batch, 2) for batch in (7, 200_000))
    assert len(few.ids) > len(many.ids) == 1
    assert few.offsets.tolist() == list(range(0, 3 * 7 * 2 + 1, 2))
    parts = few.split(few.ids[0])
    assert [len(part) for part in parts] == [14] * 3
    assert np.array_equal(np.concatenate(parts), few.ids[0])


@pytest.mark.parametrize("joined", [True, False])
def test_an_answer_with_two_samples_exchanged_is_refused(model, joined):
    requests = traffic.make_requests(model, "zipf", 40, 2)
    with sharkstore.open(model.store("int8")) as store:
        truth = traffic.Truth(model, store)
        request = store.request(model.names)

        def answer(index, order):
            found = request(requests.ids[index], requests.offsets)[order]
            return found if joined else np.split(found, 3, axis=1)

        right = np.arange(40)
        truth.check([Contender("us", (lambda i: answer(i, right),), 1, Claim("stored"))], requests)
        for a, b in ((0, 39), (1, 2)):
            wrong = right.copy()
            wrong[[a, b]] = b, a
            one = Contender("they", (lambda i, o=wrong: answer(i, o),), 1, Claim("stored"))
            with pytest.raises(WrongAnswerError, match="they"):
                truth.check([one], requests)


@pytest.mark.parametrize("pooled", [1, 3])
def test_the_floor_of_requests_gathers_the_rows_of_all_tables(model, pooled):
    requests = traffic.make_requests(model, "uniform", 30, pooled)
    effort = Effort(1, 0.0005, len(requests.ids))
    with sharkstore.open(model.store("f32")) as store:
        low = traffic_ours.RequestFloor(store, requests, model.folder, effort)
        (best,) = low.contenders_of_requests()
        got = best.lanes[0](0)
        wanted = store.request(model.names)(requests.ids[0], requests.offsets)
        assert np.allclose(np.concatenate(np.split(wanted, 3, axis=1)), got, atol=1e-6)


def test_memory_of_a_process_is_what_the_system_tells():
    before = fleets.rollup(os.getpid())
    held = fresh_memory(64 << 20)
    after = fleets.rollup(os.getpid())
    assert set(after) == set(fleets.FIELDS)
    assert after["Rss"] - before["Rss"] > 0.9 * len(held)
    assert fleets.rollup(0) == {}


FEW = ("--rows", 400, "--dim", 16, "--batch", "1,9", "--processes", 2, "--quick", "--repeats", 1)


def test_serve_end_to_end(tmp_path):
    some = ("--tables", "3,4", "--only", "floor,nn,float", "--json", "--dir", tmp_path)
    done = bench("serve", *FEW, *some)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kinds = {(one["tables"], one["pooled"], one["batch"]) for one in found["requests"]}
    assert kinds == {(t, p, b) for t in (3, 4) for p in (1, 20) for b in (1, 9)}
    names = {one["contender"] for one in found["requests"]}
    assert {"store.request", "floor", "replace_embeddings", "nn.EmbeddingBag fp32"} <= names
    assert all(0 < one["p50_s"] <= one["p99_s"] for one in found["requests"])
    processes = {(one["way"], one["processes"]) for one in found["processes"]}
    assert processes == {("sharkstore", 2), ("nn.EmbeddingBag", 2)}
    assert all(len(one["memory"]) == one["processes"] for one in found["processes"])
    assert {one["title"] for one in found["dlrm"]} == {"the embedding part", "the whole model"}
    assert any("nn.EmbeddingBag" in bar["what"] for bar in found["bars"])
    assert list(tmp_path.iterdir()) == []


def test_cold_rows_end_to_end(tmp_path):
    some = ("--cold", "--cold-size", 0.1, "--quick", "--repeats", 1, "--json", "--dir", tmp_path)
    done = bench("serve", *some)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] == found["processes"] == found["dlrm"] == []
    cold = found["cold"]
    assert [len(turn) for turns in cold["seconds"].values() for turn in turns] == [4] * 4
    assert cold["cached"] < 0.01
    assert 0 < cold["peak"] <= 1.1 * cold["max_resident"]
    assert cold["dropped"] > 0
    assert len(found["bars"]) == 3


WITHOUT_PEERS = """
from benchmarks import peers
from benchmarks.__main__ import cli
peers.missing = lambda: ["torch", "fbgemm"]
cli()
"""


def test_serve_without_peers_says_so(tmp_path):
    done = bench("serve", *FEW, "--tables", 3, "--dir", tmp_path, code=WITHOUT_PEERS)
    assert done.returncode == 0, done.stderr
    assert "Not installed, so left out: torch, fbgemm." in done.stdout
    assert "| **store.request**, µs |" in done.stdout
    assert "- 3 tables of 400 × 16, uniform ids, batch 1: store.request: " in done.stdout
    assert "nn.EmbeddingBag" not in done.stdout


WRONG_TABLES = """
from benchmarks import traffic_torch
from benchmarks.__main__ import cli
usual = traffic_torch.Tables.forward
traffic_torch.Tables.forward = lambda self, ids, starts: usual(self, ids, starts)[::-1]
cli()
"""


def test_tables_that_answer_for_one_another_end_the_run(tmp_path):
    some = ("--tables", 3, "--only", "float", "--section", "requests", "--dir", tmp_path)
    done = bench("serve", *FEW, *some, code=WRONG_TABLES)
    assert done.returncode == 1
    assert "wrong answer: nn.EmbeddingBag fp32" in done.stderr
    assert "###" not in done.stdout
