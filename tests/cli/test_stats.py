"""`sharkstore stats`: what its commands print and where, and what they refuse."""

import csv
import io
import json
import os
import pty
import subprocess
import termios

import numpy as np
import pyarrow as pa
import pytest
from checkpoints import ITEM, USER, names, save_stats
from pyarrow import parquet

from sharkstore.stats.describe import describe
from sharkstore.stats.file import open_stats
from sharkstore.stats.merge import merge_stats

USAGE, FAILED = 2, 1


@pytest.fixture
def log(tmp_path):
    """A log of two columns of ids and a label."""
    users, items = [1, 2, 1, 999], pa.array([[1, 2], [], [499], [1]])
    table = pa.table({"user_id": users, "items": items, "click": [1, 0, 1, 0]})
    parquet.write_table(table, tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.safetensors"


def check(done, code, *words):
    """One message on stderr with these words in it, nothing on stdout."""
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.message
    assert done.message.startswith("Error: " if code == USAGE else "error: ")


# --- show ------------------------------------------------------------------------------------


def test_show_json_is_the_description(shark, stats):
    done = shark("stats", "show", stats, "--json")
    assert json.loads(done.out) == describe(open_stats(stats))
    assert (done.code, done.err) == (0, "")
    assert done == shark("stats", "show", stats, "--format", "json")


def test_show_ranks_fields_with_bars_by_score(shark, stats, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = shark("stats", "show", stats).out.splitlines()
    assert lines[0].split() == ["field", "table", "score", "share"]
    assert [line.split()[0] for line in lines[1:4]] == ["user", "item", "friend"]
    assert [line.count("█") for line in lines[1:4]] == [40, 20, 8]


def test_bars_fit_the_terminal(shark, stats, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = shark("stats", "show", stats).out.split("\n\n")[0].splitlines()
    assert max(map(len, lines)) <= 60
    monkeypatch.setenv("COLUMNS", "10")
    assert shark("stats", "show", stats).out.splitlines()[1].count("█") == 8


def test_show_has_use_and_quantiles_of_every_table(shark, stats):
    _, tables, quantiles = shark("stats", "show", stats).out.split("\n\n")
    assert [line.split()[0] for line in tables.splitlines()] == ["table", ITEM, USER]
    assert "499,500" in tables
    assert quantiles.splitlines()[2].split() == [USER, "count", "500", "900", "990", "999", "999"]


def test_show_a_file_with_counts_alone(shark, tmp_path):
    path = save_stats(tmp_path / "s.safetensors", {"tables/t/count": np.arange(3)})
    done = shark("stats", "show", path)
    assert done.code == 0
    assert done.out.startswith("table")
    assert "no field scores" in done.err


def test_show_csv_has_a_line_for_each_value(shark, stats):
    header, *rows = csv.reader(io.StringIO(shark("stats", "show", stats, "--format", "csv").out))
    assert header == ["kind", "name", "quantity", "value"]
    assert ["field", "user", "score", "0.5"] in rows
    assert ["table", USER, "priority 99", "990.0"] in rows


def test_show_markdown_is_tables(shark, stats):
    out = shark("stats", "show", stats, "--format", "markdown").out
    for grid in out.strip().split("\n\n"):
        lines = grid.splitlines()
        assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "█" not in out


def test_show_quiet_leaves_the_tables_alone(shark, stats):
    done = shark("stats", "show", stats, "-q")
    assert (done.err, done.out) == ("", shark("stats", "show", stats).out)


def test_a_terminal_without_blocks_gets_other_bars(spawn, stats):
    done = spawn("stats", "show", stats, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.code == 0
    assert "####" in done.out


def test_names_dont_reach_the_terminal_raw(shark, tmp_path):
    arrays = {"fields/a\x1b[31m/score": np.array([1.0]), "tables/\x1b]0;x/count": np.arange(3)}
    done = shark("stats", "show", save_stats(tmp_path / "s", arrays))
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize("raw", [b"", b"mine", b"\xff" * 100])
def test_show_a_file_that_is_no_stats(shark, tmp_path, raw):
    (tmp_path / "s").write_bytes(raw)
    check(shark("stats", "show", tmp_path / "s"), FAILED, "not a stats file")


def test_show_a_file_that_is_not_there(shark, tmp_path):
    check(shark("stats", "show", tmp_path / "gone"), FAILED, "gone: no such stats file")


# --- merge -----------------------------------------------------------------------------------


@pytest.fixture
def days(tmp_path):
    """Two stats files of one table."""
    return [
        save_stats(tmp_path / name, {"tables/t/count": np.array(count)}, {"f": "t"})
        for name, count in (("mon", [4, 0]), ("tue", [0, 8]))
    ]


@pytest.mark.parametrize("options", [[], ["--decay", "0.25"]])
def test_merge_writes_what_the_function_writes(shark, days, out, tmp_path, options):
    done = shark("stats", "merge", *days, "-o", out, *options)
    assert done.code == 0
    merge_stats(days, tmp_path / "same", *map(float, options[1:]))
    assert out.read_bytes() == (tmp_path / "same").read_bytes()
    assert f"{out}: 2 files merged" in done.err


def test_merge_tells_what_each_file_counts(shark, days, out):
    done = shark("stats", "merge", *days, "-o", out, "--decay", "0.25", "--json")
    found = json.loads(done.out)
    assert found["out"] == str(out)
    assert [one["share"] for one in found["files"]] == [0.75, 0.25]
    lines = shark("stats", "merge", *days, "-o", out, "--overwrite").out.splitlines()
    assert [line.split() for line in lines[1:]] == [[str(day), "1"] for day in days]


def test_merge_tells_what_it_assumed(shark, out, tmp_path):
    files = [save_stats(tmp_path / name, {"fields/f/score": np.ones(1)}, {}) for name in "ab"]
    done = shark("stats", "merge", *files, "-o", out, "-v")
    assert "note: no weight known, so files weigh alike in fields/f/score" in done.err
    assert "array       fields/f/score" in done.err


def test_merge_replaces_an_input_when_told(shark, days, tmp_path):
    check(shark("stats", "merge", *days, "-o", days[0]), FAILED, "mon: exists; --overwrite")
    assert shark("stats", "merge", *days, "-o", days[0], "--overwrite", "-q").code == 0
    assert open_stats(days[0]).count("t").tolist() == [4, 8]
    assert names(tmp_path) == ["mon", "tue"]


def test_merge_never_replaces_another_file(shark, days, tmp_path):
    (tmp_path / "mine").write_text("mine")
    done = shark("stats", "merge", *days, "-o", tmp_path / "mine", "--overwrite")
    check(done, FAILED, "mine: exists, and is not a stats file")
    assert (tmp_path / "mine").read_text() == "mine"


def test_merge_of_files_that_dont_fit_names_both(shark, days, out, tmp_path):
    other = save_stats(tmp_path / "other", {"tables/t/count": np.arange(3)})
    done = shark("stats", "merge", days[0], other, "-o", out)
    check(done, FAILED, "other: rows of table 't' differs from that of", "mon", "got 3, expected 2")
    assert not out.exists()


@pytest.mark.parametrize("decay", ["0", "-1", "1.1", "nan", "much"])
def test_a_decay_that_makes_no_sense(shark, days, out, decay):
    check(shark("stats", "merge", *days, "-o", out, "--decay", decay), USAGE, "--decay")


def test_merge_needs_files_and_a_place(shark, days, out):
    check(shark("stats", "merge", "-o", out), USAGE, "FILE")
    check(shark("stats", "merge", *days), USAGE, "--out")


# --- count -----------------------------------------------------------------------------------

FIELDS = ("--field", f"user_id={USER}", "--field", f"items={ITEM}")


def test_count_makes_stats_that_convert_takes(shark, log, checkpoint, out, tmp_path):
    options = (*FIELDS, "--label", "click", "--checkpoint", checkpoint, "-o", out)
    done = shark("stats", "count", log, *options, "-v")
    assert done.code == 0
    assert [line.split() for line in done.out.splitlines()] == [
        ["column", "table", "rows", "used", "uses", "nulls", "outside"],
        ["user_id", USER, "1,000", "3", "4", "0", "0"],
        ["items", ITEM, "500", "3", "4", "0", "0"],
    ]
    assert f"{out}: 4 samples counted" in done.err
    assert f"positive    {USER}: 2 of 4 uses" in done.err
    tiers = ("--tiers", "f32@1,int8")
    done = shark("convert", checkpoint, tmp_path / "m.shark", "--stats", out, *tiers)
    assert done.code == 0
    assert "f32 3, int8 997" in done.out


def test_count_weighs_positives_and_periods(shark, log, tmp_path):
    parquet.write_table(pa.table({"user_id": [0], "click": [True]}), tmp_path / "tue.parquet")
    weights = ("--alpha-positive", "2", "--alpha-negative", ".5", "--periods", "--beta", ".25")
    field = ("--field", "user_id=t", "--rows", "t=1000", "--label", "click")
    out = tmp_path / "s"
    assert (
        shark("stats", "count", log, tmp_path / "tue.parquet", *field, *weights, "-o", out).code
        == 0
    )
    priority = open_stats(out).priority("t")
    assert priority[[0, 1, 2, 999]].tolist() == [0.5, 3.0, 0.375, 0.375]


def test_count_writes_stats_safetensors_unless_told(shark, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = shark("stats", "count", log, "--field", "user_id=t", "--json")
    found = json.loads(done.out)
    assert found["out"] == "stats.safetensors"
    assert found["tables"]["t"] == {"rows": 1000, "used": 3, "uses": 4, "positive": None}
    assert "note: t: as long as their largest ids say" in done.err
    check(shark("stats", "count", log, "--field", "user_id=t"), FAILED, "stats.safetensors: exists")


def test_count_refuses_ids_outside_or_counts_them(shark, log, out):
    options = ("--field", "user_id=t", "--rows", "t=500", "-o", out)
    words = ["column 'user_id', row 3", "got 999, expected 0 to 499", "--bounds skip"]
    check(shark("stats", "count", log, *options), FAILED, *words)
    assert not out.exists()
    done = shark("stats", "count", log, *options, "--bounds", "skip")
    assert done.out.split()[-1] == "1"
    assert "note: column user_id: 1 ids outside t left out" in done.err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "--field"),
        (["--field", "user_id"], "COLUMN=TABLE"),
        (["--field", "=t"], "COLUMN=TABLE"),
        (["--field", "user_id="], "COLUMN=TABLE"),
        (["--field", "user_id=t", "--field", "user_id=u"], "given twice"),
        (["--field", "user_id=t", "--rows", "t"], "TABLE=N"),
        (["--field", "user_id=t", "--rows", "t=many"], "TABLE=N"),
        (["--field", "user_id=t", "--rows", "t=-5"], "TABLE=N"),
        (["--field", "user_id=t", "--rows", "t=²"], "TABLE=N"),
        (["--field", "user_id=t", "--rows", "u=5"], "no --field names table 'u'"),
        (["--field", "user_id=t", "--alpha-positive", "2"], "need --label"),
        (["--field", "user_id=t", "--beta", ".3"], "need each other"),
        (["--field", "user_id=t", "--periods"], "need each other"),
        (["--field", "user_id=t", "--periods", "--beta", "0"], "beta is a share"),
        (["--field", "user_id=t", "--periods", "--beta", "nan"], "beta is a share"),
        (["--field", "user_id=t", "--label", "click", "--alpha-negative", "-1"], "is a weight"),
        (["--field", "user_id=t", "--label", "click", "--alpha-negative", "x"], "--alpha-negative"),
        (["--field", "user_id=t", "--bounds", "wrap"], "--bounds"),
    ],
)
def test_count_options_that_make_no_sense(shark, log, out, tmp_path, options, word):
    check(shark("stats", "count", log, *options, "-o", out), USAGE, word)
    assert names(tmp_path) == ["log.parquet"]


def test_count_a_log_that_is_none(shark, out, tmp_path):
    (tmp_path / "log.csv").write_text("user_id\n5\n")
    done = shark("stats", "count", tmp_path / "log.csv", "--field", "user_id=t", "-o", out)
    check(done, FAILED, "log.csv: not a Parquet file")


def test_count_names_that_are_no_unicode_leave_nothing(spawn, log, out, tmp_path):
    done = spawn("stats", "count", log, "--field", b"user_id=\xff", "-o", out)
    check(done, FAILED, "is not Unicode text")
    assert names(tmp_path) == ["log.parquet"]


def test_a_terminal_shows_rows_being_counted(executable, log, out):
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    command = [executable, "stats", "count", log, "--field", "user_id=t", "-o", out]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=end, check=True)
    shown = os.read(terminal, 65536).decode()
    os.close(end)
    os.close(terminal)
    assert done.returncode == 0
    assert "\rcount: " in shown
    assert "/4.00 [" in shown
    assert " rows/s" in shown


@pytest.mark.parametrize("command", ["show", "merge", "count"])
def test_help_has_examples(shark, command):
    assert f"Examples:\n    sharkstore stats {command} " in shark("stats", command, "--help").out


def test_stats_alone_lists_its_commands(shark):
    assert all(name in shark("stats", "--help").out for name in ("show", "merge", "count"))
    check(shark("stats", "nonsense"), USAGE, "nonsense")
