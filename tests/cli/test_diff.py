"""`sharkstore diff`: figures for people and programs, and exit codes for release jobs."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from checkpoints import ITEM, USER, model, save

from sharkstore.diff import diff

TIERS = "f32=10%,f16=20%,int8=rest"


@pytest.fixture
def store(shark, checkpoint, stats, tmp_path):
    """A store of the checkpoint in three tiers."""
    path = tmp_path / "model.shark"
    assert shark("convert", checkpoint, path, "--tiers", TIERS, "--stats", stats).code == 0
    return path


@pytest.fixture
def other(tmp_path):
    """A checkpoint that lacks a table, and has another of another shape."""
    tensors = model() | {ITEM: np.zeros((7, 4), np.float32)}
    tensors["emb.new.weight"] = tensors.pop(USER)
    return save(tmp_path / "other.safetensors", tensors)


def test_every_table_and_tier_is_shown(shark, checkpoint, store):
    done = shark("diff", checkpoint, store)
    assert done.code == 0
    header, *lines = done.out.splitlines()
    names = ["table", "tier", "rows", "RMSE", "cosine", "changed"]
    assert header.split() == [*names, "worst", "row", "its", "RMS", "its", "largest"]
    firsts = [line.split()[0] for line in lines]
    assert firsts == [USER, "f32", "f16", "int8", ITEM, "f32", "f16", "int8", "total"]
    assert done.err.splitlines() == [
        "compared    2 tables, values in float32",
        "parameters  2 equal, 0 differ",
    ]


def test_shown_figures_are_those_of_the_comparison(shark, checkpoint, store):
    whole = diff(checkpoint, store).tables[0].whole
    line = shark("diff", checkpoint, store).out.splitlines()[1].split()
    assert line[1:4] == ["1,000", f"{whole.plain.rmse:.3g}", f"{whole.plain.cosine:.6f}"]
    worst = [str(whole.worst_row), f"{whole.worst_rms:.3g}", f"{whole.worst_abs:.3g}"]
    assert line[-3:] == worst


def test_files_of_ranks_are_compared_with_their_store(shark, tmp_path):
    (tmp_path / "ranks").mkdir()
    for rank in range(2):
        torch.save({"emb": torch.full((9, 2), float(rank))}, tmp_path / f"ranks/m_rank_{rank}.pt")
    named = ("--rank-files", "m_rank_{rank}.pt", "--sharded", "emb")
    both = tmp_path / "ranks", tmp_path / "m.shark"
    assert shark("convert", *both, *named).code == 0
    assert "--rank-files" in shark("diff", *both).err
    done = shark("diff", *both, *named, "--max-rmse", 0.1, "--json")
    assert (done.code, json.loads(done.out)["total"]["rows"]) == (0, 18)


def test_stats_add_what_lookups_see(shark, checkpoint, store, stats):
    done = shark("diff", checkpoint, store, "--stats", stats)
    assert "RMSE seen" in done.out.splitlines()[0]
    seen = diff(checkpoint, store, stats=stats).tables[0].whole.seen
    assert f"{seen.rmse:.3g}" in done.out.splitlines()[1]
    assert f"{sum(range(1000)):,}" in done.out.splitlines()[1]


def test_json_has_all_figures(shark, checkpoint, store, stats):
    done = shark("diff", checkpoint, store, "--stats", stats, "--json", "--max-rmse", 1)
    document = json.loads(done.out)
    found = diff(checkpoint, store, stats=stats)
    table, one = document["tables"][0], found.tables[0]
    assert table["rmse"] == one.whole.plain.rmse
    assert table["seen"]["cosine"] == one.whole.seen.cosine
    assert table["worst_row"] == one.whole.worst_row
    assert [tier["encoding"] for tier in table["tiers"]] == ["f32", "f16", "int8"]
    assert [tier["rmse"] for tier in table["tiers"]] == [t.plain.rmse for _, t in one.tiers]
    assert document["total"]["rmse"] == found.total.plain.rmse
    assert set(document["parameters"]["equal"]) == {"mlp.weight", "mlp.bias"}
    assert (document["same_structure"], document["max_rmse"], document["above"]) == (True, 1, [])


def test_json_is_json_whatever_the_values(shark, tmp_path):
    path = save(tmp_path / "nan.safetensors", {USER: np.full((20, 2), np.nan, np.float32)})
    done = shark("diff", path, path, "--json")
    assert done.code == 0
    table = json.loads(done.out, parse_constant=pytest.fail)["tables"][0]
    assert (table["rmse"], table["nonfinite_a"], table["changed"]) == (None, 40, 0)


def test_values_that_are_not_finite_are_counted_on_both_sides(shark, checkpoint, tmp_path):
    tensors = model()
    tensors[USER][3, :2] = np.nan, np.inf
    path = save(tmp_path / "nan.safetensors", tensors)
    header, line, *_ = shark("diff", path, checkpoint).out.splitlines()
    assert header.endswith("non-finite")
    assert line.endswith("2 / 0")
    assert "nan" not in line.replace("emb", "")


def test_csv_has_a_line_for_each_table_tier_and_parameter(shark, checkpoint, store, stats):
    done = shark("diff", checkpoint, store, "--format", "csv", "--stats", stats)
    header, *lines = csv.reader(io.StringIO(done.out))
    assert {len(line) for line in lines} == {len(header)}
    kinds = [line[0] for line in lines]
    assert kinds == ["table", *["tier"] * 3] * 2 + ["total", "parameter", "parameter"]
    at = header.index("seen_rmse")
    whole = diff(checkpoint, store, stats=stats).tables[0].whole
    assert float(lines[0][at]) == whole.seen.rmse


def test_markdown_is_a_table(shark, checkpoint, store):
    lines = shark("diff", checkpoint, store, "--format", "markdown").out.splitlines()
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert sum(USER in line for line in lines) == 4


def test_quiet_leaves_the_figures_alone(shark, checkpoint, store):
    done = shark("diff", checkpoint, store, "-q")
    assert done.err == ""
    assert done.out == shark("diff", checkpoint, store).out


def test_verbose_names_parameters(shark, checkpoint, store):
    assert "parameter   equal: mlp.bias" in shark("diff", checkpoint, store, "-v").err


def test_globs_leave_the_rest_out(shark, checkpoint, store):
    done = shark("diff", checkpoint, store, "--tables", "*item*")
    assert done.code == 0
    assert USER not in done.out
    assert "parameters" not in done.err


def test_a_bound_that_holds_is_exit_0(shark, checkpoint, store):
    assert shark("diff", checkpoint, store, "--max-rmse", 1).code == 0


@pytest.mark.parametrize("flags", [[], ["-q"], ["--json"]])
def test_above_a_bound_is_exit_1_naming_tables(shark, checkpoint, store, flags):
    rmse = max(one.whole.plain.rmse for one in diff(checkpoint, store).tables)
    done = shark("diff", checkpoint, store, "--max-rmse", 1e-6, *flags)
    assert done.code == 1
    assert f"table {USER}: RMSE " in done.err
    assert f"table {ITEM}: RMSE " in done.err
    assert f"RMSE {rmse:.3g}, at most 1e-06" in done.err


def test_pruned_and_dropped_tables_are_told_and_pass(shark, checkpoint, tmp_path):
    pruned, dropped = tmp_path / "pruned.shark", tmp_path / "dropped.shark"
    shark("convert", checkpoint, pruned, "--prune", ITEM)
    shark("convert", checkpoint, dropped, "--prune", ITEM, "--drop")
    done = shark("diff", checkpoint, pruned, "--max-rmse", 0.1)
    assert (done.code, done.err.splitlines()[1]) == (0, f"pruned in B {ITEM}")
    assert "constant, pruned in B" in done.out
    done = shark("diff", checkpoint, dropped, "--max-rmse", 0.1)
    assert (done.code, done.err.splitlines()[1]) == (0, f"dropped in B {ITEM}")
    assert done.out.splitlines()[2].split() == [ITEM, "dropped", "in", "B", "500"]


def test_other_structure_is_exit_1_and_says_what(shark, checkpoint, other):
    done = shark("diff", checkpoint, other, "-q")
    assert done.code == 1
    assert set(done.err.splitlines()) == {
        f"table {USER}: only in A",
        f"table {ITEM}: 500 × 4 in A, 7 × 4 in B",
        "table emb.new.weight: only in B",
    }
    assert "another shape" in done.out


def test_missing_parameters_are_exit_1(shark, checkpoint, store, tmp_path):
    path = save(tmp_path / "more.safetensors", model() | {"extra": np.zeros(3)})
    done = shark("diff", path, store)
    assert (done.code, done.err.splitlines()[-1]) == (1, "parameter extra: only in A")


@pytest.mark.parametrize("bound", ["-1", "nan", "inf", "much"])
def test_a_bound_that_is_none_is_a_usage_error(shark, checkpoint, store, bound):
    done = shark("diff", checkpoint, store, f"--max-rmse={bound}")
    assert done.code == 2
    assert done.out == ""


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "c"], ["a", "b", "--what"]])
def test_wrong_arguments_are_a_usage_error(shark, arguments):
    assert shark("diff", *arguments).code == 2


def test_failures_are_one_message_and_exit_1(spawn, checkpoint, tmp_path):
    (tmp_path / "text").write_text("no checkpoint")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing", tmp_path / "text", tmp_path / "folder"):
        done = spawn("diff", checkpoint, path)
        assert done.code == 1
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert "Traceback" not in done.err


def test_help_has_examples(shark):
    assert "Examples:\n    sharkstore diff model.safetensors" in shark("diff", "--help").out
