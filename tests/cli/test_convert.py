"""`sharkstore convert`: what it prints and where, progress, and being interrupted."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import termios
import time

import numpy as np
import pytest
import torch
from checkpoints import (
    ITEM,
    USER,
    as_stored,
    contents,
    model,
    names,
    read_back,
    save_stats,
    with_header,
)
from safetensors.numpy import load_file
from strategies import assert_same_bits

from sharkstore.convert import convert_checkpoint

MIXED = "f32=1%,f16=9%,int8=rest"


@pytest.fixture
def signed(tmp_path):
    """Stats with signed scores: of user and friend, which share a table, and of item."""
    arrays = {f"tables/{USER}/count": np.arange(1000), f"tables/{ITEM}/count": np.arange(500)}
    for name, score, change in (
        ("user", 0.5, -0.025),
        ("friend", 0.1, 0.0125),
        ("item", 0.75, 0.25),
    ):
        arrays[f"fields/{name}/score"] = np.array([score])
        arrays[f"fields/{name}/score_signed"] = np.array([change])
    fields = {"user": USER, "friend": USER, "item": ITEM}
    return save_stats(tmp_path / "signed.safetensors", arrays, fields)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "model.shark"


def test_the_command_makes_the_store_that_the_function_makes(spawn, checkpoint, store, tmp_path):
    done = spawn("convert", checkpoint, store, "--tiers", MIXED)
    assert done.code == 0
    convert_checkpoint(checkpoint, tmp_path / "same.shark", tiers=MIXED)
    assert contents(store) == contents(tmp_path / "same.shark")


def test_results_go_to_stdout_and_messages_to_stderr(shark, checkpoint, store):
    done = shark("convert", checkpoint, store, "--tiers", MIXED)
    assert done.code == 0
    header, *lines = done.out.splitlines()
    assert header.split()[:2] == ["table", "tiers"]
    assert [line.split()[0] for line in lines] == [USER, ITEM]
    assert "f32 10, f16 90, int8 900" in lines[0]
    assert "no priorities" in done.err
    assert "mlp.weight, mlp.bias" in done.err
    assert f"{store}: 40 KB of tables" in done.err


def test_quiet_says_nothing_beside_the_result(shark, checkpoint, store):
    done = shark("convert", checkpoint, store, "-q")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("table")


def test_json_is_the_whole_result(shark, checkpoint, store):
    done = shark("convert", checkpoint, store, "--json", "-q")
    found = json.loads(done.out)
    assert found["store"] == str(store)
    assert found["digest"].encode() in (store / "zarr.json").read_bytes()
    assert found["ratio"] == found["nbytes"] / found["source_nbytes"]
    assert [(t["name"], t["action"], t["rows"]) for t in found["tables"]] == [
        (USER, "store", 1000),
        (ITEM, "store", 500),
    ]
    assert found["dense"] == ["mlp.weight", "mlp.bias"]


def test_json_has_the_bytes_of_all_chunk_files(shark, checkpoint, store):
    found = json.loads(shark("convert", checkpoint, store, "--json").out)
    chunks = [raw for name, raw in contents(store).items() if not name.endswith("zarr.json")]
    assert found["data_bytes"] == sum(map(len, chunks))


def test_csv_can_be_read_again(shark, checkpoint, store):
    done = shark("convert", checkpoint, store, "--format", "csv")
    header, *rows = csv.reader(io.StringIO(done.out))
    assert header[0] == "table"
    assert [row[0] for row in rows] == [USER, ITEM]


def test_markdown_is_a_table(shark, checkpoint, store):
    lines = shark("convert", checkpoint, store, "--format", "markdown").out.splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert set(lines[1]) <= set("|-: ")


def test_verbose_names_every_tensor(shark, tmp_path, store):
    state = {f"w{index}": torch.ones(3) for index in range(9)}
    torch.save({"emb": torch.ones(9, 1), **state}, tmp_path / "m.pt")
    short = shark("convert", tmp_path / "m.pt", store)
    assert "w8" not in short.err
    assert "-v" in short.err
    assert "w8" in shark("convert", tmp_path / "m.pt", store, "-v", "--overwrite").err


def test_entries_that_cant_be_stored_are_named(shark, tmp_path, store):
    torch.save({"emb": torch.ones(9, 1), "epoch": 3}, tmp_path / "m.pt")
    done = shark("convert", tmp_path / "m.pt", store)
    assert done.code == 0
    assert "left out: epoch: a int, no tensor" in done.err


def test_many_entries_left_for_one_reason_are_a_line(shark, tmp_path, store):
    beside = {f"group.{index}": index for index in range(9)}
    torch.save({"model": {"emb": torch.ones(9, 1), "epoch": 3}, **beside}, tmp_path / "m.pt")
    done = shark("convert", tmp_path / "m.pt", store)
    assert "left out: epoch: a int, no tensor" in done.err
    assert "left out: 9, beside 'model' (group.0, group.1," in done.err
    assert "group.8" not in done.err
    assert (
        "left out: group.8:" in shark("convert", tmp_path / "m.pt", store, "-v", "--overwrite").err
    )


def test_stats_decide_tiers_and_fields(shark, checkpoint, store, stats):
    done = shark("convert", checkpoint, store, "--stats", stats, "--tiers", MIXED, "--keep", 1)
    assert done.code == 0
    assert "(pruned)" in done.out.splitlines()[2]
    rows, values = read_back(store, USER), model()[USER]
    assert_same_bits(rows[990:], values[990:])
    assert_same_bits(rows[:900], as_stored(values[:900], "int8"))


def test_several_fields_are_pruned_and_dropped(shark, checkpoint, store, stats):
    done = shark(
        *("convert", checkpoint, store, "--stats", stats, "--drop"),
        *("--prune", "user", "--prune", "friend"),
    )
    assert done.code == 0
    assert "dropped" in done.out.splitlines()[1]


@pytest.mark.parametrize(
    "options",
    [
        ["--keep", 1],
        ["--keep-share", "40%"],
        ["--prune-below", 0.7],
        ["--prune-bytes", "60 %"],
        ["--prune-bytes", "30KB"],
        ["--prune", "user", "--prune", "friend"],
    ],
    ids=lambda options: options[0],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_each_way_of_pruning_tells_what_goes_and_costs_and_saves(
    shark, checkpoint, store, signed, options, dry
):
    done = shark("convert", checkpoint, store, "--stats", signed, *options, *dry)
    assert done.code == 0
    lines = done.err.splitlines()
    cost = "-0.0125 (at most 0.6) nats a sample to first order"
    at = lines.index("pruned table     fields        predicted loss  first order  at most  saves")
    assert lines[at + 1 : at + 3] == [
        "emb.user.weight  user, friend         -0.0125      -0.0125      0.6  32 KB",
        f"pruned 2 fields: predicted loss {cost}, saves 32 KB of 40 KB",
    ]


def test_with_its_second_order_term_the_loss_is_predicted_to_second_order(
    shark, checkpoint, store, signed, tmp_path
):
    arrays = load_file(signed)
    for name in ("user", "friend", "item"):
        arrays[f"fields/{name}/score_curved"] = np.array([0.05])
    fields = {"user": USER, "friend": USER, "item": ITEM}
    stats = save_stats(tmp_path / "curved.safetensors", arrays, fields)
    done = shark("convert", checkpoint, store, "--stats", stats, "--prune-bytes", "32KB")
    cost = "+0.0875 nats a sample to second order, -0.0125 (at most 0.6) to first order"
    assert f"pruned 2 fields: predicted loss {cost}, saves 32 KB of 40 KB" in done.err
    assert "emb.user.weight  user, friend         +0.0875      -0.0125      0.6  32 KB" in done.err


def test_json_has_what_goes_and_its_total(shark, checkpoint, store, signed):
    options = ("convert", checkpoint, store, "--stats", signed, "--prune-bytes", "32KB", "--json")
    found = json.loads(shark(*options).out)
    sums = {"score": 0.6, "score_signed": -0.0125, "score_curved": None, "saved_nbytes": 31968}
    assert found["pruned"] == [{"table": USER, "fields": ["user", "friend"], **sums}]
    assert found["pruned_total"] == {"fields": 2, **sums}


def test_json_of_a_conversion_that_prunes_nothing_says_so(shark, checkpoint, store):
    found = json.loads(shark("convert", checkpoint, store, "--json").out)
    assert found["pruned"] == []
    assert found["pruned_total"] == {
        "fields": 0,
        "score": 0.0,
        "score_signed": 0.0,
        "score_curved": 0.0,
        "saved_nbytes": 0,
    }


def test_without_signed_scores_the_bound_alone_is_told(shark, checkpoint, store, stats):
    done = shark("convert", checkpoint, store, "--stats", stats, "--prune-below", "0.2")
    assert "predicted loss" not in done.err
    assert "share a table with one that is kept stay: friend" in done.err
    assert "note: nothing is pruned: --prune-below leaves all tables" in done.err
    done = shark(
        "convert", checkpoint, store, "--stats", stats, "--keep-share", "1%", "--overwrite"
    )
    assert "pruned 1 field: predicted loss at most 0.25 nats a sample to first order" in done.err


def test_without_scores_the_cost_is_not_known(shark, checkpoint, store):
    done = shark("convert", checkpoint, store, "--prune", ITEM)
    text = f"pruned 1 field: predicted loss not known, no score of {ITEM}, saves 7.98 KB of 40 KB"
    assert text in done.err


def test_the_fields_without_a_score_are_named(shark, checkpoint, store, tmp_path):
    fields = dict.fromkeys(("user", "friend", "a", "b", "c", "d"), USER)
    path = save_stats(tmp_path / "s.safetensors", {"fields/user/score": np.array([0.5])}, fields)
    options = [word for name in fields for word in ("--prune", name)]
    done = shark("convert", checkpoint, store, "--stats", path, *options)
    assert (
        "pruned 6 fields: predicted loss not known, no score of friend, a, b, c and 1" in done.err
    )


def test_a_dropped_table_leaves_no_mean_row_to_keep_the_loss(shark, checkpoint, store, signed):
    done = shark("convert", checkpoint, store, "--stats", signed, "--keep", 1, "--drop")
    assert "note: that loss is predicted for mean rows, which dropped tables lack" in done.err


def test_what_goes_is_a_message_and_not_a_result(shark, checkpoint, store, signed):
    options = ("convert", checkpoint, store, "--stats", signed, "--keep", 1, "-q")
    done = shark(*options, "--format", "csv")
    assert done.err == ""
    assert [len(row) for row in csv.reader(io.StringIO(done.out))] == [7, 7, 7]


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--keep-share", "60", "can't read '60'"),
        ("--keep-share", "0%", "share out of range"),
        ("--keep-share", "101%", "share out of range"),
        ("--prune-below", "nan", "not a score"),
        ("--prune-below", "inf", "not a score"),
        ("--prune-below", "-1", "not a score"),
        ("--prune-below", "low", "not a valid float"),
        ("--prune-bytes", "8G", "unknown unit 'G'"),
        ("--prune-bytes", "-5%", "can't read"),
        ("--prune-bytes", "0", "size out of range"),
    ],
)
def test_amounts_that_make_no_sense_are_bad_usage(shark, checkpoint, store, option, value, word):
    done = shark("convert", checkpoint, store, option, value)
    assert done.code == 2
    assert option in done.message
    assert word in done.message
    assert not store.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prune-below", 9], ["--prune-below 9 leaves no field", "at most 0.5"]),
        (["--prune-bytes", "90%"], ["36,000 of 40,000 bytes", "at most 32,000"]),
        (["--keep-share", "50%", "--keep", 1], ["--keep and --keep-share don't mix"]),
        (["--prune-below", 0, "--prune", "item"], ["--prune-below and --prune don't mix"]),
    ],
)
def test_pruning_that_cant_be_done_leaves_nothing(shark, checkpoint, store, stats, options, words):
    done = shark("convert", checkpoint, store, "--stats", stats, *options)
    assert done.code == 1
    assert all(word in done.message for word in words)
    assert not store.exists()


def test_a_plan_has_decided_what_goes(shark, checkpoint, store, signed, tmp_path):
    plan = tmp_path / "plan.json"
    options = ("convert", checkpoint, store)
    shark(*options, "--stats", signed, "--keep", 1, "--dry-run", "--plan-out", plan)
    for option, value in (("--keep-share", "5%"), ("--prune-below", 0), ("--prune-bytes", "5%")):
        done = shark(*options, "--plan", plan, option, value)
        assert done.code == 2
        assert f"{option} and --plan don't mix" in done.message
    done = shark(*options, "--plan", plan)
    assert (
        "pruned 2 fields: predicted loss -0.0125 (at most 0.6) a sample to first order" in done.err
    )


def test_tables_are_taken_by_glob(shark, checkpoint, store):
    done = shark("convert", checkpoint, store, "--tables", "mlp.w*", "--tables", "*user*", "--json")
    tables = json.loads(done.out)["tables"]
    assert [(t["name"], t["why"]) for t in tables] == [
        (USER, "matches '*user*'"),
        ("mlp.weight", "matches 'mlp.w*'"),
    ]


@pytest.mark.parametrize("extra", [[], ["--plan-out", "mine.json"]])
def test_a_dry_run_writes_the_plan_and_nothing_else(
    shark, checkpoint, store, tmp_path, monkeypatch, extra
):
    monkeypatch.chdir(tmp_path)
    done = shark("convert", checkpoint, store, "--dry-run", "--json", *extra)
    assert done.code == 0
    plan = extra[1] if extra else "model.shark.plan.json"
    assert names(tmp_path) == sorted(["model.safetensors", plan])
    found = json.loads(done.out)
    assert found["store"] is None
    assert found["digest"] is None
    assert os.path.basename(found["plan"]) == plan


def test_a_dry_run_tells_the_sizes_of_the_real_one(shark, checkpoint, store):
    options = ("convert", checkpoint, store, "--tiers", MIXED, "--json")
    dry = json.loads(shark(*options, "--dry-run").out)
    done = json.loads(shark(*options).out)
    sizes = ("nbytes", "source_nbytes", "ratio", "data_bytes", "tables")
    assert {key: dry[key] for key in sizes} == {key: done[key] for key in sizes}


def test_a_plan_is_replayed(shark, checkpoint, store, tmp_path):
    other = tmp_path / "other.shark"
    shark("convert", checkpoint, store, "--tiers", MIXED, "--plan-out", tmp_path / "plan.json")
    assert shark("convert", checkpoint, other, "--plan", tmp_path / "plan.json").code == 0
    assert contents(other) == contents(store)


def test_a_store_is_replaced_when_asked(shark, checkpoint, store):
    shark("convert", checkpoint, store)
    assert shark("convert", checkpoint, store, "--tiers", "f32", "--overwrite").code == 0
    assert_same_bits(read_back(store, USER), model()[USER])


def test_values_that_are_not_finite_become_zero_when_asked(shark, tmp_path, store):
    values = torch.ones(9, 1)
    values[3] = torch.nan
    torch.save({"emb": values}, tmp_path / "m.pt")
    done = shark("convert", tmp_path / "m.pt", store, "--nonfinite", "zero")
    assert done.code == 0
    assert "emb: 1 NaN or infinite values became 0" in done.err
    assert read_back(store, "emb")[3] == 0


def test_help_has_examples(shark):
    for flag in ("--help", "-h"):
        done = shark("convert", flag)
        assert done.code == 0
        assert "Examples:\n    sharkstore convert model.safetensors model.shark" in done.out


def test_the_command_alone_shows_its_help(shark):
    done = shark("--help")
    assert done.code == 0
    assert all(word in done.out for word in ("convert", "inspect", "verify", "lookup"))


def test_the_version_is_the_packages(spawn):
    from sharkstore import __version__

    assert spawn("--version").out == f"sharkstore, version {__version__}\n"


# --- progress --------------------------------------------------------------------------------


def on_terminal(executable, *arguments):
    """Exit code, and what the command writes to stderr when that is a terminal."""
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    with subprocess.Popen(
        [executable, *arguments], stdout=subprocess.DEVNULL, stderr=end
    ) as process:
        os.close(end)
        shown = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # the other end was closed
                break
            if not part:
                break
            shown += part
    os.close(terminal)
    return process.returncode, shown.decode()


def test_no_progress_goes_into_a_pipe(spawn, checkpoint, store):
    done = spawn("convert", checkpoint, store)
    assert done.code == 0
    assert "\r" not in done.err
    assert "%|" not in done.err


def test_a_terminal_shows_a_bar_for_each_stage(executable, checkpoint, store, stats):
    code, shown = on_terminal(
        executable, "convert", checkpoint, store, "--stats", stats, "--tiers", MIXED
    )
    assert code == 0
    for stage in ("rank", "read", "write"):
        assert f"\r{stage}: " in shown


def test_quiet_shows_no_bar_on_a_terminal(executable, checkpoint, store):
    assert on_terminal(executable, "convert", checkpoint, store, "-q") == (0, "")


# --- interrupted -----------------------------------------------------------------------------


@pytest.fixture
def huge(tmp_path):
    """A checkpoint of half a gigabyte of zeros that takes no room on the disk."""
    rows, dim = 2_000_000, 64
    size = rows * dim * 4
    entry = {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, size]}
    path = tmp_path / "huge.safetensors"
    path.write_bytes(with_header({"emb": entry}, b""))
    os.truncate(path, path.stat().st_size + size)
    return path


@pytest.mark.parametrize("seen", [b"read 3", b"write 1"])
def test_what_an_interrupted_run_did_is_kept_and_told(executable, huge, tmp_path, seen):
    command = [executable, "convert", huge, tmp_path / "m.shark"]
    journal = tmp_path / ".m.shark.partial" / "work" / "journal"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (journal.exists() and seen in journal.read_bytes()):
            assert process.poll() is None
            time.sleep(0.002)
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
    assert names(tmp_path) == [".m.shark.partial", "huge.safetensors"]
