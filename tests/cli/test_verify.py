"""`sharkstore verify`: sound stores, damaged ones, and exit codes that scripts can use."""

import csv
import io
import json

import pytest
from checkpoints import flip_bit

CHUNK = "tables/emb.user.weight/2/c/0/0"


@pytest.fixture
def damaged(copied):
    flip_bit(copied / CHUNK)
    return copied


@pytest.mark.parametrize("flags", [[], ["--quick"]])
def test_a_sound_store_is_said_to_be_sound(shark, sample, flags):
    done = shark("verify", sample, *flags)
    assert (done.code, done.out) == (0, "")
    assert f"{sample}: sound" in done.err


def test_quiet_says_nothing_of_a_sound_store(shark, sample):
    done = shark("verify", sample, "-q")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_damage_is_exit_1_with_the_place_on_stdout(spawn, damaged):
    done = spawn("verify", damaged)
    assert done.code == 1
    assert f"{CHUNK}  bytes don't match their crc32c" in done.out
    assert "not sound" in done.err
    assert "Traceback" not in done.err


def test_damage_is_told_even_when_quiet(shark, damaged):
    done = shark("verify", damaged, "-q")
    assert done.code == 1
    assert CHUNK in done.out


def test_quick_reads_no_rows(shark, damaged):
    assert shark("verify", damaged, "--quick").code == 0


@pytest.mark.parametrize("flags", [[], ["--quick"]])
def test_a_missing_chunk_is_exit_1(shark, copied, flags):
    (copied / CHUNK).unlink()
    done = shark("verify", copied, *flags)
    assert done.code == 1
    assert CHUNK in done.out


def test_json_of_a_sound_store(shark, sample):
    done = shark("verify", sample, "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert found["sound"]
    assert found["findings"] == []
    assert not found["quick"]


def test_json_of_a_damaged_store(shark, damaged):
    done = shark("verify", damaged, "--json")
    found = json.loads(done.out)
    assert done.code == 1
    assert not found["sound"]
    assert found["findings"] == [{"where": CHUNK, "message": "bytes don't match their crc32c"}]


def test_csv_of_a_damaged_store(shark, damaged):
    done = shark("verify", damaged, "--format", "csv")
    assert list(csv.reader(io.StringIO(done.out))) == [
        ["where", "what"],
        [CHUNK, "bytes don't match their crc32c"],
    ]


def test_markdown_of_a_damaged_store(shark, damaged):
    lines = shark("verify", damaged, "--format", "markdown").out.splitlines()
    assert len(lines) == 3
    assert CHUNK in lines[2]


def test_help_has_examples(shark):
    assert "Examples:\n    sharkstore verify model.shark" in shark("verify", "--help").out
