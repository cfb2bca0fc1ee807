"""Nothing of the user's is overwritten; stopped jobs clean up; odd stores don't crash."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from checkpoints import USER, save
from safetensors.numpy import save_file


def test_an_input_below_the_destination_is_refused(shark, checkpoint, tmp_path):
    store = tmp_path / "m.shark"
    shark("convert", checkpoint, store)
    inner = store / "model.safetensors"
    inner.write_bytes(checkpoint.read_bytes())
    done = shark("convert", inner, store, "--overwrite")
    assert done.code == 1
    assert "holds an input" in done.err
    assert inner.exists()


def test_other_files_in_a_store_keep_it_from_being_replaced(shark, checkpoint, tmp_path):
    store = tmp_path / "m.shark"
    shark("convert", checkpoint, store)
    (store / "notes.txt").write_text("mine")
    done = shark("convert", checkpoint, store, "--overwrite")
    assert done.code == 1
    assert (store / "notes.txt").read_text() == "mine"


def test_other_files_deep_in_a_store_keep_it_from_being_replaced(shark, checkpoint, tmp_path):
    store = tmp_path / "m.shark"
    shark("convert", checkpoint, store)
    (store / "tables" / "notes.txt").write_text("mine")
    assert shark("convert", checkpoint, store, "--overwrite").code == 1
    assert (store / "tables" / "notes.txt").exists()


@pytest.mark.parametrize("place", ["m.shark", "m.shark/plan.json"])
def test_a_plan_never_goes_into_the_store(shark, checkpoint, tmp_path, place):
    store = tmp_path / "m.shark"
    shark("convert", checkpoint, store)
    done = shark("convert", checkpoint, store, "--overwrite", "--plan-out", tmp_path / place)
    assert done.code == 1
    assert "can't be written there" in done.err


def test_control_characters_in_names_stay_off_the_terminal(shark, tmp_path):
    save(tmp_path / "m.safetensors", {"emb\x1b[31m\nx": np.eye(3, dtype=np.float32)})
    done = shark("convert", tmp_path / "m.safetensors", tmp_path / "m.shark")
    assert done.code == 0
    assert "\x1b" not in done.out + done.err
    assert r"emb\x1b[31m\nx" in done.out


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_a_plan_never_replaces_what_is_no_plan(shark, checkpoint, tmp_path, options):
    before = checkpoint.read_bytes()
    arguments = ("--dry-run", "--plan-out", checkpoint, *options)
    assert shark("convert", checkpoint, tmp_path / "m.shark", *arguments).code == 1
    assert checkpoint.read_bytes() == before


def test_a_plan_that_may_have_been_edited_is_kept(shark, checkpoint, tmp_path):
    store = tmp_path / "m.shark"
    assert shark("convert", checkpoint, store, "--dry-run").code == 0
    again = shark("convert", checkpoint, store, "--dry-run")
    assert again.code == 1
    assert "may have been edited" in again.err
    assert shark("convert", checkpoint, store, "--dry-run", "--overwrite").code == 0


def test_a_terminated_job_goes_on_where_it_was(executable, tmp_path):
    rows = np.zeros((2_000_000, 32), np.float32)
    save_file({"emb": rows}, tmp_path / "m.safetensors")
    command = [executable, "convert", tmp_path / "m.safetensors", tmp_path / "m.shark"]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / ".m.shark.partial" / "work" / "journal"
    while not (journal.exists() and b"read 1" in journal.read_bytes()):
        assert job.poll() is None
        time.sleep(0.002)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 128 + signal.SIGTERM
    assert sorted(os.listdir(tmp_path)) == [".m.shark.partial", "m.safetensors"]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "going on where an earlier run stopped" in again.stderr
    assert sorted(os.listdir(tmp_path)) == ["m.safetensors", "m.shark"]


@pytest.mark.parametrize("provenance", [{"source": "x"}, {"tool": 3, "source": None}, {}])
def test_provenance_of_any_form_is_inspected(shark, checkpoint, tmp_path, provenance):
    store = tmp_path / "m.shark"
    shark("convert", checkpoint, store)
    root = store / "zarr.json"
    document = json.loads(root.read_bytes())
    document["attributes"]["sharkstore"]["provenance"] = provenance
    root.write_text(json.dumps(document))
    assert shark("inspect", store).code == 0


def test_verify_does_not_wait_for_a_pipe(shark, checkpoint, tmp_path):
    store = tmp_path / "m.shark"
    shark("convert", checkpoint, store)
    chunk = store / "tables" / USER / "0" / "c" / "0" / "0"
    chunk.unlink()
    os.mkfifo(chunk)
    done = shark("verify", store)
    assert done.code == 1
    assert "not a regular file" in done.out


def test_verify_follows_no_path_out_of_the_store(shark, checkpoint, tmp_path):
    store = tmp_path / "m.shark"
    shark("convert", checkpoint, store)
    root = store / "zarr.json"
    document = json.loads(root.read_bytes())
    document["consolidated_metadata"]["metadata"]["../outside"] = {"secret": 1}
    root.write_text(json.dumps(document))
    done = shark("verify", store)
    assert done.code == 1
    assert "node-path" in done.err


def test_drop_alone_is_refused(shark, checkpoint, tmp_path):
    done = shark("convert", checkpoint, tmp_path / "m.shark", "--drop")
    assert done.code == 1
    assert "--keep or --prune" in done.err


def test_markdown_survives_bars_in_names(shark, tmp_path):
    save(tmp_path / "m.safetensors", {"emb|x": np.eye(3, dtype=np.float32)})
    done = shark(
        "convert", tmp_path / "m.safetensors", tmp_path / "m.shark", "--format", "markdown"
    )
    assert r"emb\|x" in done.out
    lines = done.out.strip().splitlines()
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
