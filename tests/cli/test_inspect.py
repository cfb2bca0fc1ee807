"""`sharkstore inspect`: a store for people and for programs."""

import csv
import io
import json

import pytest
from handmade import write_view
from strategies import INT8, SAMPLE
from views import make_view

from sharkstore.encodings import parse_encoding
from sharkstore.report import describe

TABLES = [name for name in SAMPLE if name.startswith("emb")]


def test_json_is_the_description(shark, sample):
    done = shark("inspect", sample, "--json")
    assert done.code == 0
    assert json.loads(done.out) == describe(str(sample))
    assert done.err == ""


def test_format_json_is_the_same_as_json(shark, sample):
    assert shark("inspect", sample, "--format", "json") == shark("inspect", sample, "--json")


def test_every_table_and_the_total_are_shown(shark, sample):
    done = shark("inspect", sample)
    assert done.code == 0
    assert all(name in done.out for name in [*TABLES, "total"])
    assert str(describe(str(sample))["digest"]) in done.err


def test_bytes_on_disk_are_those_of_all_files(shark, sample):
    assert f"{describe(str(sample))['disk_bytes']:,} bytes" in shark("inspect", sample).err


def test_codebooks_are_parts_of_a_table(shark, tmp_path):
    view = make_view([INT8, parse_encoding("pq4.9")], 100, 6)
    store = write_view(tmp_path / "model.shark", view)
    bytes_ = 2 * 9 * 4 * 2
    (line,) = [one for one in shark("inspect", store).out.splitlines() if "codebook" in one]
    assert line.split()[:3] == ["pq4.9", "codebook", str(bytes_)]
    rows = list(csv.reader(io.StringIO(shark("inspect", store, "--format", "csv").out)))
    assert [row[1] for row in rows[1:]] == ["int8", "pq4.9", "pq4.9 codebook", "row map"]
    assert sum(int(row[4]) for row in rows[1:]) == describe(str(store))["nbytes"]


def test_quiet_leaves_the_table_alone(shark, sample):
    done = shark("inspect", sample, "-q")
    assert done.err == ""
    assert done.out == shark("inspect", sample).out


def test_csv_can_be_read_again(shark, sample):
    header, *rows = csv.reader(io.StringIO(shark("inspect", sample, "--format", "csv").out))
    assert header[0] == "table"
    assert {len(row) for row in rows} == {len(header)}
    assert {row[0] for row in rows} == set(TABLES)


def test_markdown_is_a_table(shark, sample):
    lines = shark("inspect", sample, "--format", "markdown").out.splitlines()
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert set(lines[1]) <= set("|-: ")


def test_a_store_with_nothing_but_dropped_tables_is_shown(shark, checkpoint, tmp_path):
    store = tmp_path / "m.shark"
    prune = ("--prune", "emb.user.weight", "--prune", "emb.item.weight", "--drop")
    assert shark("convert", checkpoint, store, *prune).code == 0
    done = shark("inspect", store)
    assert done.code == 0
    assert "emb.user.weight" in done.err


def test_pruned_tables_and_scores_are_shown(shark, checkpoint, stats, tmp_path):
    store = tmp_path / "m.shark"
    shark("convert", checkpoint, store, "--stats", stats, "--keep", 1)
    out = shark("inspect", store).out
    assert "pruned" in out
    assert "0.5" in out


def test_help_has_examples(shark):
    assert "Examples:\n    sharkstore inspect model.shark" in shark("inspect", "--help").out


@pytest.mark.parametrize("style", ["xml", "", "JSON"])
def test_an_unknown_format_is_a_usage_error(shark, sample, style):
    done = shark("inspect", sample, "--format", style)
    assert done.code == 2
    assert "'human', 'json', 'csv', 'markdown'" in done.err


def test_a_pipe_that_closes_early_is_no_crash(executable, sample):
    import subprocess

    with subprocess.Popen(
        [executable, "inspect", sample], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 1
    assert err == b""
