"""`sharkstore lookup`: rows on stdout."""

import csv
import io
import json

import numpy as np
import pytest
from strategies import SAMPLE

NAME = "emb.user.weight"
ROWS = SAMPLE[NAME]


def test_rows_are_printed_in_the_order_asked(spawn, sample):
    done = spawn("lookup", sample, NAME, "7", "199", "7")
    assert (done.code, done.err) == (0, "")
    header, *lines = (line.split() for line in done.out.splitlines())
    assert header == ["id", *map(str, range(7))]
    assert [line[0] for line in lines] == ["7", "199", "7"]
    got = np.array([line[1:] for line in lines], np.float32)
    np.testing.assert_array_equal(got, ROWS[[7, 199, 7]])


def test_json_has_ids_and_rows(shark, sample):
    found = json.loads(shark("lookup", sample, NAME, 3, 14, "--json").out)
    assert found == {"table": NAME, "ids": [3, 14], "rows": ROWS[[3, 14]].tolist()}


@pytest.mark.parametrize("style", ["csv", "json"])
def test_formats_for_programs_lose_no_digit(shark, checkpoint, tmp_path, style):
    from checkpoints import USER, model

    shark("convert", checkpoint, tmp_path / "m.shark", "--tiers", "f32")
    out = shark("lookup", tmp_path / "m.shark", USER, 5, "--format", style).out
    if style == "json":
        row = json.loads(out)["rows"][0]
    else:
        row = list(csv.reader(io.StringIO(out)))[1][1:]
    np.testing.assert_array_equal(np.array(row, np.float64), model()[USER][5])


def test_markdown_is_a_table(shark, sample):
    lines = shark("lookup", sample, NAME, 3, "--format", "markdown").out.splitlines()
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {9}


def test_help_has_examples(shark):
    done = shark("lookup", "--help")
    assert "Examples:\n    sharkstore lookup model.shark emb.user.weight 3 14 15" in done.out
